/* What a Guest and its Host have agreed upon, June 2007. For C and for assembler. */
#ifndef LGUEST_H
#define LGUEST_H

#define PAGE_OFFSET		0xC0000000	/* where the Guest kernel sees physical address 0 */
#define PAGE_SIZE		4096

/* A hypercall is "int $0x1f" with its number in eax and up to three arguments in edx, ebx, ecx. All addresses in
 * arguments are Guest-physical, except where it says "virtual". Only GET_WALLCLOCK and BIND_DMA answer, in eax. */
#define LGUEST_TRAP_ENTRY	0x1F

#define LHCALL_FLUSH_ASYNC	0		/* do what is in the ring (any call does; this one does nothing else) */
#define LHCALL_LGUEST_INIT	1		/* lguest_data: must be the first call, and only the first */
#define LHCALL_CRASH		2		/* message: the last call */
#define LHCALL_LOAD_GDT		3		/* table, number of entries */
#define LHCALL_NEW_PGTABLE	4		/* page directory */
#define LHCALL_FLUSH_TLB	5		/* 0: forget the user mappings of the current page directory; 1: everything */
#define LHCALL_LOAD_IDT_ENTRY	6		/* vector, low word, high word */
#define LHCALL_SET_STACK	7		/* ss, esp (virtual), number of pages: the kernel's stack */
#define LHCALL_TS		8		/* 0 or not: trap when the FPU is used */
#define LHCALL_SET_CLOCKEVENT	9		/* nanoseconds until interrupt 0 comes, once; 0: never mind */
#define LHCALL_HALT		10		/* sleep until there is an interrupt */
#define LHCALL_GET_WALLCLOCK	11		/* returns seconds since 1970 */
#define LHCALL_BIND_DMA		12		/* key, array of lguest_dma, number << 8 | irq: returns 1 if it worked */
#define LHCALL_SEND_DMA		13		/* key, lguest_dma */
#define LHCALL_SET_PTE		14		/* page directory, virtual address, new entry */
#define LHCALL_SET_PMD		15		/* page directory, index of the entry that has changed */
#define LHCALL_LOAD_TLS		16		/* three descriptors */

/* Selectors. A Guest kernel lives in ring 1, so the lowest two bits of its selectors are 1; its users are in ring 3. */
#define GDT_ENTRIES		32
#define KERNEL_CS		0x61		/* GDT entry 12 */
#define KERNEL_DS		0x69		/* GDT entry 13 */
#define USER_CS			0x73		/* GDT entry 14 */
#define USER_DS			0x7B		/* GDT entry 15 */

#define IRQ_VECTOR		32		/* interrupt n arrives at vector 32 + n; 0 is the clock */
#define IRQS			32
#define SYSCALL_VECTOR		128

#define LHCALL_RING_SIZE	64
#define LGUEST_CONSOLE_DMA_KEY	0
#define LGUEST_DMA_SECTIONS	16
#define LGUEST_DEVICES		16

/* Offsets in struct lguest_data, for assembler. */
#define LGUEST_DATA_IRQ_ENABLED	0
#define LGUEST_DATA_STATUS	12
#define LGUEST_DATA_SIZE	1120

#ifndef __ASSEMBLER__
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;

/* A page of the Guest's that both sides read and write. The Guest says where it is (LGUEST_INIT). */
struct lguest_data {
	/* This is the interrupt flag: 0x200 or 0. The real one in EFLAGS is out of a Guest's reach. */
	u32 irq_enabled;			/*    0 */
	/* Interrupts which we would rather not have: a bit each. */
	u32 blocked_interrupts;			/*    4 */
	/* The address of the last page fault, which a real machine would leave in register CR2. Host writes. */
	u32 cr2;				/*    8 */

	/* The ring of hypercalls that can wait. 0xFF: free. 0: to be done. */
	u8 hcall_status[LHCALL_RING_SIZE];	/*   12 */
	struct hcall { u32 eax, edx, ebx, ecx; } hcalls[LHCALL_RING_SIZE];	/* 76 */

	/* Written by the Host at LGUEST_INIT. */
	u32 reserve_mem;			/* 1100: so much of the top of the address space is not for us */
	u16 guestid;				/* 1104: the how many-eth Guest we are */
	u32 tsc_khz;				/* 1108: how fast the time stamp counter runs, 0 if that cannot be said */

	/* Read by the Host at LGUEST_INIT: no interrupts, please, while EIP is from here (inclusive) to here
	 * (exclusive). */
	u32 noirq_start, noirq_end;		/* 1112, 1116 */
};

/* A list of pieces of memory to be sent or filled. No piece may cross the end of a page. */
struct lguest_dma {
	u32 used_len;				/* 0: free. The other side puts the number of bytes here */
	u32 addr[LGUEST_DMA_SECTIONS];
	u16 len[LGUEST_DMA_SECTIONS];		/* 0 ends the list */
};

/* The page above the end of memory holds an array of these. Device number i has interrupt i + 1. */
struct lguest_device_desc {
	u16 type;				/* 0: no device. 1: console, 2: network, 3: disk */
	u16 features;
	u16 status;
	u16 num_pages;
	u32 pfn;
};
#define LGUEST_DEVICE_T_CONSOLE		1
#define LGUEST_DEVICE_S_ACKNOWLEDGE	1	/* status: "I have seen it" */
#define LGUEST_DEVICE_S_DRIVER		2	/* "I know what it is" */
#define LGUEST_DEVICE_S_DRIVER_OK	4	/* "and it works" */
#define LGUEST_DEVICE_S_FAILED		128	/* "and it does not" */

static inline u32 hypercall(u32 call, u32 arg1, u32 arg2, u32 arg3)
{
	asm volatile("int $0x1f" : "+a"(call) : "d"(arg1), "b"(arg2), "c"(arg3) : "memory");
	return call;
}
#endif /* __ASSEMBLER__ */
#endif /* LGUEST_H */
