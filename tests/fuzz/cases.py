"""Cases: what a random Guest does, as data. A case is a dict of numbers and strings; `MAKERS[target](dice)` makes one,
and `mutated` makes another one of two that are worth it."""
import struct

from guests import hypercall
from test_hostile_guests import (COUNTS, DATA, GATED, GDT, MEM, NEXT, ODD, PGDIR, PHYSICAL, PTES, SLOT, SLOTS, TO_USER,
                                 VIRTUAL)

PAGE_OFFSET, DEEDS = 0xC0000000, 24
SEGMENTS = [0xD0, 0xD8, 0xC0, 0xE0, 0xE8]                # SS, DS, ES, FS, GS: `mov %eax` to it
SELECTORS = [0, 3, 0x50, 0x53, 0x58, 0x60, 0x61, 0x63, 0x68, 0x69, 0x6B, 0x71, 0x73, 0x79, 0x7B, 0x80, 0x83, 0xF8,
             0xFB, 0xFFFF]
FLAGS = [0x2, 0x202, 0x102, 0x302, 0x4002, 0x4202, 0x3002, 0x3202, 0x10002, 0x20002, 0x20202, 0x23202,
         0x40002, 0x200002, 0x400, 0xFFFFFFFF]
PREFIXES = [b'\x66', b'\x67', b'\xf0', b'\xf2', b'\xf3', b'\x2e', b'\x36', b'\x3e', b'\x26', b'\x64',
            b'\x65', b'\x66\x67', b'\xf3\x66']
FRAMES = [0, 0x101, 0x103, MEM >> 12, (MEM >> 12) + 1, PGDIR >> 12, 0x180, 0xFFFFF]
BASES = [0, 0, 0, 1, 0x1000, PAGE_OFFSET, 0x80000000, 0xFFC00000, 0xFFFFFFFF]
PTE_FLAGS = [0, 1, 3, 5, 7, 0x27, 0x67, 0x167, 0x63, 0x87, 0xF, 0x17, 0x60, 0x20, 0xFFF]
# Instructions that a Guest has no business with, and such as are seldom seen; more are in test_hostile_guests.
NASTY = [bytes.fromhex(h) for h in '''
    0f20d8 0f20e0 0f22d0 0f22d8 0f22e0 0f21c7 0f23c7 0f23f8 0f0138 0f017800 0f01e0 0f01f0 0f0018 0f0010 0f00c8
    0f00d8 0f00e0 0f00e8 0f02d8 0f03d8 63d8 0f06 0f08 0f09 0fa2 0f31 0f33 0f30 0f32 0f34 0f35 0f05 0f07 fa fb f4
    9c 9d 9e 9f cc ce f1 cf cb ca0800 6c 6d 6e 6f ec ed ee ef e460 e560 e660 e760 f36c f36d f36e f36f 66f36d
    d9d0 dbe3 dbe2 dff0 d9f0 9b dd3424 dd2424 0fae0424 0fae0c24 0f77 0f28c1 0f10c1 660f6fc1 0f5ec1 c8ffff1f
    c80010ff c9 60 61 17 1f 07 0fa1 0fa9 0fb20424 c50424 c40424 0fb40424 0fb50424 620424 d7 f3a4 f3a5 f3aa f2ae
    f3a6 0fc70c24 f00fc70c24 0fb10c24 f00fb10c24 f7f1 f6f1 d400 d5ff 27 37 98 99 0f0b 0fff 0fb9c0 0faa ff14c5'''.split()]


def le(*words): return struct.pack(f'<{len(words)}I', *(w & 0xFFFFFFFF for w in words))


class Dice:
    "What a random case is made of."
    def __init__(self, rng):
        self.rng, self.pick, self.below = rng, rng.choice, rng.randrange

    def often(self, share: float) -> bool: return self.rng.random() < share
    def word(self) -> int: return self.rng.getrandbits(32)
    def near(self, values) -> int: return self.pick(values) + (self.below(-5, 6) if self.often(0.3) else 0) & 0xFFFFFFFF
    def virtual(self) -> int: return self.word() if self.often(0.1) else self.near(VIRTUAL)
    def physical(self) -> int:
        return self.word() if self.often(0.05) else self.below(MEM) if self.often(0.2) else self.near(PHYSICAL)

    def count(self) -> int: return self.pick(COUNTS)
    def selector(self) -> int: return self.below(1 << 16) if self.often(0.1) else self.pick(SELECTORS)
    def flags(self) -> int: return self.word() if self.often(0.2) else self.pick(FLAGS)
    def junk(self, most=24) -> bytes: return self.rng.randbytes(self.below(1, most + 1))

    def pte(self) -> int:
        if self.often(0.05): return self.word()
        frame = self.pick(FRAMES) if self.often(0.4) else self.below(MEM >> 12)
        return frame << 12 | self.pick(PTE_FLAGS)

    def gate(self) -> tuple[int, int]:
        if self.often(0.1): return self.word(), self.word()
        at = NEXT + PAGE_OFFSET if self.often(0.6) else self.virtual()
        kind = self.pick([0x8E00, 0x8F00, 0xEE00, 0xEF00, 0xEF00, 0xE500, 0x8C00, 0x0F00, 0x9F00, 0xAFFF])
        return 0x610000 | at & 0xFFFF, at & 0xFFFF0000 | kind

    def descriptor(self) -> tuple[int, int]:
        if self.often(0.1): return self.word(), self.word()
        base, limit = self.pick(BASES), self.pick([0xFFFF, 0xFFFF, 0xFFFF, 0, 0xFFF])
        kind = self.below(16) << 8 | self.pick([0x1000, 0x1000, 0]) | self.below(4) << 13 | self.pick([0x8000, 0x8000, 0])
        size = self.pick([0xC, 0xC, 8, 4, 0]) << 20 | self.pick([0xF0000, 0])
        return limit | base << 16, base & 0xFF000000 | base >> 16 & 0xFF | kind | size


# --- deeds: machine code for one slot of a hostile Guest --------------------------------------------------------------

def pushes(*values: int) -> bytes: return b''.join(b'\x68' + le(value) for value in values)
def loaded(sel: int, register: int) -> bytes: return b'\x66\xb8' + struct.pack('<H', sel) + b'\x8e' + bytes([register])


def store(vaddr: int, *values: int) -> bytes:
    "Write words to one address after the other."
    return b''.join(b'\xc7\x05' + le(vaddr + 4*n, value) for n, value in enumerate(values))


def harmless(d: Dice) -> bytes:
    "A hypercall that a Guest may survive."
    return hypercall(*d.pick([
        lambda: (0,), lambda: (4, PGDIR), lambda: (5, d.below(2)), lambda: (8, d.below(2)*8),
        lambda: (9, d.below(1 << 20)), lambda: (11, 0), lambda: (3, GDT, d.below(1, 33)), lambda: (16, GDT + 48),
        lambda: (7, 0x69, PAGE_OFFSET + 0x180000, d.below(1, 3)),
        lambda: (14, PGDIR, d.virtual() & 0xFEFFF000, d.below(MEM >> 12) << 12 | d.pick([0, 1, 3, 5, 7, 0x67])),
        lambda: (6, d.pick(GATED), 0x610000 | NEXT & 0xFFFF,
                 PAGE_OFFSET + NEXT & 0xFFFF0000 | d.pick([0x8E00, 0x8F00, 0xEE00, 0xEF00])),
        lambda: (15, PGDIR, d.below(1020)),
        lambda: (12, d.below(MEM >> 12) << 12 | 4*d.below(1000), 0x150000, 1 << 8 | d.below(32)),
        lambda: (13, d.below(MEM >> 12) << 12, 0x150000)])())


def wild(d: Dice) -> bytes:
    "A hypercall with anything."
    number = d.word() if d.often(0.05) else d.below(18)
    def argument(): return d.pick([d.physical, d.virtual, d.count, d.pte, d.selector, d.word])()
    return hypercall(number, argument(), argument(), argument())


def queued(d: Dice) -> bytes:
    "Something in the ring, and perhaps a call that has it done."
    place = d.below(64) if d.often(0.5) else d.below(4)
    number = d.word() if d.often(0.05) else d.below(18)
    at = PAGE_OFFSET + DATA
    words = store(at + 76 + 16*place, number, *(d.pick([d.physical, d.virtual, d.pte, d.count])() for _ in range(3)))
    status = b'\xc6\x05' + le(at + 12 + place) + bytes([d.pick([0, 0, 0, 1, 0xFF])])
    return words + status + (hypercall(0) if d.often(0.7) else b'')


def page_table(d: Dice) -> bytes:
    "An entry of its own tables changes, and the Host is told, or not."
    ours = [0x100, 0x101, 0x103, 0x17F, 0x180, 0x1FE, 0x1FF]                    # what the Guest itself runs on
    at = d.pick([PGDIR + 4*d.below(1024), PGDIR + 4*d.pick([0, 768, 1023]), PTES + 4*d.pick(ours), PTES + 4*d.below(512)])
    tell = d.pick([(5, 1), (5, 0), (4, PGDIR), (4, d.physical()), (15, PGDIR, 768), (15, d.physical(), d.below(1030)),
                   (14, PGDIR, d.virtual(), d.pte()), (0,)])
    return store(PAGE_OFFSET + at, d.pte()) + hypercall(*tell) + (b'\xa1' + le(d.virtual()) if d.often(0.5) else b'')


def table(d: Dice) -> bytes:
    "A descriptor, and a use of it."
    n = d.below(32)
    tell = d.pick([(3, GDT, 32), (3, GDT, 32), (16, GDT + 48), (3, GDT, d.count()), (3, d.physical(), 32),
                   (16, d.physical())])
    use = d.pick([b'', loaded(n << 3 | d.below(8), d.pick(SEGMENTS)), transfer(d, n << 3 | d.below(4))])
    written = store(PAGE_OFFSET + GDT + 8*n, *d.descriptor())
    return written + hypercall(*tell) + use + (b'\xa1' + le(d.virtual()) if d.often(0.3) else b'')


def vector(d: Dice) -> bytes:
    "A gate, and a trap through it."
    n = d.word() if d.often(0.05) else d.below(130)
    return hypercall(6, n, *d.gate()) + (bytes([0xCD, n & 0xFF]) if d.often(0.6) else b'')


def stack(d: Dice) -> bytes:
    "Another stack for traps, and a trap onto it."
    fair = d.often(0.7)
    call = hypercall(7, 0x69 if fair else d.selector(), PAGE_OFFSET + 0x180000 - 4*d.below(64) if fair else d.virtual(),
                     d.pick([1, 2]) if fair else d.pick([0, 1, 2, 3, 0xFFFFFFFF]))
    return call + d.pick([b'', TO_USER + b'\xcd\x80', b'\xcd\x80', TO_USER + b'\x0f\x0b'])


def transfer(d: Dice, selector: int) -> bytes:
    "A far jump, call or return."
    at = d.virtual()
    pointer = le(at) + struct.pack('<H', selector & 0xFFFF)
    return d.pick([b'\xea' + pointer, b'\x9a' + pointer, pushes(selector, at) + b'\xcb',
                   pushes(d.selector(), d.virtual(), selector, at) + b'\xca\x00\x00',
                   b'\xff\x2d' + le(at), b'\xff\x1d' + le(at)])


def returns(d: Dice) -> bytes:
    "An IRET or RETF to anywhere, with any flags; into virtual-8086 mode, too."
    eip = SLOTS + PAGE_OFFSET + SLOT*d.below(DEEDS) if d.often(0.5) else d.virtual()
    segments = [d.selector() for _ in range(4)] if d.often(0.3) else []
    frame = pushes(*segments, d.selector(), d.virtual(), d.flags() | (0x20000 if segments else 0), d.selector(), eip)
    return frame + d.pick([b'\xcf', b'\xcf', b'\xcf', b'\x66\xcf', b'\xcb', b'\xca\x04\x00', b'\xf0\xcf', b'\xf3\xcf',
                           b'\x67\xcf'])


def flags(d: Dice) -> bytes: return pushes(d.flags()) + d.pick([b'\x9d', b'\x66\x9d', b'\x58\x9e']) + nasty(d)


def nasty(d: Dice) -> bytes:
    "An instruction from the list, or an int; perhaps with prefixes."
    odd = d.pick(ODD)
    code = d.pick([d.pick(NASTY), bytes.fromhex(odd if len(odd) % 2 == 0 else odd + '0'), bytes([0xCD, d.below(256)])])
    return b''.join(d.pick(PREFIXES) for _ in range(d.below(3))) + code if d.often(0.3) else code


def loads(d: Dice) -> bytes:
    "A segment register, and a use of it."
    load = loaded(d.selector(), d.pick([*SEGMENTS, 0xC8]))
    return load + d.pick([b'', b'\x50', b'\x8b\x00', b'\x64\xa1' + le(d.virtual()), nasty(d)])


def stacked(d: Dice) -> bytes:
    "The stack is somewhere else."
    use = [b'\x50', b'\xcd\x1f', b'\xcd\x80', b'\x0f\x0b', b'\xcf', b'\xcb', b'\x9d', b'\x1f', b'\x61', b'\x60', b'\xc9',
           nasty(d)]
    return b'\xbc' + le(d.virtual()) + d.pick(use)


def memory(d: Dice) -> bytes:
    "Read, write, run or copy, at any address."
    at = d.virtual()
    copy = b'\xbe' + le(at) + b'\xbf' + le(d.virtual()) + b'\xb9' + le(d.pick([1, 5, 0x1000, 0xFFFFFFFF]))
    copies = [b'\xf3\xa4', b'\xf3\xa5', b'\xfd\xf3\xa4', b'\xf3\xab', b'\xf3\x6e', b'\xf3\x6c']
    return d.pick([b'\xa1' + le(at), store(at, d.word()), b'\xc6\x05' + le(at) + b'\x00', b'\xf0\xff\x05' + le(at),
                   b'\xb8' + le(at) + b'\xff\xe0', b'\xb8' + le(at) + b'\xff\xd0', copy + d.pick(copies)])


def rewritten(d: Dice) -> bytes:
    "Code that is written just before it is run."
    return b'\xe8' + le(0) + b'\x58\xc7\x40\x08' + d.rng.randbytes(4) + b'\x90'*4


def virtual8086(d: Dice) -> bytes:
    "The first 2 MB are mapped, there is code at 0x5000, and an IRET of ring 1 or 3 would like to run it as an 8086 does."
    code = d.pick([b'\xfa\xeb\xfe', b'\xeb\xfe', nasty(d), d.junk(8)])[:8].ljust(8, b'\x90')
    setup = store(PAGE_OFFSET + PGDIR, PTES | 7) + store(PAGE_OFFSET + 0x5000, *struct.unpack('<2I', code))
    segments = b''.join(b'\x6a' + bytes([d.below(128)]) for _ in range(5))
    frame = segments + pushes(0x1000, d.pick([0x20002, 0x23002, 0x23202, 0x20202, 0x33002]), 0x500, 0)
    return setup + hypercall(5, 1) + (TO_USER if d.often(0.5) else b'') + frame + b'\xcf'


def fragment(d: Dice) -> bytes:
    "A piece of code."
    if d.often(0.04): return virtual8086(d)
    parts = [nasty, nasty, nasty, nasty, returns, returns, flags, flags, loads, loads, stacked, memory, rewritten,
             lambda d: transfer(d, d.selector()), lambda d: d.junk()]
    return (TO_USER if d.often(0.5) else b'') + b''.join(d.pick(parts)(d) for _ in range(d.below(1, 4)))


# --- Guests -----------------------------------------------------------------------------------------------------------

def guest(deeds):
    "A maker of Guests that do such deeds. `slice`: instructions; `clock`: 'wall' has a thread that stops the Guest."
    def make(d: Dice) -> dict:
        kinds = bytes(d.pick([0xEE]*8 + [0xEF]*8 + [0x8E, 0x8F, 0]) for _ in GATED).hex()
        return dict(deeds=[deeds(d)[:SLOT - 5].hex() for _ in range(d.below(4, DEEDS + 1))],
                    introduced=not d.often(0.05), kinds=kinds if d.often(0.5) else 'ee'*len(GATED),
                    slice=d.pick([1, 3, 50, 1000, 1000]), noise=d.below(1, 1000) if d.often(0.4) else 0,
                    fixes=d.pick(['lguest']*3 + ['seed']), typed=d.junk().hex() if d.often(0.2) else '',
                    clock='wall' if d.often(0.1) else 'virtual')
    return make


def hypercalls(d: Dice) -> bytes:
    "A few in a row: those that do no harm first."
    if d.often(0.8): return b''.join(harmless(d) for _ in range(d.below(1, 6)))
    return wild(d) if d.often(0.3) else queued(d)


def tables(d: Dice) -> bytes:
    "One of the tables changes."
    return (TO_USER if d.often(0.1) else b'') + d.pick([page_table, page_table, table, vector, stack])(d)


# --- other things -----------------------------------------------------------------------------------------------------

def protocol(d: Dice) -> dict:
    "Requests to /dev/lguest in any order and size."
    def words(*numbers): return ('write', le(*numbers).hex(), d.pick(['', '', '', 'stranger']))
    def initialise():
        if d.often(0.7): return words(0, MEM >> 12, PGDIR, PAGE_OFFSET + 0x10000D, PAGE_OFFSET)
        return words(0, d.count(), d.physical(), d.virtual(), d.pick([0, PAGE_OFFSET, 0xFFC00000, d.word()]))
    ops = [initialise, initialise, initialise, lambda: ('read', 8, ''),
           lambda: ('read', d.pick([8, 8, 8, 0, 1, 7, 9, 1000]), d.pick(['', '', 'stranger'])),
           lambda: words(1, d.pick([0, 4, d.physical()])), lambda: words(2, d.pick([0, 1, 31, 32, d.word()])),
           lambda: words(3, d.below(2)), lambda: words(d.word()),
           lambda: ('write', d.rng.randbytes(d.below(24)).hex(), ''), lambda: ('close',),
           lambda: ('put', d.below(MEM - 64), d.junk(64).hex())]
    return dict(steps=[d.pick(ops)() for _ in range(d.below(2, 20))], fixes=d.pick(['lguest', 'seed']))


def changes(d: Dice) -> list:
    "Changes to a file: (kind, where, what); `where` is a share of the length, or a byte near its beginning."
    def one():
        kind = d.pick(['set', 'set', 'set', 'word', 'word', 'cut', 'insert', 'zero'])
        number = d.pick([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x100000, d.word(), d.count()])
        where = d.below(256) if d.often(0.6) else d.rng.random()
        return kind, where, d.junk(8).hex() if kind in ('set', 'insert') else number
    return [one() for _ in range(d.below(1, 6))]


def images(d: Dice) -> dict:
    return dict(base=d.pick(['first', 'minimal', 'tiny', 'tiny']), steps=changes(d), noise=0, slice=1000)


MEMBERS = ['file', 'header.json', 'header.json', 'data.npy',
           *(f'events/{field}.npy' for field in 'time switch kind track code a b c d first'.split()),
           *(f'changes/{field}.npy' for field in ('what', 'where', 'old', 'new'))]


def recordings(d: Dice) -> dict:
    "Changes to a member of the archive, or to the file itself."
    def one():
        member, value = d.pick(MEMBERS), d.pick([None, 0, -1, 1e308, 'x', [], {}, [[]], {'a': 1}, 1 << 70, True])
        number = d.pick([0, 1, 0xFF, 0xFFFF, 0xFFFFFFFF, d.word(), d.below(64)])
        if member == 'header.json' and d.often(0.7): return member, 'json', d.below(64), value
        if member.endswith('.npy') and d.often(0.7): return member, 'item', d.rng.random(), number
        return (member, *d.pick(changes(d)))
    return dict(steps=[one() for _ in range(d.below(1, 5))])


MAKERS = dict(hypercalls=guest(hypercalls), tables=guest(tables), fragments=guest(fragment), protocol=protocol,
              images=images, recordings=recordings)


def mutated(d: Dice, case: dict, other: dict) -> dict:
    "A case made of two of one target: a part of one, a part of the other, and its circumstances."
    key = 'deeds' if 'deeds' in case else 'steps'
    mine, theirs = case[key], other[key]
    made = mine[:d.below(len(mine) + 1)] + theirs[d.below(len(theirs) + 1):]
    return {**case, **{k: d.pick([case[k], other[k]]) for k in case if k in other and k != 'base'}, key: made or mine}
