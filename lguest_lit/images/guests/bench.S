/* A Guest for experiments: the furniture that every kernel needs, and then BODY, a file with a few lines of yours.
 * You begin at "main". With BARE defined there is the marker, and no furniture: not even LGUEST_INIT has been said.
 */
#include "lguest.h"

/* hcall LHCALL_SET_PTE, $cr3, $address, $entry: immediates, registers or memory. Clobbers what it loads. */
.macro hcall number, edx, ebx, ecx
	.ifnb	\edx
	movl	\edx, %edx
	.endif
	.ifnb	\ebx
	movl	\ebx, %ebx
	.endif
	.ifnb	\ecx
	movl	\ecx, %ecx
	.endif
	movl	$\number, %eax
	int	$LGUEST_TRAP_ENTRY
.endm

/* gate vector, label [, type [, dpl]]: 0xE is an interrupt gate, 0xF a trap gate. */
.macro gate vector, handler, type=0xE, dpl=0
	movl	$\handler, %ebx
	movl	%ebx, %ecx
	andl	$0xFFFF, %ebx
	orl	$KERNEL_CS << 16, %ebx
	andl	$0xFFFF0000, %ecx
	orl	$0x8000 | (\dpl) << 13 | (\type) << 8, %ecx
	hcall	LHCALL_LOAD_IDT_ENTRY, $\vector
.endm

/* crash label: the last words. */
.macro crash text
	hcall	LHCALL_CRASH, $\text - PAGE_OFFSET
.endm

/* user label: go on there in ring 3, with a stack of its own. */
.macro user where
	movl	$USER_DS, %eax
	movl	%eax, %ds
	movl	%eax, %es
	pushl	$USER_DS
	pushl	$user_stack_top
	pushl	$0x202
	pushl	$USER_CS
	pushl	$\where
	iret
.endm

/* queue slot, number, edx, ebx, ecx: put a call into the ring. */
.macro queue slot, number, edx=$0, ebx=$0, ecx=$0
	movl	$\number, lguest_data + 76 + 16 * (\slot)
	movl	\edx, %eax
	movl	%eax, lguest_data + 76 + 16 * (\slot) + 4
	movl	\ebx, %eax
	movl	%eax, lguest_data + 76 + 16 * (\slot) + 8
	movl	\ecx, %eax
	movl	%eax, lguest_data + 76 + 16 * (\slot) + 12
	movb	$0, lguest_data + LGUEST_DATA_STATUS + (\slot)
.endm

	.section .head, "ax"
	.ascii	"GenuineLguest"
	.globl start
start:
#ifndef BARE
	movl	$stack_top, %esp
	hcall	LHCALL_LGUEST_INIT, $lguest_data - PAGE_OFFSET
	hcall	LHCALL_LOAD_GDT, $gdt - PAGE_OFFSET, $GDT_ENTRIES
	hcall	LHCALL_SET_STACK, $KERNEL_DS, $stack_top, $1
#endif
	.globl main
main:
#include BODY
	.section .head, "ax"
	crash	power_down			/* whoever comes here has nothing left to do */

	.data
power_down:
	.asciz	"Power down"
	.balign	4
	.globl lguest_data
lguest_data:
	.fill	LGUEST_DATA_STATUS, 1, 0
	.fill	LHCALL_RING_SIZE, 1, 0xFF
	.fill	LGUEST_DATA_SIZE - LGUEST_DATA_STATUS - LHCALL_RING_SIZE, 1, 0
	.balign	8
	.globl gdt
gdt:
	.fill	12, 8, 0
	.quad	0x00CF9B000000FFFF		/* kernel code and data: we say ring 0, the Host makes it ring 1 */
	.quad	0x00CF93000000FFFF
	.quad	0x00CFFB000000FFFF		/* user code and data */
	.quad	0x00CFF3000000FFFF
	.fill	16, 8, 0
	.bss
	.balign	PAGE_SIZE
	.fill	PAGE_SIZE, 1, 0
	.globl stack_top
stack_top:
	.fill	PAGE_SIZE, 1, 0
	.globl user_stack_top
user_stack_top:
