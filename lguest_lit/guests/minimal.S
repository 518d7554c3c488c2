/* The smallest useful Guest: it introduces itself, and dies. */
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

	movl	$LHCALL_CRASH, %eax
	movl	$message - PAGE_OFFSET, %edx
	int	$LGUEST_TRAP_ENTRY

	/* The dead don't get here. */

	.data
message:
	.asciz	"hello from the smallest Guest"

	/* The page that we share with the Host: all zero, but no hypercall waits in the ring, so all states are
	 * "free". */
	.balign	4
lguest_data:
	.fill	LGUEST_DATA_STATUS, 1, 0
	.fill	LHCALL_RING_SIZE, 1, 0xFF
	.fill	LGUEST_DATA_SIZE - LGUEST_DATA_STATUS - LHCALL_RING_SIZE, 1, 0
