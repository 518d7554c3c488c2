/* The Host kernel's own few instructions.
 *
 * Our Host is written in Python, but the CPU does not speak Python. Whatever the CPU itself must do while it is in
 * the Host stands here: call the Switcher, take interrupts, and stop, which is how it hands over to Python.
 * Everything runs in ring 0, with interrupts off unless a line says otherwise.
 *
 * The Host's memory appears at 0xC0000000, so this image, linked at 0xC0001000, lies at physical address 0x1000. It
 * ends before 0x3000: a page of code and a page of data. (A page of each, because an emulator that translates code
 * must look twice at every store into a page that holds some.)
 */
#define KERNEL_DS		0x68		/* GDT entry 13, ring 0: the Host's data and stack */
#define CR0_TS			8		/* the next use of the FPU traps */

	.text
	.globl host_code_start
host_code_start:

/* run_guest_once: called by Python, which puts the address of lguest_pages in eax and the physical address of the
 * shadow page directory in ebx, points EIP here and lets the CPU go.
 *
 * Push the flags; then the far call pushes CS and EIP, and changes CS to LGUEST_CS. Three words in the order EIP,
 * CS, EFLAGS: the Switcher leaves the Host with a stack that looks as if an interrupt had come in.
 */
	.globl run_guest_once
run_guest_once:
	pushfl
	lcall	*lguest_entry

	/* Back again, perhaps much later. Only EBP, ESP and the segment registers have survived, and SS only
	 * nearly: the CPU found LGUEST_DS in the Guest's TSS, and an iret that stays in ring 0 leaves SS alone.
	 * LGUEST_DS is flat and good enough to work with; the Host of 2007 never noticed. We prefer to leave the
	 * room as we found it. */
	.globl guest_stopped
guest_stopped:
	movl	$KERNEL_DS, %eax
	movl	%eax, %ss

	/* Over to Python. The next run starts at the top. */
	hlt
	.globl run_guest_once_done
run_guest_once_done:
	jmp	run_guest_once

/* irq_window: the Host opens the door for a moment, so that interrupts which are waiting can come in. The
 * instruction after sti is still protected; so there is one to spare.
 */
	.globl irq_window
irq_window:
	sti
	nop
	cli
	hlt
	.globl irq_window_done
irq_window_done:
	jmp	irq_window

/* Interrupts (and NMIs) are served in the shortest way that can be seen from outside: one is added to a counter. This
 * touches no register but the flags, and iret brings those back. SS is the one data segment that is good wherever an
 * interrupt may hit, even with the segment registers half changed.
 */
.macro COUNT vector
	.section .data.idt, "aw"
	.long	1f
	.text
	.balign	4, 0x90
1:	incl	%ss:host_irq_count + 4*\vector
	iret
.endm

/* An exception in the Host is a bug in the Host. Write down which, with the error code, and stop for good. EIP, CS
 * and EFLAGS of the culprit are left on the stack.
 */
.macro OOPS vector, has_error_code
	.section .data.idt, "aw"
	.long	1f
	.text
	.balign	4, 0x90
1:
	.if	\has_error_code == 0
	pushl	$0
	.endif
	pushl	$\vector
	jmp	host_oops_handler
.endm

.macro OOPSES first, last, has_error_code=0
	.set	.Lnumber, \first
	.rept	\last - \first + 1
	OOPS	.Lnumber, \has_error_code
	.set	.Lnumber, .Lnumber + 1
	.endr
.endm

.macro COUNTS first, last
	.set	.Lnumber, \first
	.rept	\last - \first + 1
	COUNT	.Lnumber
	.set	.Lnumber, .Lnumber + 1
	.endr
.endm

	.globl host_oops_handler
host_oops_handler:
	popl	%ss:host_oops
	popl	%ss:host_oops_error
	.globl host_halted
1:	hlt
host_halted:
	jmp	1b

/* One address for each vector, in this order; Python makes the Host's IDT of them. */
	.section .data.idt, "aw"
	.balign	4
	.globl host_idt_entries
host_idt_entries:
	.text
	OOPSES	0, 1
	COUNTS	2, 2				/* NMI */
	OOPSES	3, 7
	OOPSES	8, 8, 1
	OOPSES	9, 9
	OOPSES	10, 14, 1
	OOPSES	15, 16
	OOPSES	17, 17, 1
	OOPSES	18, 31
	COUNTS	32, 255

/* The FPU's registers are too many to be moved at each change of tasks, so they stay in the CPU until another task
 * asks for them by using them, which traps while TS is set. unlazy_fpu: the task whose they are gives them up.
 */
	.globl unlazy_fpu
unlazy_fpu:
	clts					/* or fxsave would trap itself */
	fxsave	fpu_image
	movl	%cr0, %eax
	orl	$CR0_TS, %eax
	movl	%eax, %cr0
	hlt
	.globl unlazy_fpu_done
unlazy_fpu_done:
	jmp	unlazy_fpu

/* math_state_restore: another one gets its own back, and no more traps. */
	.globl math_state_restore
math_state_restore:
	clts
	fxrstor	fpu_image
	hlt
	.globl math_state_restore_done
math_state_restore_done:
	jmp	math_state_restore

	.globl host_code_end
host_code_end:

	.section .data, "aw"
	.balign	8
	.globl host_data_start
host_data_start:

/* Where the Switcher is, for the far call: an offset and a selector. map_switcher() fills it in. [H:010] */
	.globl lguest_entry
lguest_entry:
	.long	0
	.word	0
	.balign	4

/* The vector of the exception that stopped the Host, or -1 for "all is well"; and the error code that came with it. */
	.globl host_oops
host_oops:
	.long	-1
	.globl host_oops_error
host_oops_error:
	.long	0

/* How often each vector was served. */
	.globl host_irq_count
host_irq_count:
	.fill	256, 4, 0

/* The registers of the FPU, MMX and SSE on their way in or out. fxsave wants a multiple of 16. */
	.balign	16
	.globl fpu_image
fpu_image:
	.fill	512, 1, 0
	.globl host_data_end
host_data_end:
