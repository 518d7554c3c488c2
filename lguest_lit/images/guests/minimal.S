/* The smallest useful Guest: it introduces itself, says hello, and switches itself off. */
#include "lguest.h"

	/* The Launcher looks for these thirteen letters, and starts us right behind them. They could be an
	 * instruction or two by themselves ("G" is "inc %edi"), but nobody ever comes this way. */
	.section .head, "ax"
	.ascii	"GenuineLguest"

	/* We are in ring 1, every register is zero, and there is no stack. There are page tables, though: they show
	 * the memory at PAGE_OFFSET, which is where the linker thinks we are. Hypercalls want physical addresses. */
	.globl start
start:
	movl	$LHCALL_LGUEST_INIT, %eax
	movl	$lguest_data - PAGE_OFFSET, %edx
	int	$LGUEST_TRAP_ENTRY

	/* To the console goes what a list of addresses and lengths describes: here one of each. */
	movl	$LHCALL_SEND_DMA, %eax
	movl	$LGUEST_CONSOLE_DMA_KEY, %edx
	movl	$hello - PAGE_OFFSET, %ebx
	int	$LGUEST_TRAP_ENTRY

	/* There is no other way to leave; these two words say that it was meant. */
	movl	$LHCALL_CRASH, %eax
	movl	$power_down - PAGE_OFFSET, %edx
	int	$LGUEST_TRAP_ENTRY

	/* The dead don't get here. */

	.data
message:
	.ascii	"hello from the smallest Guest\n"
power_down:
	.asciz	"Power down"
	.balign	4
hello:
	.long	0, message - PAGE_OFFSET
	.fill	LGUEST_DMA_SECTIONS - 1, 4, 0
	.word	power_down - message
	.fill	LGUEST_DMA_SECTIONS - 1, 2, 0

	/* The page that we share with the Host: all zero, but no hypercall waits in the ring, so all states are
	 * "free". */
	.balign	4
lguest_data:
	.fill	LGUEST_DATA_STATUS, 1, 0
	.fill	LHCALL_RING_SIZE, 1, 0xFF
	.fill	LGUEST_DATA_SIZE - LGUEST_DATA_STATUS - LHCALL_RING_SIZE, 1, 0
