"""What a Guest sees through shadow page tables, against what a plain i386 with the very same tables in its memory sees.

Both machines get the same random page tables and the same random accesses (read, write and fetch, from ring 1 and ring 3, some across
the end of a page), with edits in between of which the Guest tells its Host, and for which the plain machine flushes its TLB. Compared are
each access's value or fault (CR2, error code), and at the end every byte of tables and pages, accessed and dirty bits included.

The known differences, all of them allowed for by name below, nowhere else:
 - PGD_ACCESSED: the Host never sets ACCESSED in a Guest's top-level entry [facts 5.6]; a plain i386 does.
 - ERROR_PRESENT: bit 0 of the error code speaks of the shadow, which may still be empty where the Guest's entry is present; the
   other way round it never lies.
 - LATE_BITS: SET_PTE with ACCESSED or DIRTY installs a shadow entry as it is, RW included [facts 0.2], so that later accesses do not
   come by the Host, and the other of the two bits is not set in the Guest's table.
 - Both machines have CR0.WP set, a Guest cannot clear it; ring 1 is supervisor for paging on both, ring 0 is not for Guests.
 - PSE and PWT in a PTE, flags outside 0x67 at the top level and pages outside memory are fatal to a Guest: not generated here.
 - An address from 0xFFC00000 up is the Switcher's: not generated here.
 - Changes of which the Host was not told may go unnoticed: here it is always told, and test_untold_changes shows the other side.
"""
import os, pydoc, random, struct

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings, strategies as st
from unicorn import x86_const as x86

from invariants import (ACCESSED, DIRTY, DONE, FAULT, FETCH, FLUSH_TLB, GLOBAL, NEW_PGTABLE, PRESENT, READ, RW, SET_PMD, SET_PTE, USER,
                        WRITE, Puppet, call, poke)
from lguest_lit.host.clock import VirtualClock
from lguest_lit.host.host import Host
from lguest_lit.i386.cpu import SELECTORS, STACK0, flat_machine
from lguest_lit.i386.descriptors import gate

EXAMPLES = int(os.environ.get('LGUEST_LIT_EXAMPLES', 1_500))

# One directory of the test's own, two PTE pages, four frames, and four pages at which they are mapped.
AREA = 0x180000
DIRECTORY, TABLES, FRAMES = AREA, [AREA + 0x1000, AREA + 0x2000], [AREA + 0x3000 + 4096*n for n in range(4)]
END = AREA + 0x7000
SLOTS = [(0, 1022), (0, 1023), (1, 0), (1, 1)]            # (PTE page, index): four pages in a row, each table has two of them
PLACE = 0x40                                             # entry of the first table in the directory
INT_128, SELF = b'\xcd\x80', 0x600                     # what is fetched, and where it is in each frame
HIGH = 0xFFC00000                                        # where the plain machine keeps its own tables
FILLING = [b''.join(struct.pack('<I', 0x5A000000 | n << 16 | i) for i in range(1024)) for n in range(len(FRAMES))]
FILLING = b''.join(page[:SELF] + INT_128 + page[SELF + 2:] for page in FILLING)

FLAGS = [present | rights | used | extra for present in (PRESENT, PRESENT, PRESENT, 0) for rights in (0, RW, USER, RW | USER, RW | USER)
         for used in (0, ACCESSED, DIRTY, ACCESSED | DIRTY) for extra in (0, 0x10, 0xA00, GLOBAL | 0x400)]
PTES = [frame | flags for flags in FLAGS for frame in FRAMES]
PGD_FLAGS = [7]*64 + [flags for flags in FLAGS if not flags & ~0x67]
VADDRS = [PLACE + i << 22 | page << 12 for i, page in SLOTS]
ACCESSES = [('access', ring, kind, vaddr + offset) for ring in (1, 3)
            for kind, offsets in ((READ, (0, 0x7F0, 0xFFE)), (WRITE, (0, 0x7F0, 0xFFE)), (FETCH, (SELF,)))
            for vaddr in [*VADDRS, *VADDRS, VADDRS[0] - 0x1000] for offset in offsets]
EDITS = [('pte', i, page, entry, how) for i, page in SLOTS for entry in PTES for how in ('told', 'user', 'all')]
TOLD = [edit for edit in EDITS if edit[-1] == 'told' and edit[3] & PRESENT]
EDITS_ABOVE = [('pgd', i, flags, how) for i in (0, 1) for flags in PGD_FLAGS[60:] for how in ('told', 'user', 'all')]

cases = st.tuples(st.tuples(*[st.sampled_from(PGD_FLAGS)]*2), st.tuples(*[st.sampled_from(PTES)]*4),
                  st.lists(st.one_of(*[st.sampled_from(x) for x in
                                       (ACCESSES, ACCESSES, ACCESSES, EDITS, TOLD, EDITS_ABOVE)]), min_size=1, max_size=8))


def area(pgds, ptes):
    "The bytes of AREA: directory (without the kernel's half), tables, frames."
    words = [0]*3072
    for i, flags in enumerate(pgds): words[PLACE + i] = TABLES[i] | flags
    for (i, page), entry in zip(SLOTS, ptes): words[1024*(i + 1) + page] = entry
    return struct.pack('<3072I', *words) + FILLING


class Plain:
    "An i386 without a hypervisor, the Guest's code and tables in its memory, and its own tables high up, out of everybody's way."
    def __init__(self, puppet):
        self.cpu, self.routines, mm = flat_machine(b'', size=len(puppet.mm.ram)), puppet.routines, puppet.mm
        mem, cpu = self.cpu.memory, self.cpu
        self.mem, self.kernel = mem, struct.unpack_from('<I', mm.ram, puppet.pgdir + 3072)[0]
        mem.u8[1 << 20:len(mm.ram)] = mm.ram[1 << 20:]
        mem.write(0x2000, b''.join(struct.pack('<2I', *gate(HIGH + 0x18000 + 16*n, 0x08, dpl=3 if n == 128 else 0)) for n in range(256)))
        mem.write(0x1000 + 0x38, struct.pack('<2I', 0x3000 << 16 | 0x67, 0xFF0089C0))
        mem.u32[0x3004 >> 2] = HIGH + STACK0
        self.load(area((7, 7), PTES[:4]))
        uc = cpu.engine.uc
        for register, value in ((x86.UC_X86_REG_GDTR, (0, HIGH + 0x1000, 63, 0)), (x86.UC_X86_REG_IDTR, (0, HIGH + 0x2000, 2047, 0)),
                                (x86.UC_X86_REG_CR3, DIRECTORY)): uc.reg_write(register, value)
        cpu.engine.load()
        cpu.load_segment('tr', 0x38)
        self.rings = {}
        for ring in (1, 3):
            cs, ss = SELECTORS[ring]
            for name, selector in (('cs', cs), ('ss', ss), ('ds', ss), ('es', ss)): cpu.load_segment(name, selector)
            cpu.engine.store()
            self.rings[ring] = cpu.engine.save()

    def load(self, data):
        self.mem.u8[AREA:END] = data
        self.mem.u32[DIRECTORY + 3072 >> 2], self.mem.u32[DIRECTORY + 4092 >> 2] = self.kernel, 0x11000 | 0x63

    def access(self, ring, kind, vaddr, value):
        "(DONE, value) or (FAULT, cr2, errcode); a fresh TLB each time."
        cpu, f = self.cpu, self.cpu.f
        cpu.engine.restore(self.rings[ring])
        cpu.state[f.EIP], cpu.state[f.EBX], cpu.state[f.ECX] = self.routines[kind], vaddr, value
        cpu.engine.store()
        assert cpu.run() == 'halted'
        now = cpu.registers()
        vector = now['eip'] - 1 - HIGH - 0x18000 >> 4
        if vector == 14: return FAULT, now['cr2'], self.mem.u32[now['esp'] - HIGH >> 2]
        assert vector == 128, now
        return DONE, now['eax']


class Shadowed(Puppet):
    "The same, seen through shadow page tables."
    def begin(self, data):
        "A new Guest in the address space in which the test takes place."
        self.host.rng.seed(0)
        self.host.clock.left = 1000
        self.born_again()
        self.launcher.put(AREA, data)
        self.launcher.put(DIRECTORY + 3072, bytes(self.mm.ram[self.pgdir + 3072:self.pgdir + 3076]))
        self.do([call(NEW_PGTABLE, DIRECTORY)])


class Patience(VirtualClock):
    "A Guest that faults for ever fails the test instead of stopping it."
    left = 0
    def switched(self):
        super().switched()
        self.left -= 1
        if self.left < 0: raise AssertionError('the Guest faults for ever')


@pytest.fixture(scope='module')
def machines():
    with Host(memory=4 << 20, clock=Patience()) as host:
        shadowed = Shadowed(host)
        shadowed.seen = {}
        yield shadowed, Plain(shadowed)
        shadowed.close()


def compare(machines, pgds, ptes, steps):
    "Run one case on both. Raises AssertionError where they differ."
    shadowed, plain = machines
    data = area(pgds, ptes)
    shadowed.begin(data)
    plain.load(data)
    commands, expected, late, values = [], [], set(), iter(range(0x11111111, 0xFFFFFFFF, 0x01010101))
    for step in steps:
        if step[0] == 'access':
            _, ring, kind, vaddr = step
            value = next(values)
            commands.append(shadowed.access(ring, kind, vaddr, value))
            expected.append((step, plain.access(ring, kind, vaddr, value)))
            continue
        *where, new, how = step[1:]
        if step[0] == 'pte': at, tell = TABLES[where[0]] + 4*where[1], call(SET_PTE, DIRECTORY, PLACE + where[0] << 22 | where[1] << 12, new)
        else: at, new, tell = DIRECTORY + 4*(PLACE + where[0]), TABLES[where[0]] | new, call(SET_PMD, DIRECTORY, PLACE + where[0])
        plain.mem.u32[at >> 2] = new
        commands += [poke(at, new), tell if how == 'told' else call(FLUSH_TLB, how == 'all')]
        if step[0] == 'pte':
            late.discard(at)
            if how == 'told' and new & (ACCESSED | DIRTY): late.add(at)              # LATE_BITS
    results = shadowed.do(commands)
    assert shadowed.lg.dead is None and len(results) == len(expected)
    for result, (step, wanted) in zip(results, expected): same(shadowed.seen, step, result, wanted)
    ours, theirs = bytes(shadowed.mm.ram[AREA:END]), bytes(plain.mem.u8[AREA:END])
    assert ours[0x3000:] == theirs[0x3000:], 'the pages themselves differ'
    for at in range(AREA, FRAMES[0], 4):
        mine, other = (struct.unpack_from('<I', data, at - AREA)[0] for data in (ours, theirs))
        if mine == other or at == DIRECTORY + 4092: continue
        if at < TABLES[0]: name, bits = 'PGD_ACCESSED', ACCESSED
        else: name, bits = 'LATE_BITS', (ACCESSED | DIRTY) if at in late else 0
        shadowed.seen[name] = shadowed.seen.get(name, 0) + 1
        other &= ~bits | mine
        assert mine == other, f'entry at {at:#x}: {mine:#x} in the Guest, {other:#x} on the plain machine'


def same(seen, step, result, wanted):
    "An access must have ended alike."
    if step[2] == FETCH and result[0] == wanted[0] == DONE: wanted = result           # whatever was in EAX
    if result[0] == wanted[0] == FAULT:
        key = 'fault', wanted[2]
        if wanted[2] & 1 > result[2] & 1: seen['ERROR_PRESENT'] = seen.get('ERROR_PRESENT', 0) + 1
        if wanted[2] & 1: wanted = (*wanted[:2], wanted[2] & ~1 | result[2] & 1)      # ERROR_PRESENT
    else: key = 'done', step[1], step[2]
    seen[key] = seen.get(key, 0) + 1
    assert result == wanted, f'{step}: {result} in the Guest, {wanted} on the plain machine'


@seed(2007)
@settings(max_examples=EXAMPLES, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck),
          phases=[Phase.generate, Phase.shrink])
@given(cases)
def test_like_a_plain_i386(machines, case): compare(machines, *case)


def random_cases(text, n):
    rng = random.Random(text)
    kinds = ACCESSES, ACCESSES, ACCESSES, EDITS, TOLD, EDITS_ABOVE
    for _ in range(n):
        yield ([rng.choice(PGD_FLAGS) for _ in range(2)], [rng.choice(PTES) for _ in range(4)], [rng.choice(rng.choice(kinds)) for _ in range(8)])


def test_all_sorts_of_things_have_happened(machines):
    "Each kind of access succeeds from each ring, each kind of fault comes up, and each known difference is one that does occur."
    seen = machines[0].seen = {}
    for case in random_cases('all', 300): compare(machines, *case)
    assert {('done', ring, kind) for ring in (1, 3) for kind in (READ, WRITE, FETCH)} <= set(seen)
    assert {('fault', code) for code in (0, 2, 3, 4, 5, 6, 7)} <= set(seen)
    assert {'PGD_ACCESSED', 'ERROR_PRESENT', 'LATE_BITS'} <= set(seen)


@pytest.mark.parametrize('told, guest, plain', ((0x27, 0x27, 0x67), (0x47, 0x47, 0x67), (0x67, 0x67, 0x67), (7, 0x67, 0x67)))
def test_bits_that_come_late(machines, told, guest, plain):
    "SET_PTE with ACCESSED or DIRTY: the entry works at once, and the Host never hears of the write that follows."
    steps = [('access', 3, READ, VADDRS[1]), ('pte', *SLOTS[0], FRAMES[0] | told, 'told'), ('access', 3, WRITE, VADDRS[0])]
    compare(machines, (7, 7), [FRAMES[0] | 7]*4, steps)
    at = TABLES[0] + 4*SLOTS[0][1]
    assert [struct.unpack_from('<I', memory, at)[0] for memory in (machines[0].mm.ram, machines[1].mem.u8)] == [FRAMES[0] | guest, FRAMES[0] | plain]


# --- would we notice? -------------------------------------------------------------------------------------------------

def nothing(*args): return None
def unchecked_rights(real): return lambda lg, gpte, write: real(lg, gpte, write) | USER | RW
def read_only_ignored(real): return lambda lg, gpte, write: real(lg, gpte | RW, write)
def no_write_back(real): return lambda lg, at, value: None if AREA <= at < END else real(lg, at, value)
def dirty_at_once(real): return lambda lg, vaddr, errcode: real(lg, vaddr, errcode | 2) or real(lg, vaddr, errcode)
def wrong_address(real): return lambda lg, trap, cr2: real(lg, trap, cr2 ^ 4)


@pytest.mark.parametrize('where, change', (
    ('page_tables.gpte_to_spte', unchecked_rights), ('page_tables.gpte_to_spte', read_only_ignored), ('page_tables.lgwrite_u32', no_write_back),
    ('core.demand_page', dirty_at_once), ('core.handle_trap', wrong_address), ('hypercalls.LHCALL.SET_PTE.does', nothing),
    ('hypercalls.guest_pagetable_flush_user', nothing), ('hypercalls.LHCALL.SET_PMD.does', nothing)), ids=lambda x: x if isinstance(x, str) else x.__name__)
def test_a_broken_host_is_noticed(monkeypatch, machines, where, change):
    real = pydoc.locate(f'lguest_lit.host.{where}')
    monkeypatch.setattr(f'lguest_lit.host.{where}', nothing if change is nothing else change(real))
    with pytest.raises((AssertionError, OSError)):
        for case in random_cases(where, 800): compare(machines, *case)


# --- changes of which the Host was not told ---------------------------------------------------------------------------

def untold(machines, pgds, ptes, before, at, new, after):
    "An access, an edit that is not told, an access: outcomes in the Guest."
    shadowed, _ = machines
    shadowed.begin(area(pgds, ptes))
    commands = [shadowed.access(*before, 1)] + [poke(at, new)] + [shadowed.access(*after, 2)]
    return [result[0] for result in shadowed.do(commands)]


VADDR, FULL = VADDRS[0], [FRAMES[0] | 7]*4


def test_untold_changes(machines):
    "What a Guest takes away without a word stays; what it adds is found at the next fault."
    entry = TABLES[0] + 4*SLOTS[0][1]
    assert untold(machines, (7, 7), FULL, (3, WRITE, VADDR), entry, FRAMES[0] | 5, (3, WRITE, VADDR)) == [DONE, DONE]
    assert untold(machines, (7, 7), FULL, (3, WRITE, VADDR), entry, 0, (3, READ, VADDR)) == [DONE, DONE]
    assert untold(machines, (7, 7), FULL, (3, WRITE, VADDR), DIRECTORY + 4*PLACE, 0, (3, READ, VADDR)) == [DONE, DONE]
    less = [FRAMES[0] | 5]*4
    assert untold(machines, (7, 7), less, (3, READ, VADDR), entry, FRAMES[0] | 7, (3, WRITE, VADDR)) == [DONE, DONE]
    assert untold(machines, (7, 7), [0]*4, (3, READ, VADDR), entry, FRAMES[0] | 7, (3, READ, VADDR)) == [FAULT, DONE]
    assert untold(machines, (0, 7), FULL, (3, READ, VADDR), DIRECTORY + 4*PLACE, TABLES[0] | 7, (3, READ, VADDR)) == [FAULT, DONE]


@pytest.mark.parametrize('first', (5, 3), ids=('writable now', "the user's now"))
def test_untold_rights_at_the_top_level_arrive_with_the_fault(machines, first):
    "The seed kept the shadow's old flags, and the Guest faulted for ever."
    seen = untold(machines, (first, 7), FULL, (1, READ, VADDR), DIRECTORY + 4*PLACE, TABLES[0] | 7, (3, READ if first == 3 else WRITE, VADDR))
    assert seen == [DONE, DONE]
