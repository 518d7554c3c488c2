/* The program that the first Guest runs, twice: ring 3, no privileges, no idea that its kernel is a Guest.
 *
 * Both processes use the same addresses. If the page tables are right, neither will ever see what the other has put
 * there.
 */
#include "small.h"
#include "process.h"

static u32 system_call(u32 call, u32 arg1, u32 arg2, u32 arg3)
{
	asm volatile("int $0x80" : "+a"(call) : "b"(arg1), "c"(arg2), "d"(arg3) : "memory");
	return call;
}

/* One address, as many values as there are processes. This page is copied from the program's file... */
static volatile u32 my_number = 0xFEED;
/* ... and this one starts out as zeros. */
static volatile u32 counter;

static void say(const char *text, ...)
{
	char line[200];
	__builtin_va_list args;
	__builtin_va_start(args, text);
	system_call(SYS_WRITE, 1, (u32)line, format(line, sizeof(line), text, args));
	__builtin_va_end(args);
}

static void count(u32 n)
{
	while (n--)
		counter++;
}

/* Take another page from the kernel, and write into it. The kernel only finds a page for us when we touch it. After
 * eight pages we return them all. */
static void use_memory(void)
{
	static u32 start, end;

	if (!start)
		start = end = system_call(SYS_BRK, 0, 0, 0);
	if (end == start + 8 * PAGE_SIZE)
		end = system_call(SYS_BRK, start, 0, 0);
	end = system_call(SYS_BRK, end + PAGE_SIZE, 0, 0);
	*(volatile u32 *)(end - 4) = my_number;
}

/* What a well-behaved program does not do. "bad=N" on the kernel's command line makes the last process do it. */
static void misbehave(u32 how)
{
	switch (how) {
	case 1: *(volatile u32 *)PAGE_OFFSET; break;			/* read the kernel's memory */
	case 2: *(volatile u32 *)0 = 0; break;				/* write to a page that does not exist */
	case 3: *(volatile u32 *)&system_call = 0; break;		/* write to one's own code */
	case 4: asm volatile("cli"); break;				/* switch the interrupts off */
	case 5: asm volatile("divl %0" : : "r"(0) : "eax", "edx"); break;
	case 6: asm volatile("ud2"); break;				/* no instruction at all */
	case 7: asm volatile("int3"); break;
	case 8: asm volatile("int $0x1f" : : "a"(2), "d"(0)); break;	/* crash the Guest with a hypercall */
	case 9: asm volatile("inb $0x71, %%al" : : : "al"); break;	/* talk to the hardware */
	case 10: system_call(SYS_EXIT, 0, 0, 0); break;			/* (this is allowed) */
	}
}

/* The kernel starts us here, with our number in eax and the mischief we are to do in edx. */
__attribute__((regparm(2), noreturn)) void start(u32 me, u32 mischief)
{
	for (u32 round = 0;; round++) {
		if (round == 0)
			say("process %u: at 0x%x I find 0x%x; I put my number there\n", me, (u32)&my_number, my_number);
		else if (my_number != me)
			say("process %u: at 0x%x there is 0x%x. Who has been here?\n", me, (u32)&my_number, my_number);
		my_number = me;

		count(10000);
		use_memory();
		system_call(SYS_GETPID, 0, 0, 0);

		if (round < 3) {
			say("process %u: still my number there, and I have counted to %u\n", my_number, counter);
			system_call(SYS_SLEEP, 1, 0, 0);
		} else if (round == 3) {
			misbehave(mischief);
			say("process %u: now quietly on, until the power goes\n", me);
		} else if (round % 64 == 0) {
			system_call(SYS_SLEEP, 1, 0, 0);
		} else if (round % 8 == 0) {
			system_call(SYS_YIELD, 0, 0, 0);
		}
	}
}
