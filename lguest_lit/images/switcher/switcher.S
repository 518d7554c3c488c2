/* The Switcher: the only code that is at home in both worlds.
 *
 * To leave the Host for a Guest, a CPU has to change its page tables, its GDT, its IDT, its TSS, its stack and all
 * its registers, and it has to keep executing instructions while it does. The trick is a page of code that lies at
 * the same virtual address (0xFFC00000) on both sides: when CR3 changes under it, the next instruction is still
 * there.
 *
 * There are three parts. switch_to_guest goes in. Then come two ways out (and one way of pretending that nothing
 * happened). Last come 256 tiny stubs, one for each thing that can interrupt a Guest.
 *
 * Two pages follow the code, "struct lguest_pages"; switcher.h has its offsets. While we use the Host's page
 * tables, page 0 is a scratch page and page 1 can be written. Under the Guest's page tables the same addresses show
 * the Guest's own registers (page 0), and page 1 has become read-only: a Guest which could edit its GDT would be
 * the Host.
 *
 * Built with -DJUNE_2007 you get the form of that June; without it, the one that was repaired that autumn (2.6.23),
 * and once more here, for the sake of NMIs.
 */
#include "switcher.h"

	.text
	.globl start_switcher_text
start_switcher_text:

/* switch_to_guest: the way in.
 *
 * The Host has pushed its flags and made a far call, so its stack now reads EIP, CS, EFLAGS from the top down:
 * exactly what an interrupt would have left. Remember this; it pays off twice. In the registers:
 *	eax	address of this CPU's lguest_pages
 *	ebx	physical address of the (shadow) page directory which the Guest is to run on
 * Interrupts are off. Non-maskable interrupts, as their name says, are not: at no point may there be a bad stack.
 */
	.globl switch_to_guest
switch_to_guest:
	/* The Host does not expect eax, ebx, ecx, edx, esi and edi back. The rest we keep on its stack... */
	pushl	%es
	pushl	%ds
	pushl	%gs
	pushl	%fs
	pushl	%ebp
	/* ... and the stack in the read-only page, which we can still write, because these are the Host's page
	 * tables. */
	movl	%esp, PAGES_HOST_SP(%eax)

	/* Our stack from here on is the start of the register page: popping it will fill the registers. At the moment
	 * it is only the scratch page, but it is real memory, and an NMI has room to push below it. */
	movl	%eax, %edx
	addl	$PAGES_REGS, %edx
	movl	%edx, %esp

	/* The Guest's descriptor tables. The segment registers keep what they have cached from the Host's. */
#ifdef JUNE_2007
	/* An NMI between these two finds the Host's gate, and with it the Host's CS, in the Guest's GDT: ring 1 there. */
	lgdt	PAGES_GUEST_GDT_DESC(%eax)
	lidt	PAGES_GUEST_IDT_DESC(%eax)
#else
	/* Gates first: they lead to LGUEST_CS, which is in either GDT. */
	lidt	PAGES_GUEST_IDT_DESC(%eax)
	lgdt	PAGES_GUEST_GDT_DESC(%eax)
#endif

	/* The TSS tells the CPU which stack to take when the Guest is interrupted. Loading it makes the CPU write
	 * "busy" into the Guest's GDT; soon that page is read-only, so it has to be now. */
	movl	$TSS_SELECTOR, %edx
	ltr	%dx

	/* The Host's TSS descriptor is still marked busy, and a busy TSS cannot be loaded: on the way back, that
	 * would be a fault with nobody to take it. Nor will the Host's GDT be in sight by then. Clear the mark. */
	movl	PAGES_HOST_GDT_BASE(%eax), %edx
	andb	$TSS_NOT_BUSY, TSS_TYPE_BYTE(%edx)

	/* Over we go. After this instruction the register page is the Guest's own. */
	movl	%ebx, %cr3

	/* All its registers, in the order in which they lie in struct lguest_regs. */
	popl	%ebx
	popl	%ecx
	popl	%edx
	popl	%esi
	popl	%edi
	popl	%ebp
	popl	%gs
	popl	%eax
	popl	%fs
	popl	%ds
	popl	%es

	/* trapnum and errcode say why the Guest stopped last time. Nobody asks for them on the way in. */
	addl	$8, %esp

	/* What is left on the stack is EIP, CS, EFLAGS, ESP, SS: the frame of an interrupt that came from ring 1
	 * (or 3). So we return from an interrupt that never happened, and the Guest runs. */
	iret

/* SWITCH_TO_HOST: the way back, the part that both exits share.
 *
 * The CPU has found a stack through the Guest's TSS: it is the end of the register page. There it has pushed SS, ESP,
 * EFLAGS, CS, EIP (and perhaps an error code), right into their slots in struct lguest_regs. The stub has filled in
 * errcode and trapnum. The other eleven registers are ours to save.
 */
.macro SWITCH_TO_HOST
	/* The mirror image of the pops above. */
	pushl	%es
	pushl	%ds
	pushl	%fs
	pushl	%eax
	pushl	%gs
	pushl	%ebp
	pushl	%edi
	pushl	%esi
	pushl	%edx
	pushl	%ecx
	pushl	%ebx

	/* DS is whatever the Guest had in it. We need one that works. */
	movl	$LGUEST_DS, %eax
	movl	%eax, %ds

	/* Where are our two pages? The stack knows: it lies in the first of them. */
	movl	%esp, %eax
#ifdef JUNE_2007
	/* June 2007: we have just pushed everything, so ESP must be at the start of lguest_regs. Mustn't it? */
	subl	$PAGES_REGS, %eax
#else
	/* No. If the fault was our own (popping a segment register that the Guest has spoilt), we were in ring 0
	 * already, no stack was switched, and there is more on the stack than one frame. But it is still that page. */
	andl	$0xFFFFF000, %eax
#endif

	/* Read the trap number while we can: on the other side this address shows a different page. */
	movl	PAGES_REGS_TRAPNUM(%eax), %ebx

	/* Back we go. */
	movl	PAGES_HOST_CR3(%eax), %edx
	movl	%edx, %cr3

	/* Now page 1 can be written again, and it is our turn to mark a TSS as available: the Guest's, for next
	 * time. */
	andb	$TSS_NOT_BUSY, (PAGES_GUEST_GDT + TSS_TYPE_BYTE)(%eax)

	/* The Host's tables, its stack, its TSS, and what it had saved on that stack. */
	lgdt	PAGES_HOST_GDT_DESC(%eax)
	lidt	PAGES_HOST_IDT_DESC(%eax)
	movl	PAGES_HOST_SP(%eax), %esp
	movl	$TSS_SELECTOR, %edx
	ltr	%dx
	popl	%ebp
	popl	%fs
	popl	%gs
	popl	%ds
	popl	%es
.endm

/* return_to_host: the Guest did something, a trap. On top of the Host's stack is what its own pushf and far call
 * left: an interrupt frame. We pop it, and the Host goes on as if it had made an ordinary call.
 */
	.globl return_to_host
return_to_host:
	SWITCH_TO_HOST
	iret

/* deliver_to_host: a real interrupt, a disk perhaps, and it was meant for the Host. The CPU has acknowledged it and
 * will not repeat it, so we must see that the Host's handler runs. Its address is cut in two halves in the Host's
 * IDT: bits 0-15 in the first word of the gate, bits 16-31 in the second.
 *
 * We jump there, for which the CPU has no instruction called "interrupt yourself with number ebx". But then none is
 * needed: the stack holds an interrupt frame, interrupts are off, and when the handler returns from its interrupt,
 * it returns to the Host at the place where the Guest was called. (There it pays off a second time.)
 */
	.globl deliver_to_host
deliver_to_host:
	SWITCH_TO_HOST
	movl	PAGES_HOST_IDT_BASE(%eax), %ecx
	movl	4(%ecx,%ebx,8), %edx		/* upper half of the address, and the gate's type below it */
	movw	(%ecx,%ebx,8), %dx		/* lower half over the type */
	jmp	*%edx

/* handle_nmi: usually the sign of a profiler at work, or of a machine on fire. It can come at any instruction, even
 * half-way through this file, where there is no telling which world we are in. So: forget the two words from the
 * stub, and go straight back.
 */
	.globl handle_nmi
handle_nmi:
	addl	$8, %esp
	iret

/* The stubs. By the time the CPU gets here it has forgotten which vector brought it, so each vector needs a doorway
 * of its own. Some traps make the CPU push an error code; for the others we push a zero, and all frames look alike.
 *
 * The address of each stub goes into a table that is kept out of the text. These 256 words are the only absolute
 * addresses in the file: after the text has been copied to 0xFFC00000, map_switcher() has to correct them. [H:010]
 *
 * Mind the size: "push $127" takes two bytes, "push $128" takes five, because the short form holds a signed byte.
 */
.macro STUB vector, target, has_error_code
	.section .data
	.long	1f
	.text
	.balign	4, 0x90
1:
	.if	\has_error_code == 0
	pushl	$0
	.endif
	pushl	$\vector
	jmp	\target
.endm

.macro STUBS first, last, target, has_error_code=0
	.set	.Lnumber, \first
	.rept	\last - \first + 1
	STUB	.Lnumber, \target, \has_error_code
	.set	.Lnumber, .Lnumber + 1
	.endr
.endm

	.section .data
	.balign	4
	.globl default_idt_entries
default_idt_entries:
	.text
	STUBS	0, 1, return_to_host		/* divide error, debug */
	STUBS	2, 2, handle_nmi
	STUBS	3, 7, return_to_host
	STUBS	8, 8, return_to_host, 1		/* double fault */
	STUBS	9, 9, return_to_host
	STUBS	10, 14, return_to_host, 1	/* TSS, segment, stack, general protection, page fault */
	STUBS	15, 16, return_to_host
	STUBS	17, 17, return_to_host, 1	/* alignment check */
	STUBS	18, 31, return_to_host		/* ... and 31, the hypercall */
	STUBS	32, 127, deliver_to_host	/* the Host's devices */
	STUBS	128, 128, return_to_host	/* a system call which the Guest's IDT does not take directly */
	STUBS	129, 255, deliver_to_host

	.globl end_switcher_text
end_switcher_text:
