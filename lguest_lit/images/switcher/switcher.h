/* Numbers the Switcher shares with the Host: one a line, so that both the assembler and a Python test can read them.
 *
 * The Switcher is position independent and knows its surroundings only by offsets: everything it touches is found
 * from the address of this CPU's "struct lguest_pages", two pages side by side.
 */

/* Segments. The Host's GDT and every Guest's GDT hold the same two entries 10 and 11, so CS and SS outlive the
 * switch. */
#define LGUEST_CS		0x50		/* GDT entry 10, ring 0: code */
#define LGUEST_DS		0x58		/* GDT entry 11, ring 0: data and stack */
#define TSS_SELECTOR		0x80		/* GDT entry 16, in the Host's GDT and in the Guest's */

/* A busy TSS descriptor is one that a CPU has loaded. The type lives in byte 5 of the descriptor, busy is its bit 1. */
#define TSS_TYPE_BYTE		0x85		/* 16*8 + 5: where that byte lies in a GDT */
#define TSS_NOT_BUSY		0xFD		/* all bits but bit 1: 0x8B (busy) becomes 0x89 (available) */

/* Page 0 of lguest_pages: the Guest's registers at its very end, so that an interrupt pushes straight into them. */
#define PAGES_REGS		0x0FB8		/* struct lguest_regs, 72 bytes: 0x0FB8 to 0x0FFF */
#define PAGES_REGS_TRAPNUM	0x0FE4		/* lguest_regs.trapnum, 44 bytes in */

/* Page 1: what the Switcher needs and the Guest may only read, struct lguest_ro_state. */
#define PAGES_HOST_CR3		0x1000		/* the Host's page directory */
#define PAGES_HOST_IDT_DESC	0x1004		/* what lidt wants: u16 limit, u32 base */
#define PAGES_HOST_IDT_BASE	0x1006
#define PAGES_HOST_GDT_DESC	0x100C		/* what lgdt wants: u16 limit, u32 base */
#define PAGES_HOST_GDT_BASE	0x100E
#define PAGES_HOST_SP		0x1014		/* the Host's stack pointer while the Guest runs */
#define PAGES_GUEST_IDT_DESC	0x1018
#define PAGES_GUEST_GDT_DESC	0x1020
#define PAGES_GUEST_GDT		0x1890		/* guest_gdt[32] itself */
