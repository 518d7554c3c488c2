"""Random but legal Guests, looked at from outside at every world switch: see invariants.py for what must hold.

An example is one Guest's life: born through /dev/lguest, up to six random actions (accesses from ring 1 and 3, edits of its page
tables which it tells of in one of the ways that there are, changes of page table, stack, IDT, GDT and TLS, naps, a turn of a second
Guest), and closed. LGUEST_LIT_EXAMPLES: how many lives; they are the same ones each time.
"""
import os, pydoc, random, struct

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings, strategies as st

from invariants import (ACCESSED, DIRTY, DONE, FAULT, FETCH, FLUSH_TLB, GLOBAL, HALT, IRQS, LOAD_GDT, LOAD_IDT, LOAD_TLS, NEW_PGTABLE, PAGE_OFFSET,
                        PRESENT, READ, RW, SET_CLOCKEVENT, SET_PMD, SET_PTE, SET_STACK, TS, USER, WRITE, Puppet, Watch, call,
                        poke, queue)
from lguest_lit.host.clock import VirtualClock
from lguest_lit.host.host import Host
from lguest_lit.launcher.launcher import Launcher

EXAMPLES = int(os.environ.get('LGUEST_LIT_EXAMPLES', 10_000))

# The Guest's memory from 1.5 MB on: six directories (there are four slots), for each two PTE pages at two places, one for all at
# 0xFF800000, and the pages that are mapped.
AREA = 0x180000
DIRECTORIES = [AREA + 4096*n for n in range(6)]
PLACES = [0, 767]
TABLES = {(d, place, n): AREA + 4096*(6 + 4*d + 2*i + n) for d in range(6) for i, place in enumerate(PLACES) for n in (0, 1)}
SHARED = [AREA + 4096*30, AREA + 4096*31]
FRAMES = [AREA + 4096*(32 + n) for n in range(4)]
HIGH = 1022
PAGES = [0, 1023]
VADDRS = [place << 22 | j << 12 for place in (*PLACES, HIGH) for j in PAGES]
ELSEWHERE = [0x40000000, 0xBFFFE000, PAGE_OFFSET + FRAMES[0], PAGE_OFFSET + DIRECTORIES[0], 0xC0700000, 0xFFC00000, 0xFFC02000]
INT_128 = b'\xcd\x80'

PTE_FLAGS = sorted({present | rights | used | extra for present in (0, PRESENT) for rights in (0, RW, USER, RW | USER)
                    for used in (0, ACCESSED, DIRTY, ACCESSED | DIRTY) for extra in (0, GLOBAL | 0x10, 0xE00)})
PGD_FLAGS = sorted({present | rights | used for present in (0, PRESENT) for rights in (0, RW, USER, RW | USER) for used in (0, 0x20, 0x60)})
TELL = 'call', 'ring', 'user', 'all'

OFFSET = {READ: 0x10, WRITE: 0x10, FETCH: 0xF00}
ACCESSES = [('access', ring, kind, vaddr) for ring in (1, 3) for kind in (READ, WRITE, FETCH) for vaddr in VADDRS*2 + ELSEWHERE
            if kind == READ or vaddr not in (PAGE_OFFSET + FRAMES[0], PAGE_OFFSET + DIRECTORIES[0], 0xFFC00000, 0xFFC02000)
            or kind == WRITE and vaddr != PAGE_OFFSET + DIRECTORIES[0]]
PTES = [('pte', d, vaddr, FRAMES[n % 4] | flags, tell) for d in range(6) for vaddr in VADDRS for n, flags in enumerate(PTE_FLAGS) for tell in TELL]
PGDS = [('pgd', d, place, n, flags, tell) for d in range(6) for place in (*PLACES*4, HIGH) for n in (0, 1) for flags in PGD_FLAGS for tell in TELL]
SWITCHES = [('new', d) for d in range(7)]
GATES = [('gate', vector, kind, dpl) for vector in (*range(8), 9, 13, 15, 31, 33, 63, 64, 127, 255)
         for kind in (0x0E, 0x8E, 0x8F) for dpl in (0, 1, 3)]
STACKS = [('stack', top, pages) for top in (0x2000, 0x2FFC, 0x3000, 0x3004, 0x4000) for pages in (0, 1, 2)]
DESCRIPTORS = [('gdt', n, high) for n in (0, 1, 6, 7, 10, 11, 16, 18, 31) for high in (0, 0x00CF9200, 0x00CF9A00, 0x00CFF300, 0x0040FA00, 0x0010D200)]
TLSES = [('tls', high) for high in (0, 0x00CF9200, 0x00CFF200, 0x00CFB300)]
OTHERS = [('flush', 0), ('flush', 1), ('ring_flush', 0), ('ring_flush', 1), ('ts', 0), ('ts', 8),
          ('nap', 20_000), ('nap', 50_000), ('irqs', 0), ('irqs', 0x200), ('turn',), ('turn',)]
KINDS = ACCESSES, ACCESSES, ACCESSES, PTES, PTES, PGDS, SWITCHES, GATES + STACKS, DESCRIPTORS + TLSES, OTHERS
actions = st.lists(st.one_of(*map(st.sampled_from, KINDS)), min_size=1, max_size=6)


def prepare(puppet):
    "Six address spaces that begin with everything mapped, and a GDT that can be edited."
    put, kernel = puppet.launcher.put, int.from_bytes(puppet.mm.ram[puppet.pgdir + 3072:puppet.pgdir + 3076], 'little')
    put(puppet.pgdir + 4*HIGH, struct.pack('<I', SHARED[0] | 7))
    for d, at in enumerate(DIRECTORIES):
        put(at, bytes(4096))
        for place in PLACES: put(at + 4*place, struct.pack('<I', TABLES[d, place, 0] | 7))
        put(at + 3072, struct.pack('<I', kernel))
        put(at + 4*HIGH, struct.pack('<I', SHARED[0] | 7))
    for table in (*TABLES.values(), *SHARED):
        put(table, bytes(4096))
        for n, j in enumerate(PAGES): put(table + 4*j, struct.pack('<I', FRAMES[n] | 7))
    for frame in FRAMES: put(frame + OFFSET[FETCH], INT_128)


class Story:
    "Actions into commands. It keeps in mind what the Guest does: which directory is in use, which PTE pages are linked."
    def __init__(self, puppet):
        self.puppet, self.now, self.commands = puppet, 0, [call(NEW_PGTABLE, DIRECTORIES[0])]
        self.linked = {(d, place): table for (d, place, n), table in TABLES.items() if not n}
        self.shared, self.directories = SHARED[0], [*DIRECTORIES, puppet.pgdir]

    def run(self):
        "Do what has come together; every access must have had an outcome."
        results, self.commands = self.puppet.do(self.commands), []
        assert all(result[0] in (DONE, FAULT) for result in results)

    def access(self, ring, kind, vaddr):
        self.commands.append(self.puppet.access(ring, kind, vaddr + OFFSET[kind], 0x12345678))

    def tell(self, how, d, *hypercalls):
        "Let the Host know, one way or another."
        if how == 'all': self.commands.append(call(FLUSH_TLB, 1))
        elif how == 'user' and d == self.now: self.commands.append(call(FLUSH_TLB, 0))
        else: self.commands += [(queue if how == 'ring' else call)(*h) for h in hypercalls]

    def pte(self, d, vaddr, entry, how):
        place, j = vaddr >> 22, vaddr >> 12 & 0x3FF
        table = self.shared if place == HIGH else self.linked[d, place]
        self.commands.append(poke(table + 4*j, entry))
        self.tell(how, None if place == HIGH else d, (SET_PTE, DIRECTORIES[d], vaddr, entry))

    def pgd(self, d, place, n, flags, how):
        if place == HIGH: d, table, where = None, SHARED[n], self.directories       # the kernel's half is everybody's
        else: table, where = TABLES[d, place, n], [DIRECTORIES[d]]
        if place == HIGH: self.shared = table
        else: self.linked[d, place] = table
        for at in where:
            self.commands.append(poke(at + 4*place, table | flags))
            self.tell(how, d, (SET_PMD, at, place))

    def new(self, d):
        self.now = d
        self.commands.append(call(NEW_PGTABLE, self.directories[d]))

    def gate(self, vector, kind, dpl): self.commands.append(call(LOAD_IDT, vector, 0x00601234, 0xC0110000 | kind << 8 | dpl << 13))
    def stack(self, top, pages): self.commands.append(call(SET_STACK, 0x69, self.puppet.symbols['stacks'] + top, pages))

    def gdt(self, n, high):
        table = self.puppet.symbols['gdt'] - PAGE_OFFSET
        self.commands += [poke(table + 8*n, 0x1234FFFF), poke(table + 8*n + 4, high), call(LOAD_GDT, table, 32)]

    def tls(self, high):
        table = FRAMES[0] + 0x800
        self.commands += [poke(table + 4*n, high + n if n % 2 else 0x1234FFFF + (n << 16)) for n in range(6)] + [call(LOAD_TLS, table)]

    def flush(self, everything): self.commands.append(call(FLUSH_TLB, everything))
    def ring_flush(self, everything): self.commands.append(queue(FLUSH_TLB, everything))
    def ts(self, on): self.commands.append(call(TS, on))
    def nap(self, ns): self.commands += [call(SET_CLOCKEVENT, ns), call(HALT)]
    def irqs(self, on): self.commands.append((IRQS, 0, on, 0, 0))

    def turn(self):
        self.run()
        self.puppet.other.turn()


class Other(Puppet):
    "The second Guest: all it ever does is to look at its own memory, and to change a gate."
    def turn(self):
        results = self.do([self.access(ring, WRITE, PAGE_OFFSET + FRAMES[0], 0x0DDBA11) for ring in (1, 3)] + [call(LOAD_IDT, 5, 0, 0xC0118F00)])
        assert results == [(DONE, 0x0DDBA11)]*2


@pytest.fixture(scope='module')
def guests():
    "Two Guests on one Host that is watched; the first is not born yet."
    with Host(memory=5 << 20, clock=VirtualClock()) as host:
        watch = Watch(host, strict=True)
        puppet, other = Puppet(host, prepare), Other(host)
        puppet.other, puppet.watch = other, watch
        watch.check()
        puppet.born_again()
        other.born_again()
        other.turn()
        puppet.file.close()
        yield puppet
        puppet.close()
        other.close()


def live(puppet, story):
    "A life, and an autopsy."
    host, watch = puppet.host, puppet.watch
    puppet.file.close()                                      # if the one before came to a bad end
    host.rng.seed(0)
    before = list(host.mem.refs)
    watch.on = False                                         # each is born alike; the fixture has watched
    puppet.born_again()
    watch.on = True
    told = Story(puppet)
    for action in story: getattr(told, action[0])(*action[1:])
    told.run()
    watch.check()
    assert puppet.lg.dead is None
    puppet.file.close()
    assert host.mem.refs == before


@seed(2007)
@settings(max_examples=EXAMPLES, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck),
          phases=[Phase.generate, Phase.shrink])
@given(actions)
def test_lives(guests, story): live(guests, story)


def test_all_sorts_of_things_have_happened(guests):
    "After the lives above: each way into the Host, both Guests, both rings' faults."
    watch, story = guests.watch, [('access', 3, READ, VADDRS[0]), ('turn',), ('nap', 20_000), ('access', 3, FETCH, 0x40000000)]
    watch.traps.clear()
    checks = watch.checks
    live(guests, story)
    assert {14, 31} <= set(watch.traps) <= {14, 31, 32} and watch.checks > checks + 8


# --- Guests that exist ------------------------------------------------------------------------------------------------

def test_first_guest_for_300_ticks():
    "The Guest that comes with the package tells of every change: the strict check holds at each of its world switches."
    with Host(memory=20 << 20, clock=VirtualClock(insn_ns=500)) as host:
        watch = Watch(host, strict=True)
        with Launcher('first', mem='4M', args='ticks=300 quiet hz=1000', host=host) as launcher:
            result = launcher.run()
            assert result.reason == 'CRASH: Power down'
            watch.check()
        assert watch.checks > 1000 and {14, 31} < set(watch.traps)


# --- would we notice? -------------------------------------------------------------------------------------------------

def nothing(*args): return None
def writable(real): return lambda lg, gpte, write: real(lg, gpte, write) | RW
def neighbour(real): return lambda mm, gpfn, write: real(mm, gpfn ^ (gpfn << 12 in FRAMES), write)
def global_too(real): return lambda lg, gpte, write: real(lg, gpte, write) | gpte & GLOBAL
def twice(real): return lambda lg, spte: (real(lg, spte), real(lg, spte))


def ring_0(real):
    def careless(lg, *entries):
        real(lg, *entries)
        lg.gdt_b[6] &= ~0x6000
    return careless


def state_too(real):
    def breach(lg, pages):
        real(lg, pages)
        host = lg.host
        host.mem.u32[(host.switcher_pte_pages[0] << 10) + (pages >> 12 & 0x3FF) + 1] |= RW
    return breach


@pytest.mark.parametrize('where, change', (
    ('page_tables.release_pte', nothing), ('page_tables.release_pte', twice), ('page_tables.release_pgd', nothing),
    ('page_tables.gpte_to_spte', writable),
    ('page_tables.gpte_to_spte', global_too), ('hypercalls.LHCALL.SET_PMD.does', nothing), ('hypercalls.LHCALL.SET_PTE.does', nothing),
    ('hypercalls.guest_pagetable_flush_user', nothing), ('hypercalls.guest_pagetable_clear_all', nothing),
    ('page_tables.flush_user_mappings', nothing),
    ('lg.LauncherMemory.get_pfn', neighbour), ('core.map_switcher_in_guest', state_too), ('core.copy_gdt', nothing), ('core.copy_gdt_tls', nothing),
    ('core.copy_traps', nothing), ('segments.fixup_gdt_table', ring_0), ('lguest_user.free_guest_pagetable', nothing)),
    ids=lambda x: x if isinstance(x, str) else x.__name__)
def test_a_broken_host_is_noticed(monkeypatch, where, change):
    "Each of these breaks the Host in one place; some of the first lives must come to a bad end."
    module, name = f'lguest_lit.host.{where}'.rsplit('.', 1)
    rng = random.Random(where)
    with Host(memory=5 << 20, clock=VirtualClock()) as host:
        puppet, other = Puppet(host, prepare), Other(host)
        puppet.other, puppet.watch = other, Watch(host, strict=True)
        other.born_again()
        other.turn()
        monkeypatch.setattr(f'{module}.{name}', change if change is nothing else change(pydoc.locate(f'{module}.{name}')))
        with pytest.raises((AssertionError, ValueError)):
            for _ in range(400): live(puppet, [rng.choice(rng.choice(KINDS)) for _ in range(6)])
