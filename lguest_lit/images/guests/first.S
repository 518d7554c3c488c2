/* The first Guest: what cannot be said in C. The rest is in first.c.
 *
 * Getting in, being interrupted, going back to where we were interrupted, and changing from one process to another.
 */
#include "lguest.h"

	/* The Launcher starts us right behind these letters, in ring 1, with cs 0x61, the other segments 0x69, and
	 * zeros in everything else: no stack yet, so that comes first. esi is the physical address of the boot
	 * parameters. (Zero.) */
	.section .head, "ax"
	.ascii	"GenuineLguest"
	.globl start
start:
	movl	$boot_stack_top, %esp
	addl	$PAGE_OFFSET, %esi
	pushl	%esi
	call	kernel_main

/* Entries for everything that can interrupt us. The frame on the stack must look the same for all of them, as
 * "struct frame" in first.c has it: where the CPU has pushed no error code we push a zero, then the vector.
 *
 * For most vectors it is not the CPU that brings us here: the Host has pushed the same words onto our stack by hand
 * and set our EIP. Only direct traps, such as a system call, come straight from the CPU. We cannot tell the
 * difference, and that is how it should be.
 */
.macro TRAP vector, has_error_code=0
	.section .data
	.long	1f
	.text
	.balign	4, 0x90
1:
	.if	\has_error_code == 0
	pushl	$0
	.endif
	pushl	$\vector
	jmp	trapped
.endm

.macro TRAPS first, last, has_error_code=0
	.set	.Lvector, \first
	.rept	\last - \first + 1
	TRAP	.Lvector, \has_error_code
	.set	.Lvector, .Lvector + 1
	.endr
.endm

	.section .data
	.balign	4
	.globl trap_entries
trap_entries:					/* their addresses: 0 to 63, and then number 128 */
	.text
	TRAPS	0, 7
	TRAPS	8, 8, 1
	TRAPS	9, 9
	TRAPS	10, 14, 1
	TRAPS	15, 16
	TRAPS	17, 17, 1
	TRAPS	18, 63
	TRAPS	SYSCALL_VECTOR, SYSCALL_VECTOR

trapped:
	pushl	%gs
	pushl	%fs
	pushl	%es
	pushl	%ds
	pushal
	cld
	movl	$KERNEL_DS, %eax		/* a process can put anything into its segment registers */
	movl	%eax, %ds
	movl	%eax, %es
	pushl	%esp				/* trap(frame) */
	call	trap
	addl	$4, %esp

	/* Back to whatever it was. A new process begins its life here, on a frame that was made up for it. */
	.globl return_from_trap
return_from_trap:
	popal
	popl	%ds
	popl	%es
	popl	%fs
	popl	%gs
	addl	$8, %esp			/* vector, error code */

	/* What is left is for iret: EIP, CS, EFLAGS, and if we return to ring 3 also ESP, SS.
	 *
	 * On a real machine iret would also restore the interrupt flag. From ring 1 it does not dare, and our
	 * interrupt flag is a word in memory anyway. So we copy it there from the frame ourselves, bit 9 of EFLAGS
	 * and only that. (The DS of a process is no good for a kernel address, but the stack must be: hence the
	 * %ss.)
	 *
	 * From the moment interrupts are "on" until the iret is over, nobody may interrupt us, or the frames would
	 * pile up on this stack, one for each interrupt. The Host knows these two labels, and holds its breath
	 * between them. */
	pushl	%eax
	movl	12(%esp), %eax			/* past eax, EIP, CS */
	andl	$0x200, %eax
	.globl noirq_start
noirq_start:
	movl	%eax, %ss:lguest_data + LGUEST_DATA_IRQ_ENABLED
	popl	%eax
	iret
	.globl noirq_end
noirq_end:

/* switch_stacks(u32 *old, u32 new): the heart of a context switch. Everything that a C function must preserve goes
 * onto the old stack, then we are on the new one, and take from it what was once saved there. Returns into another
 * process's past.
 */
	.globl switch_stacks
switch_stacks:
	movl	4(%esp), %eax
	movl	8(%esp), %edx
	pushl	%ebp
	pushl	%ebx
	pushl	%esi
	pushl	%edi
	movl	%esp, (%eax)
	movl	%edx, %esp
	popl	%edi
	popl	%esi
	popl	%ebx
	popl	%ebp
	ret

/* The program that our processes run, as a whole ELF file. (The Launcher's --initrd brings another.) */
	.section .rodata, "a"
	.balign	4
	.globl built_in_program
built_in_program:
	.incbin	"process.elf"
	.globl built_in_program_end
built_in_program_end:

	.section .bss, "aw", @nobits
	.balign	4096
boot_stack:
	.skip	4096
	.globl boot_stack_top
boot_stack_top:
