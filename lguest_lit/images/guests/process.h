/* What the first Guest's processes may ask of their kernel: "int $0x80", number in eax, arguments in ebx, ecx, edx,
 * answer in eax. Numbers and registers are those of Linux. (Not so SYS_SLEEP: it counts ticks.) */
#define SYS_EXIT	1
#define SYS_WRITE	4		/* file (not looked at: there is only the console), text, length */
#define SYS_GETPID	20
#define SYS_BRK		45		/* new end of the heap, or 0 to ask; returns the end */
#define SYS_YIELD	158
#define SYS_SLEEP	162		/* ticks */
