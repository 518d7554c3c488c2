"""Guests that wish us ill. Whatever a Guest does, it lives or it dies with a message: no Python exception comes out of the Host, no byte
outside the Guest changes, nothing hangs, every page comes home, and the Guest next door notices nothing.

LGUEST_LIT_EXAMPLES says how many of them are tried."""
import os
import random
import signal
import struct

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from guests import LOAD_AT, NO_CALL, PAGE_OFFSET, dma, guest, hypercall, make_elf, string_at
from lguest_lit.host.clock import VirtualClock
from lguest_lit.host.host import Host
from lguest_lit.launcher.launcher import Launcher
from lguest_lit.host.lg import Fixes
from lguest_lit.launcher.workbench import OneTurn, Workbench

EXAMPLES = int(os.environ.get('LGUEST_LIT_EXAMPLES', 300))
MEM, DEEDS, SLOT = 2 << 20, 24, 128                # each deed of a Guest has a slot of its own
TURNS, SLICES, SECONDS = 200, 600, 60              # world switches and slices until a Guest is stopped; seconds until the test is
NEXT, INTRO, DATA, GDT, COUNTER, SLOTS = 0x100040, 0x100080, 0x101000, 0x102000, 0x102F00, 0x103000      # Guest-physical
STACK, USER_STACK = PAGE_OFFSET + 0x180000, PAGE_OFFSET + 0x170000
PGDIR, PTES = MEM - 0x1000, MEM - 0x2000
SWITCHER, REGS, STATE = 0xFFC00000, 0xFFC01000, 0xFFC02000


def le(*words): return struct.pack(f'<{len(words)}I', *(w & 0xFFFFFFFF for w in words))
def jump(here, to): return b'\xe9' + le(to - here - 5)


# --- a hostile Guest --------------------------------------------------------------------------------------------------
# NEXT brings the segments and the stack in order and runs the next slot. All gates lead there: a deed that traps is over.

SEGMENTS = {12: 0x00CF9B000000FFFF, 13: 0x00CF93000000FFFF, 14: 0x00CFFB000000FFFF, 15: 0x00CFF3000000FFFF}
TABLE = b''.join(struct.pack('<Q', SEGMENTS.get(n, 0)) for n in range(32))
NEXT_CODE = (b'\x66\xb8\x69\x00\x8e\xd0\xbc' + le(STACK) + b'\x8e\xd8\x8e\xc0'           # ss, esp, ds, es
             + b'\xff\x05' + le(PAGE_OFFSET + COUNTER) + b'\xa1' + le(PAGE_OFFSET + COUNTER)
             + b'\xc1\xe0\x07\x05' + le(PAGE_OFFSET + SLOTS - SLOT) + b'\xff\xe0')
TO_USER = b'\x6a\x7b\x68' + le(USER_STACK) + b'\x68' + le(0x202) + b'\x6a\x73\xe8' + le(0) + b'\x83\x04\x24\x05\xcf'   # pushes; iret
GATED = [v for v in range(32) if v not in (2, 8, 15, 31)] + [32, 128]


def image(deeds, kinds, initialised):
    "The ELF image of a Guest that does its deeds one after the other; `kinds` are the gates' second bytes."
    code = bytearray(SLOTS - LOAD_AT + SLOT*(DEEDS + 1))
    def put(at, data): code[at - LOAD_AT:at - LOAD_AT + len(data)] = data
    intro = b'\xbc' + le(STACK)
    if initialised:
        intro += hypercall(1, DATA) + hypercall(3, GDT, 32) + hypercall(7, 0x69, STACK, 1)
        for v, kind in zip(GATED, kinds): intro += hypercall(6, v, 0x610000 | NEXT & 0xFFFF, NEXT + PAGE_OFFSET & 0xFFFF0000 | kind << 8)
    put(LOAD_AT, b'GenuineLguest' + jump(LOAD_AT + 13, INTRO))
    put(NEXT, NEXT_CODE)
    put(INTRO, intro + jump(INTRO + len(intro), NEXT))
    put(DATA + 12, b'\xff'*64)
    put(GDT, TABLE)
    for n in range(DEEDS + 1):
        at = SLOTS + SLOT*n
        deed = deeds[n][:SLOT - 5] if n < len(deeds) else hypercall(2, GDT)
        put(at, deed + jump(at + len(deed), NEXT))
    return make_elf((LOAD_AT, LOAD_AT + PAGE_OFFSET, bytes(code)))


# --- deeds ------------------------------------------------------------------------------------------------------------

VIRTUAL = [0, 4, 0xFFF, 0x1000, 0x400000, 0x7FFFFFFF, PAGE_OFFSET - 4, PAGE_OFFSET, PAGE_OFFSET + MEM - 4, PAGE_OFFSET + MEM, PAGE_OFFSET + MEM
    + 0x1000,
           0xF0000000, SWITCHER - 4, SWITCHER, SWITCHER + 0x4D, REGS, REGS + 0xFB8, REGS + 0xFE4, REGS + 0xFEC, REGS + 0xFF0, REGS + 0xFFC, STATE,
           STATE + 0x14,
           STATE + 0x2C, STATE + 0x90, STATE + 0x890, STATE + 0xFFC, 0xFFC03000, 0xFFFFF000, 0xFFFFFFFC, 0xFFFFFFFF, STACK, STACK - 4, DATA
           + PAGE_OFFSET,
           DATA + PAGE_OFFSET + 12, DATA + PAGE_OFFSET + 1112, SLOTS + PAGE_OFFSET, NEXT + PAGE_OFFSET, GDT + PAGE_OFFSET]
PHYSICAL = [0, 1, 2, 3, 0xFFF, 0x1000, DATA, GDT, SLOTS, PGDIR, PGDIR + 2, PGDIR - 8, PTES, MEM - 128, MEM - 4, MEM, MEM + 0xF00, MEM + 0x1000 - 128,
            MEM + 0xFFC, MEM + 0xFFD, MEM + 0x1000, MEM + 0x2000, 0x7FFFFFFF, 0x80000000, 0xFFFFF000, 0xFFFFFFFC, 0xFFFFFFFF, 0x150000, 0x150064]
COUNTS = [0, 1, 2, 3, 12, 13, 16, 31, 32, 33, 64, 128, 255, 256, 1023, 1024, 0x101, 0xFFFF01, 0xFFFFFF1F, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
near = st.integers(-5, 5)
words = st.integers(0, 0xFFFFFFFF)
virtual = st.sampled_from(VIRTUAL) | st.builds(lambda a, b: a + b & 0xFFFFFFFF, st.sampled_from(VIRTUAL), near) | words
inside = st.integers(0, 0xD00).map(lambda n: SWITCHER + n) | st.integers(0, 1023).map(lambda n: REGS + 4*n) | virtual
physical = st.sampled_from(PHYSICAL) | st.builds(lambda a, b: a + b & 0xFFFFFFFF, st.sampled_from(PHYSICAL), near) | st.integers(0, MEM) | words
selectors = st.integers(0, 31).flatmap(lambda n: st.integers(0, 7).map(lambda low: n << 3 | low)) | st.integers(0, 0xFFFF)
descriptors = st.one_of(
    st.builds(lambda kind, dpl, base, flags, s: (0xFFFF | base << 16 & 0xFFFF0000, base & 0xFF000000 | base >> 16 & 0xFF | 0x8000 | s << 12
              | dpl << 13 | kind << 8 | flags << 20 | 0xF0000), st.integers(0, 15), st.integers(0, 3),
              st.sampled_from([0, 0, 0x1000, PAGE_OFFSET, 0x80000000, SWITCHER, 0xFFFFFFFF]), st.sampled_from([0xC, 0xC, 8, 4, 0]),
              st.sampled_from([1, 1, 1, 0])),
    st.tuples(words, words), st.just((0, 0)), st.just((0xB0067, 0x8900)))
gates = st.one_of(st.builds(lambda at, kind: (0x610000 | at & 0xFFFF, at & 0xFFFF0000 | kind), inside | st.just(NEXT + PAGE_OFFSET),
                            st.sampled_from([0x8E00, 0x8F00, 0xEE00, 0xEF00, 0xEF00, 0xE500, 0x8C00, 0x0F00, 0x9F00, 0xAFFF])), st.tuples(words,
                            words))
ptes = st.one_of(st.builds(lambda pfn, flags: pfn << 12 | flags, st.sampled_from([0, 0x101, 0x103, MEM >> 12, (MEM >> 12) + 1, PGDIR >> 12, 0x180,
    0xFFFFF])
                           | st.integers(0, 0x210), st.sampled_from([0, 1, 3, 5, 7, 0x27, 0x67, 0x167, 0x63, 0x87, 0xF, 0x17, 0x60, 0x20, 0xFFF])
                           | st.integers(0, 0xFFF)), words)

call = st.one_of(
    st.builds(hypercall, st.integers(0, NO_CALL), physical | virtual | st.sampled_from(COUNTS), physical | virtual | st.sampled_from(COUNTS),
              st.sampled_from(COUNTS) | ptes),
    st.builds(lambda sel, esp, n: hypercall(7, sel, esp, n), selectors, inside, st.sampled_from([0, 1, 2, 3, 0xFFFFFFFF])),
    st.builds(lambda v, g: hypercall(6, v, *g), st.integers(0, 129) | words, gates),
    st.builds(lambda at, v, e: hypercall(14, at, v, e), st.sampled_from([PGDIR]) | physical, inside, ptes),
    st.builds(lambda at, n: hypercall(15, at, n), st.sampled_from([PGDIR]) | physical, st.sampled_from([0, 1, 767, 768, 769, 1022, 1023, 1024])
        | words),
    st.builds(lambda key, at, n: hypercall(12, key, at, n), st.sampled_from([0, 4, MEM]) | physical, physical, st.sampled_from(COUNTS)),
    st.builds(lambda key, at: hypercall(13, key, at), st.sampled_from([0, 4]) | physical, physical),
    st.builds(hypercall, st.sampled_from([0, 4, 5, 8, 10, 11]), physical))
store = st.builds(lambda at, value: b'\xc7\x05' + le(at, value), inside, words | ptes)
byte = st.builds(lambda at, value: b'\xc6\x05' + le(at) + bytes([value]), inside, st.integers(0, 255))
ring = st.builds(lambda n, number, args, status: b'\xc7\x05' + le(PAGE_OFFSET + DATA + 76 + 16*n, number) + b''.join(
    b'\xc7\x05' + le(PAGE_OFFSET + DATA + 80 + 16*n + 4*i, arg) for i, arg in enumerate(args)) + b'\xc6\x05' + le(PAGE_OFFSET + DATA + 12 + n)
        + bytes([status])
    + b'\xb8' + le(0) + b'\xcd\x1f', st.integers(0, 5) | st.integers(0, 63), st.integers(0, NO_CALL) | words, st.tuples(physical, physical | virtual,
        ptes), st.integers(0, 255))
descriptor = st.builds(lambda n, d, k: b'\xc7\x05' + le(PAGE_OFFSET + GDT + 8*n, d[0]) + b'\xc7\x05' + le(PAGE_OFFSET + GDT + 8*n + 4, d[1])
    + hypercall(*k),
                       st.integers(0, 31), descriptors, st.sampled_from([(3, GDT, 32), (3, GDT, 32), (16, GDT + 48), (3, GDT, 14)]))
page = st.builds(lambda at, value, k: b'\xc7\x05' + le(PAGE_OFFSET + at, value) + hypercall(*k),
                 st.integers(0, 1023).map(lambda n: PGDIR + 4*n) | st.sampled_from([0x103, 0x101, 0x180, 0x17F, 0x1FE, 0x1FF]).map(lambda n: PTES
                 + 4*n)
                 | st.sampled_from([0, 768, 1023]).map(lambda n: PGDIR + 4*n), ptes,
                 st.sampled_from([(5, 1), (5, 0), (4, PGDIR), (4, 0x150000), (15, PGDIR, 768), (0,)]))
load = st.builds(lambda sel, modrm: b'\x66\xb8' + struct.pack('<H', sel) + b'\x8e' + bytes([modrm]), selectors, st.sampled_from([0xD0, 0xD8, 0xC0,
    0xE0, 0xE8, 0xC8]))
far = st.builds(lambda op, at, sel: bytes([op]) + le(at) + struct.pack('<H', sel), st.sampled_from([0xEA, 0x9A]), inside, selectors)
away = st.builds(lambda at, how: b'\xb8' + le(at) + how, inside | st.just(SLOTS + PAGE_OFFSET), st.sampled_from([b'\xff\xe0', b'\xff\xd0',
    b'\x89\xc4\x50', b'\x89\xc4\xcd\x1f',
            b'\x89\xc4\x0f\x0b', b'\x89\xc4\xcd\x80', b'\x89\xc4\xcf', b'\x89\xc4\xcb', b'\x89\xc4\x9d', b'\x89\xc4\x1f', b'\x0f\x01\x10',
            b'\x89\xc4\x61']))
flags = st.builds(lambda value, then: b'\x68' + le(value) + b'\x9d' + then, st.sampled_from([0x102, 0x4002, 0x4102, 0x3002, 0x40002, 0x20002,
    0x200002, 0x10002, 0x400, 0xFFFFFFFF]) | words,
                  st.sampled_from([b'', b'\xcd\x1f', b'\xcf', b'\x90\x90', b'\xcd\x80', b'\x0f\x0b', b'\x66\xcf']))
frame = st.builds(lambda ss, esp, fl, cs, eip, op: b'\x68' + le(ss) + b'\x68' + le(esp) + b'\x68' + le(fl) + b'\x68' + le(cs) + b'\x68' + le(eip)
    + op,
                  selectors, inside, st.sampled_from([0x202, 0x2, 0x102, 0x4202, 0x3202, 0x20202]) | words, selectors, inside,
                  st.sampled_from([b'\xcf', b'\xcb', b'\xca\x04\x00']))
ODD = ('0f34 0f35 0f05 0f07 f4 fa fb 6c 6d 6e 6f e420 e520 66e520 ec ed 66ec ee ef 0f011500000000 0f011d00000000 0f00d8 0f00d0 0f22d8 0f20c0 0f22c0 0f23c0 0f21f8 '
       '0f30 0f32 0f33 0f31 0f013800 0f06 0f09 0f08 0f01c1 0f01d0 0f01d1 0f01d8 0f01dd 0faa f1 cc ce cd02 cd08 cd20 cd1f cd80 '
       'cd03 cdff 62c0 8ec8 0fff 0f0b '
       'f3a4 f3a5 f3aa f36c f36e ebfe ebfd 0fa2 d9d0 dbe3 9b 0fae00 0fae08 0f77 c8ffff1f c9 60 61 66cf 66cb f0ff00 f00f0b '
       'f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f390 '
       'eb01f4ebfb eb01f4ebfb 2ecd80 66cd80 8ed08ed08ed0 17171717 9c9d 8ed09c eb01f490 0f02c0 0f03c0 0f00e0 0f01e0 0f01f0 63c0 '
       '27 37 d4 d5ff d400 f7f1 c4c4 c5c5 fff8 0f1f00 0f18').split()
odd = st.sampled_from(ODD).map(lambda h: bytes.fromhex(h if len(h) % 2 == 0 else h + '0'))
junk = st.binary(min_size=1, max_size=24)
# An entry for code with a base, and there we go; or one for a stack.
def based(n, b, rpl, base, then):
    a, b = 0xFFFF | base << 16 & 0xFFFF0000, base & 0xFF000000 | base >> 16 & 0xFF | b
    return (b'\xc7\x05' + le(PAGE_OFFSET + GDT + 8*n, a) + b'\xc7\x05' + le(PAGE_OFFSET + GDT + 8*n + 4, b) + hypercall(3, GDT, 32)
            + b'\xe8' + le(0) + b'\x58\x2d' + le(base - 15) + b'\x6a' + bytes([n << 3 & 0x7F | rpl]) + b'\x50\xcb' + then)
def stacked(n, b, base, then):
    return (b'\xc7\x05' + le(PAGE_OFFSET + GDT + 8*n, 0xFFFF | base << 16 & 0xFFFF0000) + b'\xc7\x05'
            + le(PAGE_OFFSET + GDT + 8*n + 4, base & 0xFF000000 | base >> 16 & 0xFF | b) + hypercall(3, GDT, 32)
            + b'\x66\xb8' + struct.pack('<H', n << 3 | 1) + b'\x8e\xd0' + then)


bases = st.sampled_from([0, 1, 0x1000, PAGE_OFFSET, 0x80000000, 0xC0170000, REGS, 0xFFFFF000])
based_code = st.builds(based, st.sampled_from([1, 2, 3, 12, 14]), st.sampled_from([0xCF9B00, 0xCFBB00, 0xCFFB00, 0x8F9B00, 0x4F9B00, 0xCF9F00]), st.sampled_from([1, 3]), bases, odd | junk)
based_stack = st.builds(stacked, st.sampled_from([1, 2, 3, 13]), st.sampled_from([0xCF9300, 0x8F9300, 0x0F9300, 0xCF9700, 0xCFF300]), bases,
                        st.sampled_from([b'\x9c', b'\x50', b'\x0f\x0b', b'\xcd\x1f', b'\xcd\x80', b'\xbc\2\0\0\0\x9c', b'\xbc\2\0\0\0\xcd\x80', b'\xcf', b'\x31\xe4\x0f\x0b']))
deed = st.one_of(based_code, based_stack, call, call, store, byte, ring, descriptor, page, load, far, away, flags, frame, odd, odd, junk,
                 st.lists(load | odd | junk, max_size=3).map(b''.join))
deeds = st.lists(deed | deed.map(lambda d: TO_USER + d), min_size=5, max_size=DEEDS)
kinds = st.lists(st.sampled_from([0xEE]*8 + [0xEF]*8 + [0x8E, 0x8F, 0]), min_size=len(GATED), max_size=len(GATED)) | st.just([0xEE]*len(GATED))


# --- the Host and the Guest next door ---------------------------------------------------------------------------------

class Hang(Exception): "The Host does not come back."


class Leash(VirtualClock):
    "Stops the Guest that it holds after so many turns and slices; interrupts and NMIs come in at random."
    launcher = noise = None

    def hold(self, launcher, slice, seed):
        self.launcher, self.then, self.turns, self.slices, self.noise = launcher, slice, 0, 0, random.Random(seed) if seed else None
        self.slice = 20_000                        # until it has introduced itself

    def enough(self):
        if self.launcher: self.launcher.stop('enough', 124)

    def switched(self):
        super().switched()
        self.turns += 1
        if self.turns > len(GATED) + 5: self.slice = self.then
        if self.turns >= TURNS: self.enough()

    def ran(self, instructions):
        super().ran(instructions)
        self.slices += 1
        if self.slices > SLICES: self.enough()
        if self.slices > 20*SLICES: raise Hang('interrupts are not taken')
        if self.noise and self.launcher:
            what = self.noise.random()
            if what < 0.1: self.launcher.host.cpu.raise_irq(self.noise.choice([0x20, 0x21, 0x7F, 0x81, 0xFF]))
            elif what < 0.15: self.launcher.host.cpu.raise_nmi()

    def sleep(self, host):
        if self.next is None: self.enough()
        else: super().sleep(host)


class House:
    "A Host, a peaceful Guest on it, and a record of every frame that was handed out since `watch`."
    def __init__(self):
        self.host = Host(memory=8 << 20, clock=Leash())
        self.taken, take = set(), self.host.mem._take
        def record(pfn, n):
            self.taken.update(range(pfn, pfn + n))
            return take(pfn, n)
        self.host.mem._take = record
        loop = hypercall(13, 0, string_at(0)) + b'\x46\xeb' + bytes([0x100 - 25])                # send; incl %esi; jmp
        self.peace = Launcher(guest(loop, (dma((string_at(1), 1)), b'.')), mem='2M', host=self.host)
        self.times = 0
        self.visit()
        self.visit()

    def visit(self):
        "The Guest next door does one thing, and has all its registers."
        self.host.clock.hold(None, 20_000, 0)
        assert self.peace.file.read(8) == le(string_at(0), 0)
        assert self.peace.file.lg.regs.esi == self.times and self.peace.file.lg.dead is None
        self.times += 1

    def close(self):
        self.peace.close()
        self.host.close()

    def excluded(self):
        "Physical (address, length) of what the Host itself changes: its stack, the Switcher's scratch and state pages, the processor's marks in tables."
        host = self.host
        scratch, state = host.switcher_pages[-2:]
        low = lambda vaddr: vaddr - PAGE_OFFSET
        yield low(host.stack) & ~0xFFF, 4096
        yield scratch << 12, 4096
        yield (state << 12) + 40 + 12, 8                               # esp1, ss1
        yield (state << 12) + 144, 8*32                                # the Guest's gates for traps ...
        yield (state << 12) + 144 + 8*128, 8                           # ... and the system call
        for first, end in ((0, 10), (12, 16), (17, 31)): yield (state << 12) + 2192 + 8*first, 8*(end - first)
        yield (state << 12) + 2192 + 8*16 + 5, 1                       # busy
        yield low(host.gdt) + 8*16 + 5, 1
        yield low(host.symbols['host_irq_count']), 1024
        yield low(host.symbols['fpu_image']), 512
        yield (host.switcher_pte_pages[0] << 12) + 4*(len(host.switcher_pages) - 2), 4       # whose register page

    def rest(self):
        "A copy of all memory, without the frames handed out since `taken` was cleared, and what is `excluded`."
        copy = bytearray(self.host.mem.u8)
        for at, n in self.excluded(): copy[at:at + n] = bytes(n)
        for pfn in self.taken: copy[pfn << 12:pfn + 1 << 12] = bytes(4096)
        return copy

    def collect(self, lg, refs):
        "What SET_PTE of the seed has lost [H:420]: references to pages of the Guest's own. They are given back here, for the next Guest's sake."
        mem, own = self.host.mem, range(lg.mm.base_pfn, lg.mm.base_pfn + lg.mm.pages + 1)        # its memory, and the page of zeroes
        lost = [pfn for pfn, (then, now) in enumerate(zip(refs, mem.refs)) if now > then]
        assert set(lost) <= set(own)
        for pfn in lost:
            while mem.refs[pfn] > refs[pfn]: mem.put_page(pfn)
        return lost

    def suffer(self, image, slice=1000, seed=0, fixes=Fixes(), typed=b''):
        "Run a hostile Guest to its end, and see what is left. Its last words, or why it was stopped; and its statistics."
        host = self.host
        self.taken.clear()
        refs, before, registers = list(host.mem.refs), bytearray(host.mem.u8), host.cpu.registers()
        with Launcher(image, mem=MEM, host=host, fixes=fixes, warn=lambda text: None) as launcher:
            host.clock.hold(launcher, slice, seed)
            reason = launcher.run().reason
            lg, stats = launcher.file.lg, launcher.stats
            if lg.dead is None and typed:
                launcher.typed.append(typed)
                try: launcher.handle_input()
                except LookupError: pass                                  # a DMA outside memory: the Launcher gives up
            assert lg.dead is None or isinstance(lg.dead, str) and lg.dead
            assert lg.dead is None or launcher.file.read(1023) == lg.dead.encode('latin-1') + b'\0'
        host.clock.hold(None, 20_000, 0)
        after = self.rest()
        for at, n in self.excluded(): before[at:at + n] = bytes(n)
        for pfn in self.taken: before[pfn << 12:pfn + 1 << 12] = bytes(4096)
        changed = after != before and [hex(4*n) for n in range(len(after)//4) if after[4*n:4*n + 4] != before[4*n:4*n + 4]][:20]
        assert not changed, 'memory that is not the Guest\'s'
        self.leaks = [] if fixes.set_pte_present else self.collect(lg, refs)
        assert host.mem.refs == refs and host.guests.count(None) == 15
        assert not host.clock.alarms and not [b for b in host.dma_bindings if b.lg is lg]
        now = host.cpu.registers()
        kept = 'esp cs ss ds es cr3 cr4'.split()
        assert [now[name] for name in kept] == [registers[name] for name in kept]
        self.visit()
        return reason, stats


@pytest.fixture(scope='module')
def house():
    "One Host for all, and a new one after an accident."
    houses = [House()]
    yield houses
    houses[0].close()


@pytest.fixture(autouse=True)
def watchdog():
    "A test that makes no progress ends with an exception."
    def bark(*_): raise Hang(f'{SECONDS} seconds')
    old = signal.signal(signal.SIGALRM, bark)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, old)


def suffer(houses, *args, **kw):
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try: return houses[0].suffer(*args, **kw)
    except BaseException as e:
        houses[0] = House()
        if isinstance(e, Hang): raise AssertionError(f'hangs: {e}') from None
        raise
    finally: signal.setitimer(signal.ITIMER_REAL, 0)


slow = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))


@slow
@given(deeds, kinds, st.sampled_from([True]*15 + [False]), st.sampled_from([1, 3, 50, 1000]), st.integers(0, 5), st.sampled_from([Fixes(), Fixes(), Fixes.seed()]), st.sampled_from([b'', b'typed']))
def test_hostile_guest(house, deeds, kinds, initialised, slice, seed, fixes, typed):
    suffer(house, image(deeds, kinds, initialised), slice, seed, fixes, typed)


@pytest.mark.parametrize('code, reason', [(b'', 'CRASH: '), (b'\x0f\x0b', 'CRASH: '), (TO_USER + b'\x0f\x0b', 'CRASH: '), (TO_USER + b'\xcd\x80', 'CRASH: '),
                                          (b'\xeb\xfe', 'enough'), (hypercall(99), 'Bad hypercall 99\n')])
def test_the_machinery_works(house, code, reason):
    assert suffer(house, image([code]*20, [0xEE]*len(GATED), True))[0] == reason


@pytest.mark.parametrize('fixes, lost', [(Fixes(), 0), (Fixes.seed(), 1)], ids=['mended', 'seed'])
def test_what_the_seed_loses_is_the_guests_own(house, fixes, lost):
    "SET_PTE of an entry that is not present but has been used takes a page for ever; no page of anybody else's."
    deeds = [hypercall(14, PGDIR, PAGE_OFFSET + 0x1F0000, 0x150020)]
    assert suffer(house, image(deeds, [0xEE]*len(GATED), True), fixes=fixes)[0] == 'CRASH: '
    assert len(house[0].leaks) == lost


# --- Guests that were too much once -----------------------------------------------------------------------------------

FLAT = 'movl $0x0000FFFF, gdt + 160\n movl $0x{:08x}, gdt + 164\n hcall LHCALL_LOAD_GDT, $gdt - PAGE_OFFSET, $32\n'
FAR = FLAT.format(0x80CF9B00) + 'movl $0x69, %eax\n movl $50, %ecx\n ljmp $0xA1, $1f - 0x80000000\n 1: '    # code at base 0x80000000


class Impatient(OneTurn):
    "Interrupts the Guest wherever it has just loaded SS, which puts interrupts off by an instruction."
    def __init__(self): super().__init__(slice=1, insn_ns=1); self.host = None

    def start(self, host): self.host = host

    def ran(self, instructions):
        super().ran(instructions)
        cpu = self.host.cpu
        if self.watching is None and cpu.state[cpu.f.HFLAGS] & 3 and cpu.state[cpu.f.HFLAGS] & 8: cpu.raise_irq(0x33)


def story(text, clock=OneTurn, seconds=30, **kw):
    "The last words of a Guest; and the Host's processor is at home afterwards."
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    with Host(memory=12 << 20, clock=clock()) as host, Workbench(text, host=host, **kw) as guest:
        reason = guest.run(seconds).reason
        assert (host.cpu.registers()['cs'], host.cpu.registers()['cr3']) == (0x60, host.pgdir << 12)
        return reason


def test_a_halt_that_is_not_executed():
    "A byte F4 before EIP is no HLT: the slice may be up, or an interrupt wait, anywhere."
    assert story('movl $300000, %ecx\n 1: jmp 2f\n .byte 0xF4\n 2: decl %ecx\n jnz 1b') == 'CRASH: Power down'


@pytest.mark.parametrize('insn, error', [('int3', 0x1A), ('into', 0x22)])
def test_breakpoint_in_a_segment_with_a_base(insn, error):
    "The gate is the Host's: a general protection fault, whatever lies at EIP - 1."
    assert story(FAR + f'cmpb $0x81, %al\n addb $0x7F, %al\n {insn}\n hlt') == f"unhandled trap 13 at 0x4010007f ({error:#x})"


@pytest.mark.parametrize('insn', ['nop', 'pushf\n popl %edx', 'movl %eax, %ds'])
@pytest.mark.parametrize('far', [True, False])
def test_interrupts_in_the_shadow_of_mov_ss(insn, far):
    body = f'1: movl %eax, %ss\n {insn}\n decl %ecx\n jnz 1b\n'
    if far: text = FAR + body.replace('1:', '', 1).replace('1b', '1b') + 'ljmp $0x61, $2f\n 2:'
    else: text = 'movl $0x69, %eax\n movl $50, %ecx\n' + body
    assert story(text, Impatient) == 'CRASH: Power down'


@pytest.mark.parametrize('touch', ['movl %ebx, (%ebx)', ''], ids=['mapped', 'page fault'])
def test_interrupts_before_a_push_on_a_16_bit_stack(touch):
    "The upper half of ESP counts for nothing there; and a page fault in the shadow is one fault, not two."
    assert story(FLAT.format(0xC00F9300) + f'''movl $0xA1, %eax\n movl $50, %ecx\n movl $0x40008000, %esp
        movl $0xC0007000, %ebx\n {touch}\n 2: movl %eax, %ss\n pushf\n addw $4, %sp\n decl %ecx\n jnz 2b
        movl $0x69, %eax\n movl %eax, %ss\n movl $stack_top, %esp''', Impatient) == 'CRASH: Power down'


def test_a_new_guest_runs_its_own_code():
    "Frames that come back may hold instructions which the processor has translated; the next Guest brings others."
    with Host(memory=12 << 20, clock=VirtualClock()) as host:
        for number in range(90, 99):
            with Launcher(guest(hypercall(number)), mem='4M', host=host) as launcher:
                assert launcher.run().reason == f'Bad hypercall {number}\n'


def test_code_that_the_launcher_replaces():
    "What a DMA brings may be instructions."
    with Host(memory=12 << 20, clock=VirtualClock()) as host:
        run = b'\xbe' + le(PAGE_OFFSET + string_at(3)) + b'\xff\xd6'
        code = b'\xbc' + le(STACK) + run*2
        with Launcher(guest(code, (dma((string_at(1), 1)), b'.', b'', hypercall(13, 4, string_at(0)) + b'\xc3')), mem='4M', host=host) as launcher:
            assert launcher.file.read(8) == le(string_at(0), 4)
            launcher.mm.write(string_at(3), hypercall(13, 8, string_at(0)) + b'\xc3')
            assert launcher.file.read(8) == le(string_at(0), 8)


class Restless(OneTurn):
    "An interrupt is waiting whenever the Switcher goes in."
    def start(self, host): self.host = host

    def switched(self):
        super().switched()
        if self.watching is None: self.host.cpu.raise_irq(0x33)


def test_no_way_into_the_guest_while_an_interrupt_waits():
    "The kernel's own code segment has become the user's: the Switcher's last iret faults."
    assert story('movl $0x00CFFB00, gdt + 100\n hcall LHCALL_LOAD_GDT, $gdt - PAGE_OFFSET, $32', Restless).startswith('unhandled trap')


def test_no_way_into_the_guest():
    assert story('movl $0x00CFFB00, gdt + 100\n hcall LHCALL_LOAD_GDT, $gdt - PAGE_OFFSET, $32').startswith('unhandled trap')
