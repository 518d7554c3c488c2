"""What must be true of the Host between any two instructions of a Guest, recounted from scratch; and a Guest to pester it.

`check(host)` looks at everything; `Watch(host)` calls it at every world switch; `Puppet` is a Guest kernel that does
what Python writes into its memory: accesses from ring 1 and 3, edits of its page tables, hypercalls, direct or by the ring.
"""
import struct
from functools import lru_cache

from lguest_lit.host.kernel import PAGE_OFFSET
from lguest_lit.launcher.launcher import Launcher
from lguest_lit.host.lguest_user import LHREQ_INITIALIZE, LguestFile
from lguest_lit.launcher.workbench import assemble
from lguest_lit.images.build import symbols

PRESENT, RW, USER, ACCESSED, DIRTY, PSE, GLOBAL = 1, 2, 4, 0x20, 0x40, 0x80, 0x100
SWITCHER = 0xFFC00000
TRAP_GATE, HAS_ERROR = 0xF, (8, 10, 11, 12, 13, 14, 17)
GUEST_CODE, LGUEST_CODE = 0x61, 0x50
WORD, WORDS = struct.Struct('<I').unpack_from, struct.Struct('<26I').unpack_from


class Broken(AssertionError):
    "An invariant does not hold."


def must(true, text):
    if not true: raise Broken(text)


# --- the invariants ---------------------------------------------------------------------------------------------------

def check(host, strict=False, running=None):
    """Everything. `strict`: the Guests tell of each change, so no shadow entry may allow more than the Guest's own. `running`:
    the Guest that is just going in or has just come out, so the CPU's pages must be its."""
    owners = plain_owners(host)
    for lg in host.guests:
        if lg is not None: check_shadows(host, lg, owners, strict)
    check_references(host.mem, owners)
    for cpu in range(host.nr_cpus): check_switcher_table(host, cpu)
    if running is not None: check_cpu(host, running)


def plain_owners(host):
    "How many references each frame should have, if nothing were mapped: one, where it is the Host's or a Guest's."
    mine = (host.mem.u32[(host.pgdir << 10) + 1023] >> 12, *host.switcher_pages, *host.switcher_pte_pages)
    theirs = tuple((lg.mm.base_pfn, lg.mm.pages, lg.mm.zero_pfn, lg.regs_page) for lg in host.guests if lg is not None)
    last = host.percpu[-1].stack - PAGE_OFFSET >> 12           # what the kernel has allocated as it came up
    return list(count_owners(host.mem.nframes, last, mine, theirs))


@lru_cache(64)
def count_owners(frames, last, mine, theirs):
    "The Host's image and tables come first, up to frame `last`; frame 0 belongs to nobody, so that nobody gets it."
    owners = [1]*(last + 1) + [0]*(frames - last - 1)
    for frame in mine: owners[frame] += 1
    for base, pages, zero, regs in theirs:
        must(not any(owners[base:base + pages]), "a Guest's memory is somebody else's as well")
        owners[base:base + pages] = [1]*pages
        for frame in (zero, regs): owners[frame] += 1
    return owners


@lru_cache(4096)
def present(table):
    "(index, entry) of each entry of a 4096-byte table that is not zero."
    return tuple((i, entry) for i, entry in enumerate(struct.unpack('<1024I', table)) if entry) if any(table) else ()


def page(host, frame): return bytes(host.mem.u8[frame << 12:frame + 1 << 12])


def check_shadows(host, lg, owners, strict):
    "Nothing but the Guest's own memory behind its shadow entries, and with `strict` no more rights than it has given itself."
    mm, rights = lg.mm, RW | USER
    first, end, zero = mm.base_pfn, mm.base_pfn + min(mm.pages, lg.pfn_limit), mm.zero_pfn
    for n, slot in enumerate(lg.pgdirs):
        if slot.pgdir is None: continue
        owners[slot.pgdir] += 1
        for i, spgd in present(page(host, slot.pgdir)):
            def bad(text): raise Broken(f'Guest {lg.guestid} slot {n} entry {i} ({spgd:#x}): {text}')
            if i == 1023:
                if spgd >> 12 not in host.switcher_pte_pages or spgd & 0xFFF != 0x63: bad("not the Switcher's")
                continue
            if not spgd & PRESENT: bad('absent, but not zero')
            if spgd & 0xF98: bad('flags which no Guest may have')
            owners[spgd >> 12] += 1
            gpgd = word(mm, slot.cr3 + 4*i) if strict else None
            if strict and (not gpgd & PRESENT or spgd & ~gpgd & rights): bad(f'allows more than {gpgd:#x}')
            for j, spte in present(page(host, spgd >> 12)):
                def bad(text): raise Broken(f'Guest {lg.guestid} slot {n} {i << 22 | j << 12:#x} ({spgd:#x}, {spte:#x}): {text}')
                frame = spte >> 12
                if not spte & PRESENT:
                    if lg.fixes.set_pte_present: bad('absent, but not zero')
                    continue
                owners[frame] += 1
                if not first <= frame < end and frame != zero: bad("not the Guest's memory")
                if spte & (GLOBAL | PSE): bad('global, or PAT')
                if frame == zero and spte & RW: bad('the page of zeros can be written')
                if not strict: continue
                gpte = word(mm, (gpgd & ~0xFFF) + 4*j)
                if not gpte & PRESENT or spgd & spte & ~(gpgd & gpte) & rights: bad(f'allows more than {gpgd:#x}, {gpte:#x}')
                if frame != first + (gpte >> 12) and (frame != zero or mm.touched[gpte >> 12]): bad(f'wrong frame for {gpte:#x}')
                if not gpte & ACCESSED | gpte & DIRTY: bad(f'mapped, but {gpte:#x} was never accessed')


def word(mm, pa): return WORD(mm.ram, pa)[0]


def check_references(mem, expected):
    "A reference for each owner and each mapping, and no more; what has none is free, once."
    if mem.refs != expected:
        wrong = {hex(f): (have, want) for f, (have, want) in enumerate(zip(mem.refs, expected)) if have != want}
        raise Broken(f'frame: (references, owners) {dict(list(wrong.items())[:8])}')
    free = mem._free
    must(len(set(free)) == len(free) and not any(map(expected.__getitem__, free)), 'a frame is free twice, or free and in use')
    must(mem.in_use == mem.nframes - expected.count(0), 'frames that nobody holds are not free')


def check_switcher_table(host, cpu):
    "Text and state read-only, the last Guest's registers, nothing for ring 3, and nothing else at all."
    last = host.last_guest[cpu]
    want = switcher_table(tuple(host.switcher_pages), host.nr_cpus, cpu, last and last.regs_page)
    have = page(host, host.switcher_pte_pages[cpu])
    if have != want: raise Broken(f"CPU {cpu}'s Switcher table: {present(have)} instead of {present(want)}")


@lru_cache(64)
def switcher_table(pages, nr_cpus, cpu, regs_page):
    "One CPU's table, after a Guest with these registers has run, or none."
    shared = len(pages) - 2*nr_cpus
    regs = shared + 2*cpu
    words = [frame << 12 | 0x21 for frame in pages[:shared]] + [0]*(1024 - shared)
    words[regs] = regs_page << 12 | 0x63 if regs_page else pages[regs] << 12 | 0x23
    words[regs + 1] = pages[regs + 1] << 12 | 0x21
    return struct.pack('<1024I', *words)


def state_number(host): return len(host.switcher_pages) - 2*host.nr_cpus + 2*host.current_cpu + 1
def state_page(host): return page(host, host.switcher_pages[state_number(host)])


def check_cpu(host, lg):
    "The current CPU is `lg`'s: its slot leads to this CPU's Switcher, its tables are in the state page."
    cpu, state, vaddr = host.current_cpu, state_page(host), SWITCHER + 4096*state_number(host)
    must(host.last_guest[cpu] is lg, 'the CPU remembers another Guest')
    entry = host.mem.u32[(lg.pgdirs[lg.pgdidx].pgdir << 10) + 1023]
    must(entry == host.switcher_pte_pages[cpu] << 12 | 0x63, f'entry 1023 of the current slot is {entry:#x}')
    must(WORD(state)[0] == host.pgdir << 12, "host_cr3 is not the Host's")
    tss = WORDS(state, 40)
    must(tss[1:5] == (vaddr, 0x58, lg.esp1, lg.ss1) and tss[25] == 104 << 16, tss)
    must(state[24:38] == struct.pack('<HIxxHI', 2047, vaddr + 144, 255, vaddr + 2192), 'IDTR or GDTR')
    if lg.changed: return
    idt = expected_idt(tuple(lg.idt_a[:32]), tuple(lg.idt_b[:32]), lg.syscall_idt, host, lg.fixes.default_dpl)
    if state[144:2192] != idt: raise Broken(f'IDT {differences(state[144:2192], idt)}')
    gdt = expected_gdt(tuple(lg.gdt_a), tuple(lg.gdt_b), vaddr + 40)
    if state[2192:2448] != gdt: raise Broken(f'GDT {differences(state[2192:2448], gdt)}')


def differences(have, want):
    words = [struct.unpack(f'<{len(table)//4}I', table) for table in (have, want)]
    return [f'{n//2}: {a:#x}, not {b:#x}' for n, (a, b) in enumerate(zip(*words)) if a != b]


@lru_cache(512)
def expected_idt(low, high, syscall, host, inherit):
    "The table's bytes: the Guest's own trap gates, where a trap may go straight to it; otherwise the way to the Host [facts 4.3, 5.5]."
    words = []
    for n, stub in enumerate(host.default_idt_entries):
        a, b = (low[n], high[n]) if n < 32 else syscall if n == 128 else (0, 0)
        if b & 0x8000 and b >> 8 & 0xF == TRAP_GATE and n not in (7, 13, 14, 31):
            must(a >> 16 == GUEST_CODE and not b & 0x10FF, f'gate {n} is not for ring 1')
            words += a, b
            continue
        dpl = 1 if n == 31 else b >> 13 & 3 if inherit and n < 32 and n not in HAS_ERROR else 0
        words += LGUEST_CODE << 16 | stub & 0xFFFF, stub & 0xFFFF0000 | 0x8E00 | dpl << 13
    return struct.pack(f'<{len(words)}I', *words)


@lru_cache(512)
def expected_gdt(low, high, tss):
    "The table's bytes: the Guest's descriptors, none for ring 0, and the four that it never gets [facts 1.3, 5.7]."
    words = []
    for n, (a, b) in enumerate(zip(low, high)):
        if n == 10: a, b = 0x0000FFFF, 0x00CF9B00
        elif n == 11: a, b = 0x0000FFFF, 0x00CF9300
        elif n == 16: a, b = (tss & 0xFFFF) << 16 | 0x67, tss & 0xFF000000 | tss >> 16 & 0xFF | 0x8900
        elif n == 31: a = b = 0
        elif b & 0x8000: must(b & 0x6000 and b & 0x1100 == 0x1100 and not b & 0x200000, f'descriptor {n}: {b:#x}')
        words += a, b
    return struct.pack(f'<{len(words)}I', *words)


class Watch:
    """Check everything before each entry into a Guest, when all that it told has been heard; after each exit, that the state page
    is as it was. `traps` counts what brought the Guests back, as long as it is `on`. Strict only after a hypercall: whatever
    else brought the Guest back, it may have changed an entry and not have come to tell of it."""
    def __init__(self, host, strict=False):
        self.host, self.strict, self.on, self.checks, self.traps, self.state = host, strict, True, 0, {}, None
        self.told = True
        self.run, self.switched = host.cpu.run, host.clock.switched
        host.cpu.run, host.clock.switched = self.checked_run, self.checked_switched

    def checked_run(self, *args, **kw):
        host = self.host
        if self.on and host.cpu.state[host.cpu.f.EIP] == host.symbols['run_guest_once']:
            lg = host.last_guest[host.current_cpu]
            must(lg.changed == 0, 'changes were not copied')
            self.check(lg)
            self.state = state_page(host)
        return self.run(*args, **kw)

    def checked_switched(self):
        self.switched()
        if not self.on: return
        host, before, after = self.host, self.state, state_page(self.host)
        trap = host.last_guest[host.current_cpu].regs.trapnum
        self.traps[trap] = self.traps.get(trap, 0) + 1
        self.told = trap == 31
        must(before[:20] == after[:20] and before[24:] == after[24:], 'the state page has changed, and not only host_sp')

    def check(self, running=None):
        self.checks += 1
        check(self.host, self.strict and self.told, running)


# --- a Guest on strings -----------------------------------------------------------------------------------------------

MEMORY = 2 << 20
STOP, POKE, CALL, QUEUE, RING1, RING3, IRQS = range(7)
LOAD_GDT, NEW_PGTABLE, FLUSH_TLB, LOAD_IDT, SET_STACK, TS, SET_CLOCKEVENT, HALT, SET_PTE, SET_PMD, LOAD_TLS = 3, 4, 5, 6, 7, 8, 9, 10, 14, 15, 16
NAMES = 'u_read', 'u_write', 'u_fetch'
READ, WRITE, FETCH = range(3)
DONE, FAULT = 1, 2

KERNEL = r'''
	gate 14, fault
	gate 128, back, 0xF, 3
	gate 32, tick
again:
	movl	$commands, at
next:
	movl	$stack_top, %esp
	movl	$KERNEL_DS, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	at, %esi
	movl	(%esi), %eax
	jmp	*table(,%eax,4)
over:
	addl	$32, at
	jmp	next

op_stop:
	hcall LHCALL_SEND_DMA, $0x40, $0
	jmp	again
op_poke:
	movl	8(%esi), %edx
	movl	16(%esi), %ecx
	movl	%ecx, PAGE_OFFSET(%edx)
	jmp	over
op_call:
	movl	4(%esi), %eax
	movl	8(%esi), %edx
	movl	12(%esi), %ebx
	movl	16(%esi), %ecx
	int	$LGUEST_TRAP_ENTRY
	jmp	over
op_queue:
	movl	slot, %edi
	cmpb	$0xFF, lguest_data + LGUEST_DATA_STATUS(%edi)
	jne	op_call
	movl	%edi, %ebp
	shll	$4, %ebp
	movl	4(%esi), %eax
	movl	%eax, lguest_data + 76(%ebp)
	movl	8(%esi), %eax
	movl	%eax, lguest_data + 80(%ebp)
	movl	12(%esi), %eax
	movl	%eax, lguest_data + 84(%ebp)
	movl	16(%esi), %eax
	movl	%eax, lguest_data + 88(%ebp)
	movb	$0, lguest_data + LGUEST_DATA_STATUS(%edi)
	incl	%edi
	andl	$63, %edi
	movl	%edi, slot
	jmp	over
op_ring1:
	movl	12(%esi), %ebx
	movl	16(%esi), %ecx
	jmp	*4(%esi)
op_ring3:
	movl	12(%esi), %ebx
	movl	16(%esi), %ecx
	movl	4(%esi), %edi
	movl	$USER_DS, %eax
	movl	%eax, %ds
	movl	%eax, %es
	pushl	$USER_DS
	pushl	$user_stack_top
	pushl	$0x202
	pushl	$USER_CS
	pushl	%edi
	iret
op_irqs:
	movl	8(%esi), %eax
	movl	%eax, lguest_data
	jmp	over

	/* What an access is: the same in either ring. */
u_read:
	movl	(%ebx), %eax
	int	$128
u_write:
	movl	%ecx, (%ebx)
	movl	%ecx, %eax
	int	$128
u_fetch:
	jmp	*%ebx				/* to "int $128", if it gets there */

back:
	movl	$KERNEL_DS, %edx
	movl	%edx, %ds
	movl	at, %esi
	movl	%eax, 24(%esi)
	movl	$1, 20(%esi)
	jmp	over
fault:
	popl	%eax
	movl	$KERNEL_DS, %edx
	movl	%edx, %ds
	movl	at, %esi
	movl	%eax, 28(%esi)
	movl	lguest_data + 8, %eax
	movl	%eax, 24(%esi)
	movl	$2, 20(%esi)
	jmp	over
tick:
	iret
	.data
	.balign 4
table:	.long op_stop, op_poke, op_call, op_queue, op_ring1, op_ring3, op_irqs
at:	.long 0
slot:	.long 0
	.bss
	.balign 4096
	.globl stacks
stacks:	.fill 16384, 1, 0
	.globl commands
commands: .fill 4096, 1, 0
	.section .head, "ax"
'''
RECORDS = 127


class Puppet:
    "A Guest whose kernel does what it finds in its command page. `clean` is its memory before it is born."
    def __init__(self, host, prepare=None):
        self.host = host
        image = assemble(KERNEL)
        self.symbols = symbols(image)
        self.launcher = Launcher(image, mem=MEMORY, host=host, warn=lambda text: None)
        self.file, self.mm = self.launcher.file, self.launcher.mm
        lg = self.file.lg
        self.start, self.pgdir, self.fixes = lg.regs.eip, lg.pgdirs[0].cr3, lg.fixes
        self.routines = [self.symbols[name] for name in NAMES]
        if prepare: prepare(self)
        self.clean = bytes(self.mm.ram[1 << 20:])

    @property
    def lg(self): return self.file.lg

    def close(self): self.launcher.close()

    def born_again(self, fixes=None):
        "A new Guest in the old one's memory, as that was in the beginning; it has just stopped for the first time."
        self.file.close()
        self.mm.ram[1 << 20:] = self.clean
        self.launcher.file = self.file = LguestFile(self.host, task=self, mm=self.mm, fixes=fixes or self.fixes)
        self.file.write(struct.pack('<5I', LHREQ_INITIALIZE, len(self.mm.ram) >> 12, self.pgdir, self.start, PAGE_OFFSET))
        self.do([])

    def do(self, commands):
        "Run (op, eax, edx, ebx, ecx) commands; returns (DONE, value) or (FAULT, cr2, errcode) of each access."
        at, results = self.symbols['commands'] - PAGE_OFFSET, []
        for first in range(0, len(commands) or 1, RECORDS):
            part = commands[first:first + RECORDS]
            data = b''.join([struct.pack('<8I', *command, 0, 0, 0) for command in part]) + bytes(32)
            self.mm.ram[at:at + len(data)] = data
            self.file.read()
            for n, command in enumerate(part):
                if command[0] not in (RING1, RING3): continue
                kind, value, error = struct.unpack_from('<3I', self.mm.ram, at + 32*n + 20)
                results.append((kind, value) if kind == DONE else (kind, value, error))
        return results

    def access(self, ring, kind, vaddr, value=0):
        return (RING1 if ring == 1 else RING3, self.routines[kind], 0, vaddr, value)


def poke(pa, value): return (POKE, 0, pa, 0, value)
def call(number, edx=0, ebx=0, ecx=0): return (CALL, number, edx, ebx, ecx)
def queue(number, edx=0, ebx=0, ecx=0): return (QUEUE, number, edx, ebx, ecx)
