/* The first Guest: an operating system that fits into one file.
 *
 * It does what every kernel does: it sets up its tables, finds its memory, takes interrupts, and runs processes,
 * each in an address space of its own. But wherever a kernel would reach for a privileged instruction, this one
 * asks its Host. Look for the word "hypercall": those are all the places.
 *
 * One rule makes the whole simple: the kernel does its work with interrupts off. They are on while a process runs
 * and while there is nothing to do. What comes in between waits.
 */
#include "small.h"
#include "process.h"

#define PHYS(p)		((u32)(p) - PAGE_OFFSET)		/* what the Host calls it */
#define VIRT(phys)	((void *)((phys) + PAGE_OFFSET))	/* where we see it */
#define PAGE_UP(x)	(((x) + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1))

/* first.S */
extern u32 trap_entries[65];
extern u8 noirq_start[], noirq_end[], boot_stack_top[], return_from_trap[];
extern u8 built_in_program[], built_in_program_end[];
void switch_stacks(u32 *old, u32 new);
/* guest.ld */
extern u8 kernel_end[];

/* ---- The page that we share with the Host -------------------------------------------------------------------- */

volatile struct lguest_data lguest_data = {
	.blocked_interrupts = 1,			/* no clock until we are ready for it */
	.hcall_status = { [0 ... LHCALL_RING_SIZE - 1] = 0xFF },
	.noirq_start = (u32)noirq_start,
	.noirq_end = (u32)noirq_end,
};

/* A trip to the Host and back takes long. What can wait goes into the ring; the Host empties it at the next trip,
 * whatever the reason for that is, before it does anything else for us. If the ring is full it can wait no longer. */
static void async_hypercall(u32 call, u32 arg1, u32 arg2, u32 arg3)
{
	static u32 next;

	if (lguest_data.hcall_status[next] != 0xFF) {
		hypercall(call, arg1, arg2, arg3);
		return;
	}
	lguest_data.hcalls[next] = (struct hcall){ .eax = call, .edx = arg1, .ebx = arg2, .ecx = arg3 };
	lguest_data.hcall_status[next] = 0;		/* last, for now it counts */
	next = (next + 1) % LHCALL_RING_SIZE;
}

static void flush_async(void)
{
	hypercall(LHCALL_FLUSH_ASYNC, 0, 0, 0);
}

/* ---- The console --------------------------------------------------------------------------------------------- */

static int quiet;

/* SEND_DMA says where the text is. It must not cross the end of a page; so there is a page for it, with nothing
 * else in it. */
static void console_write(const char *text, u32 length)
{
	static char page[PAGE_SIZE] __attribute__((aligned(PAGE_SIZE)));
	static struct lguest_dma dma;

	while (length) {
		u32 n = length < PAGE_SIZE ? length : PAGE_SIZE;
		memcpy(page, text, n);
		dma = (struct lguest_dma){ .addr = { PHYS(page) }, .len = { n } };
		hypercall(LHCALL_SEND_DMA, LGUEST_CONSOLE_DMA_KEY, PHYS(&dma), 0);
		text += n;
		length -= n;
	}
}

static void say(const char *text, ...)
{
	char line[512];
	__builtin_va_list args;

	__builtin_va_start(args, text);
	console_write(line, format(line, sizeof(line), text, args));
	__builtin_va_end(args);
}

/* The Host reads 128 bytes of last words. Interrupts are off, and there is no way back. */
__attribute__((noreturn)) static void crash(const char *text, ...)
{
	static char last_words[128];
	__builtin_va_list args;

	__builtin_va_start(args, text);
	format(last_words, sizeof(last_words), text, args);
	for (;;)
		hypercall(LHCALL_CRASH, PHYS(last_words), 0, 0);
}

/* ---- What the Launcher tells us ------------------------------------------------------------------------------ */

/* The page at physical address 0 is the one in which a PC's boot loader leaves its notes for Linux. */
static u32 memory, initrd, initrd_size;
static char *command_line;

static u32 note(const u8 *notes, u32 offset)
{
	return *(const u32 *)(notes + offset);
}

static u32 at_most(u32 value, u32 limit)
{
	return value < limit ? value : limit;
}

static void read_boot_notes(const u8 *notes)
{
	memory = note(notes, 0x2D0 + 8);		/* the memory map's only entry: from 0, so many bytes */
	initrd = note(notes, 0x218);
	initrd_size = note(notes, 0x21C);
	command_line = VIRT(note(notes, 0x228));
	/* The Launcher puts a space behind every word, even the last. */
	char *end = command_line;
	while (*end)
		end++;
	while (end > command_line && end[-1] == ' ')
		*--end = 0;
	/* All memory, and the page of devices above it, must fit between PAGE_OFFSET and what the Host reserves. */
	memory = at_most(memory, 0x3F000000);
}

/* The value of "name=value" on the command line; 1 for a bare "name"; or else `otherwise`. */
static u32 option(const char *name, u32 otherwise)
{
	const char *at = command_line;

	while (*at) {
		const char *n = name;
		while (*n && *at == *n)
			at++, n++;
		if (!*n && *at == '=') {
			u32 value = 0;
			while (*++at >= '0' && *at <= '9')
				value = value * 10 + *at - '0';
			return value;
		}
		if (!*n && (*at == ' ' || !*at))
			return 1;
		while (*at && *at != ' ')
			at++;
		while (*at == ' ')
			at++;
	}
	return otherwise;
}

/* ---- Segments and interrupts --------------------------------------------------------------------------------- */

/* Code and data for us, and code and data for the processes: everything from 0 to 4 GB. The Host turns "ring 0"
 * into "ring 1" if it must, and keeps a few entries for itself. */
static const struct { u32 low, high; } gdt[GDT_ENTRIES] = {
	[KERNEL_CS / 8] = { 0x0000FFFF, 0x00CFBB00 },
	[KERNEL_DS / 8] = { 0x0000FFFF, 0x00CFB300 },
	[USER_CS / 8] = { 0x0000FFFF, 0x00CFFB00 },
	[USER_DS / 8] = { 0x0000FFFF, 0x00CFF300 },
};

/* Two words describe an entry of the IDT. Type 0xE is an interrupt gate: it switches interrupts off. Type 0xF is a
 * trap gate: it leaves them as they are. `ring` is the least privileged ring whose "int" instruction may use it. */
static void load_gate(u32 vector, u32 handler, u32 type, u32 ring)
{
	hypercall(LHCALL_LOAD_IDT_ENTRY, vector, KERNEL_CS << 16 | (handler & 0xFFFF),
		  (handler & 0xFFFF0000) | 0x8000 | ring << 13 | type << 8);
}

static void load_descriptors(void)
{
	hypercall(LHCALL_LOAD_GDT, PHYS(gdt), GDT_ENTRIES, 0);
	/* Four of these (2, 8, 15, 31) are none of our business, and the Host will not listen. Asking is free. */
	for (u32 v = 0; v < 32; v++)
		load_gate(v, trap_entries[v], 0xF, v == 3 || v == 4 ? 3 : 0);
	for (u32 v = 32; v < 64; v++)
		load_gate(v, trap_entries[v], 0xE, 0);
	/* A trap gate, and anybody's: the Host can let the CPU take it directly, without coming out of its chair. */
	load_gate(SYSCALL_VECTOR, trap_entries[64], 0xF, 3);
}

/* ---- Pages --------------------------------------------------------------------------------------------------- */

/* Page table entries: present, writable, for ring 3 as well, accessed, dirty. We set the last two beforehand: a
 * page that is known to be dirty can be mapped writable at once, and the Host need not wait for the first write. */
#define KERNEL_PAGE	0x63
#define USER_TABLE	0x67
#define USER_PAGE	0x67
#define USER_READ_ONLY	0x25

static u32 never_used, end_of_memory, free_pages;	/* physical addresses; a number */
static void *returned;					/* pages that were in use: each holds the address of the next */
static u32 *kernel_directory;

static void *get_page(void)
{
	void *page = returned;

	if (page) {
		returned = *(void **)page;
	} else {
		if (never_used == end_of_memory)
			crash("out of memory");
		page = VIRT(never_used);
		never_used += PAGE_SIZE;
	}
	free_pages--;
	return memset(page, 0, PAGE_SIZE);
}

static void put_page(void *page)
{
	*(void **)page = returned;
	returned = page;
	free_pages++;
}

/* Our own page tables: all memory, and the page of devices right above it, at PAGE_OFFSET. Not a word to the Host
 * while we write them; it learns about them when we ask it to use them. */
static void set_up_memory(void)
{
	never_used = PAGE_UP(PHYS(kernel_end));
	end_of_memory = (initrd_size ? initrd : memory) & ~(PAGE_SIZE - 1);
	free_pages = (end_of_memory - never_used) / PAGE_SIZE;

	kernel_directory = get_page();
	for (u32 phys = 0; phys <= memory; phys += PAGE_SIZE) {
		u32 *entry = &kernel_directory[(phys + PAGE_OFFSET) >> 22];
		if (!*entry)
			*entry = PHYS(get_page()) | KERNEL_PAGE;
		u32 *table = VIRT(*entry & ~0xFFF);
		table[phys >> 12 & 1023] = phys | KERNEL_PAGE;
	}
	hypercall(LHCALL_NEW_PGTABLE, PHYS(kernel_directory), 0, 0);
	/* In the Launcher's tables, everybody might see our memory. Those must not be remembered in any shadow. */
	hypercall(LHCALL_FLUSH_TLB, 1, 0, 0);
}

/* ---- Processes ----------------------------------------------------------------------------------------------- */

#define MAX_PROCESSES	8
#define STACK_TOP	0xBFFFF000		/* of a process's own stack, 16 pages at most */
#define STACK_PAGES	16
#define HEAP_PAGES	256

/* What `trapped` and the CPU leave on the stack. The last two words only if we come from ring 3. */
struct frame {
	u32 edi, esi, ebp, unused, ebx, edx, ecx, eax;
	u32 ds, es, fs, gs;
	u32 vector, error;
	u32 eip, cs, eflags, esp, ss;
};

static struct process {
	enum { NOBODY, READY, ASLEEP, DEAD } state;
	u32 number;
	u32 *directory;				/* its page directory */
	void *stack;				/* the page of its kernel stack */
	u32 esp;				/* where that was when we left it */
	u32 heap, heap_end;
	u32 wake_up;				/* the tick to wake it at */
} processes[MAX_PROCESSES], idle = { .state = READY };

static struct process *current = &idle;
static u32 ticks, system_calls, page_faults, switches;
static u32 last_tick, nanoseconds;		/* of the run; of a tick */
static int time_for_others;

/* The kernel stack of a process starts at the top of its page: one word below, to be exact, so that the address is
 * inside. */
static u32 stack_top(const struct process *p)
{
	return p == &idle ? (u32)boot_stack_top - 4 : (u32)p->stack + PAGE_SIZE - 4;
}

/* Who is next? Everybody in turn; if nobody wants to, or if the time is up, the idle process. A new address space
 * and a new kernel stack: two hypercalls that can wait until we have written down both. */
static void schedule(void)
{
	struct process *next = &idle, *p = current == &idle ? &processes[MAX_PROCESSES - 1] : current;

	time_for_others = 0;
	for (u32 i = 0; i < MAX_PROCESSES && ticks < last_tick; i++) {
		p = p == &processes[MAX_PROCESSES - 1] ? processes : p + 1;
		if (p->state == READY) {
			next = p;
			break;
		}
	}
	if (next == current)
		return;

	struct process *previous = current;
	current = next;
	switches++;
	async_hypercall(LHCALL_NEW_PGTABLE, PHYS(next->directory), 0, 0);
	async_hypercall(LHCALL_SET_STACK, KERNEL_DS, stack_top(next), 1);
	flush_async();
	switch_stacks(&previous->esp, next->esp);
}

/* ---- The memory of a process --------------------------------------------------------------------------------- */

static u32 *user_entry(struct process *p, u32 address)	/* its page table entry, or 0 if there is not even a table */
{
	u32 table = p->directory[address >> 22];
	return table ? (u32 *)VIRT(table & ~0xFFF) + (address >> 12 & 1023) : 0;
}

static void map_page(struct process *p, u32 address, void *page, u32 flags)
{
	if (!p->directory[address >> 22]) {
		p->directory[address >> 22] = PHYS(get_page()) | USER_TABLE;
		async_hypercall(LHCALL_SET_PMD, PHYS(p->directory), address >> 22, 0);
	}
	*user_entry(p, address) = PHYS(page) | flags;
	async_hypercall(LHCALL_SET_PTE, PHYS(p->directory), address, PHYS(page) | flags);
}

/* Take pages away, from `start` up to `end`. Nobody may use a page again before the Host has heard of it. */
static void unmap_pages(struct process *p, u32 start, u32 end)
{
	void *pages = 0;

	for (u32 address = start; address < end; address += PAGE_SIZE) {
		u32 *entry = user_entry(p, address);
		if (!entry || !*entry)
			continue;
		void *page = VIRT(*entry & ~0xFFF);
		*entry = 0;
		async_hypercall(LHCALL_SET_PTE, PHYS(p->directory), address, 0);
		*(void **)page = pages;
		pages = page;
	}
	flush_async();
	while (pages) {
		void *page = pages;
		pages = *(void **)page;
		put_page(page);
	}
}

/* The program: an ELF file, somewhere in memory. We never load it; we look into it when somebody touches a page of
 * it. */
struct elf { u8 magic[16]; u16 type, machine; u32 version, entry, phoff, shoff, flags; u16 ehsize, phentsize, phnum; };
struct segment { u32 type, offset, vaddr, paddr, filesz, memsz, flags, align; };

static const u8 *program;

static const struct segment *segments(u32 *number)
{
	const struct elf *elf = (const void *)program;
	*number = elf->phnum;
	return (const void *)(program + elf->phoff);
}

/* A page of the program at `address` (the start of a page): copy in what is in the file. 0 if there is no such page. */
static void *program_page(u32 address, u32 *flags)
{
	u32 number;
	const struct segment *s = segments(&number);

	for (; number--; s++) {
		if (s->type != 1 || address + PAGE_SIZE <= s->vaddr || address >= s->vaddr + s->memsz)
			continue;
		u8 *page = get_page();
		u32 from = address > s->vaddr ? address : s->vaddr;
		u32 to = address + PAGE_SIZE < s->vaddr + s->filesz ? address + PAGE_SIZE : s->vaddr + s->filesz;
		if (from < to)
			memcpy(page + (from - address), program + s->offset + (from - s->vaddr), to - from);
		*flags = s->flags & 2 ? USER_PAGE : USER_READ_ONLY;
		return page;
	}
	return 0;
}

/* Somebody touched a page that is not there. Should it be? */
static int page_in(struct process *p, u32 address)
{
	u32 flags = USER_PAGE, *entry = user_entry(p, address);
	void *page = 0;

	address &= ~(PAGE_SIZE - 1);
	if (entry && *entry)
		return 0;					/* it is there. So it was something else that was wrong */
	if (address < STACK_TOP && address >= STACK_TOP - STACK_PAGES * PAGE_SIZE)
		page = get_page();
	else if (address >= p->heap && address < p->heap_end)
		page = get_page();
	else if (address < p->heap)
		page = program_page(address, &flags);
	if (!page)
		return 0;
	map_page(p, address, page, flags);
	return 1;
}

/* Is all of this the process's own, and there? (Called before we use an address that a process gave us.) */
static int user_memory(struct process *p, u32 address, u32 length)
{
	if (address + length < address || address + length > STACK_TOP)
		return 0;
	for (u32 page = address & ~(PAGE_SIZE - 1); page < address + length; page += PAGE_SIZE) {
		u32 *entry = user_entry(p, page);
		if (!(entry && *entry) && !page_in(p, page))
			return 0;
	}
	return 1;
}

/* ---- Life and death ------------------------------------------------------------------------------------------ */

static void new_process(struct process *p, u32 number, u32 mischief)
{
	u32 n;
	const struct segment *s = segments(&n);

	p->number = number;
	p->directory = get_page();
	p->stack = get_page();
	p->heap = 0;
	/* All processes share the kernel's half. It never changes, so a copy of the directory entries will do. */
	for (u32 i = PAGE_OFFSET >> 22; i < 1024; i++)
		p->directory[i] = kernel_directory[i];
	for (; n--; s++)
		if (s->type == 1 && s->vaddr + s->memsz > p->heap)
			p->heap = PAGE_UP(s->vaddr + s->memsz);
	p->heap_end = p->heap;

	/* What we put on its kernel stack looks as if it had been interrupted just before its first instruction.
	 * Interrupts are on there (0x200), as its frame will say on the way out. */
	struct frame *f = (struct frame *)((u32)p->stack + PAGE_SIZE - 4 - sizeof(*f));
	*f = (struct frame){
		.eax = number, .edx = mischief, .ds = USER_DS, .es = USER_DS,
		.eip = ((const struct elf *)program)->entry, .cs = USER_CS, .eflags = 0x202,
		.esp = STACK_TOP - 16, .ss = USER_DS,
	};
	/* And below it, what switch_stacks() takes from a stack: four registers, and an address to go to. */
	u32 *sp = (u32 *)f - 5;
	sp[4] = (u32)return_from_trap;
	p->esp = (u32)sp;
	p->state = READY;
}

/* Only a process that is not running can be buried: not even a kernel likes the floor to be taken away. */
static void bury(struct process *p)
{
	unmap_pages(p, 0, p->heap_end);
	unmap_pages(p, STACK_TOP - STACK_PAGES * PAGE_SIZE, STACK_TOP);
	for (u32 i = 0; i < PAGE_OFFSET >> 22; i++) {
		if (!p->directory[i])
			continue;
		void *table = VIRT(p->directory[i] & ~0xFFF);
		p->directory[i] = 0;
		hypercall(LHCALL_SET_PMD, PHYS(p->directory), i, 0);
		put_page(table);
	}
	put_page(p->directory);
	put_page(p->stack);
	p->state = NOBODY;
}

static void kill(struct frame *f, const char *why, u32 value)
{
	if (!quiet)
		say("first: process %u is killed: %s 0x%x at eip 0x%x, error code 0x%x\n",
		    current->number, why, value, f->eip, f->error);
	current->state = DEAD;
	schedule();
}

/* ---- What interrupts us -------------------------------------------------------------------------------------- */

static u32 system_call(struct process *p, u32 call, u32 arg1, u32 arg2, u32 arg3)
{
	system_calls++;
	switch (call) {
	case SYS_EXIT:
		p->state = DEAD;
		schedule();				/* and that was that */
		return 0;
	case SYS_WRITE:
		if (!user_memory(p, arg2, arg3))
			return -14;			/* the number of "bad address" for 50 years */
		if (!quiet)
			console_write((const char *)arg2, arg3);
		return arg3;
	case SYS_GETPID:
		return p->number;
	case SYS_BRK:
		if (arg1 < p->heap || arg1 > p->heap + HEAP_PAGES * PAGE_SIZE)
			return p->heap_end;
		arg1 = PAGE_UP(arg1);
		if (arg1 < p->heap_end)
			unmap_pages(p, arg1, p->heap_end);
		return p->heap_end = arg1;
	case SYS_YIELD:
		schedule();
		return 0;
	case SYS_SLEEP:
		p->wake_up = ticks + arg1;
		p->state = arg1 ? ASLEEP : READY;
		schedule();
		return 0;
	}
	return -38;					/* no such system call */
}

/* The Host's clock rings once each time, so the first thing to do is to wind it up again. */
static void clock_interrupt(void)
{
	hypercall(LHCALL_SET_CLOCKEVENT, nanoseconds, 0, 0);
	ticks++;
	for (struct process *p = processes; p < &processes[MAX_PROCESSES]; p++)
		if (p->state == ASLEEP && (int)(ticks - p->wake_up) >= 0)
			p->state = READY;
	time_for_others = 1;
}

static u32 console_irq;
static struct lguest_dma input;
static char input_page[PAGE_SIZE] __attribute__((aligned(PAGE_SIZE)));

/* Somebody is typing. All we can do is to show that we are listening. */
static void console_interrupt(void)
{
	u32 n = at_most(input.used_len, 256);

	input_page[n] = 0;
	if (n && input_page[n - 1] == '\n')
		input_page[n - 1] = 0;
	if (n && !quiet)
		say("first: you typed \"%s\"\n", input_page);
	*(volatile u32 *)&input.used_len = 0;		/* the buffer is free again */
}

/* Everything arrives here, from first.S. */
void trap(struct frame *f)
{
	int from_user = (f->cs & 3) == 3;

	/* From here on we are not to be disturbed. What was before is in the frame's EFLAGS, and comes back from
	 * there. */
	lguest_data.irq_enabled = 0;

	if (f->vector == SYSCALL_VECTOR) {
		f->eax = system_call(current, f->eax, f->ebx, f->ecx, f->edx);
	} else if (f->vector == IRQ_VECTOR) {
		clock_interrupt();
	} else if (f->vector > IRQ_VECTOR && f->vector < IRQ_VECTOR + IRQS) {
		if (f->vector == IRQ_VECTOR + console_irq)
			console_interrupt();
	} else if (f->vector == 14) {
		u32 address = lguest_data.cr2;
		page_faults++;
		if (!from_user)
			crash("page fault in the kernel: address 0x%x, eip 0x%x, error 0x%x", address, f->eip, f->error);
		if (!page_in(current, address))
			kill(f, "page fault, address", address);
	} else {
		if (!from_user)
			crash("trap %u in the kernel: eip 0x%x, error 0x%x", f->vector, f->eip, f->error);
		kill(f, "trap", f->vector);
	}
	/* On the way back to a process is a good moment to see whose turn it is. The idle process does it by itself. */
	if (from_user && time_for_others)
		schedule();
}

/* ---- The beginning, the middle, the end ---------------------------------------------------------------------- */

/* The page above our memory lists the devices. We know what to do with a console: it can send without further ado,
 * but in order to receive it needs a buffer. */
static void find_console(void)
{
	volatile struct lguest_device_desc *d = VIRT(memory);

	for (u32 i = 0; i < LGUEST_DEVICES && d[i].type; i++) {
		if (d[i].type != LGUEST_DEVICE_T_CONSOLE)
			continue;
		d[i].status |= LGUEST_DEVICE_S_ACKNOWLEDGE;
		d[i].status |= LGUEST_DEVICE_S_DRIVER;
		input = (struct lguest_dma){ .addr = { PHYS(input_page) }, .len = { 256 } };
		console_irq = i + 1;
		if (hypercall(LHCALL_BIND_DMA, LGUEST_CONSOLE_DMA_KEY, PHYS(&input), 1 << 8 | console_irq))
			d[i].status |= LGUEST_DEVICE_S_DRIVER_OK;
		else
			d[i].status |= LGUEST_DEVICE_S_FAILED;
	}
}

static void find_program(void)
{
	program = initrd_size ? VIRT(initrd) : built_in_program;

	/* "\x7FELF", for 32 bits, an executable, for the i386. The rest is believed. */
	const struct elf *elf = (const void *)program;
	if (note(elf->magic, 0) != 0x464C457F || elf->magic[4] != 1 || elf->type != 2 || elf->machine != 3)
		crash("the initrd is not a program for this machine");
}

/* From the first instruction to the last. In between there is nothing to do but to see that others do it. */
__attribute__((noreturn)) void kernel_main(const u8 *boot_notes)
{
	/* The Host wants to be greeted first. */
	hypercall(LHCALL_LGUEST_INIT, PHYS(&lguest_data), 0, 0);

	read_boot_notes(boot_notes);
	quiet = option("quiet", 0);
	last_tick = option("ticks", 20);
	u32 hz = at_most(option("hz", 100), 100000), number = at_most(option("procs", 2), MAX_PROCESSES);
	nanoseconds = 1000000000 / (hz ? hz : 1);
	if (!quiet)
		say("first: awake in ring 1, with %u KB of memory and the words \"%s\"\n", memory >> 10, command_line);

	load_descriptors();
	set_up_memory();
	find_console();
	find_program();
	u32 free_at_start = free_pages;

	idle.directory = kernel_directory;
	for (u32 i = 0; i < number; i++)
		new_process(&processes[i], i + 1, i + 1 == number ? option("bad", 0) : 0);
	if (!quiet)
		say("first: %u processes, %u ticks a second; power goes off at tick %u\n", number, hz, last_tick);

	/* From here on the clock may ring. We cannot hear it yet: that takes a process to run, or a HALT. */
	lguest_data.blocked_interrupts = 0;
	hypercall(LHCALL_SET_CLOCKEVENT, nanoseconds, 0, 0);

	for (;;) {
		u32 alive = 0;
		schedule();
		for (struct process *p = processes; p < &processes[MAX_PROCESSES]; p++) {
			if (p->state == DEAD)
				bury(p);
			alive += p->state != NOBODY;
		}
		if (!alive || ticks >= last_tick)
			break;
		/* Everybody sleeps; so do we. Interrupts are off, and the Host switches them on when it has one for
		 * us: if we did it, one might slip in before the HALT, and we would oversleep. */
		hypercall(LHCALL_HALT, 0, 0, 0);
		lguest_data.irq_enabled = 0;
	}

	hypercall(LHCALL_SET_CLOCKEVENT, 0, 0, 0);
	for (struct process *p = processes; p < &processes[MAX_PROCESSES]; p++)
		if (p->state != NOBODY)
			bury(p);
	say("first: %u ticks, %u system calls, %u page faults, %u context switches; %u of %u pages are free\n",
	    ticks, system_calls, page_faults, switches, free_pages, free_at_start);
	crash("Power down");
}
