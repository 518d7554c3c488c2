"Traps on the emulated i386, against a small model of what the 80386 manual prescribes."
import itertools
import struct
import threading

import pytest
from lguest_lit.host.host import Host
from lguest_lit.i386.cpu import CPU, STUBS, flat_machine, knock
from lguest_lit.i386.memory import PhysicalMemory
from lguest_lit.host.kernel import TIMER_VECTOR
from lguest_lit.launcher.workbench import OneTurn, Workbench

GDT, IDT, TSS, PD, PT = 0x1000, 0x2000, 0x3000, 0x10000, 0x11000
START, PROGRAM, ABSENT, KERNEL = 0x5000, 0x20000, 0x80000, 0x81000   # ABSENT: no page; KERNEL: not for ring 3
STACK = {0: 0x42000, 1: 0x44000, 3: 0x46000}                         # where each ring's program stack starts
TSS_STACK = {0: 0x52000, 1: 0x54000}
CODE, DATA = {0: 8, 1: 0x19, 3: 0x2B}, {0: 0x10, 1: 0x21, 3: 0x33}
TR, GONE_DATA, GONE_CODE, SHORT, CONFORMING, GONE_STACK, BEYOND = 0x38, 0x40, 0x48, 0x50, 0x58, 0x60, 0x1000
IDT_ENTRIES = 0x88
# selector index: (present, dpl, type, limit)
SEGMENTS = {8: (1, 0, 0x1B, ~0), 0x10: (1, 0, 0x13, ~0), 0x18: (1, 1, 0x1B, ~0), 0x20: (1, 1, 0x13, ~0), 0x28: (1, 3, 0x1B, ~0),
            0x30: (1, 3, 0x13, ~0), GONE_DATA: (0, 3, 0x13, ~0), GONE_CODE: (0, 0, 0x1B, ~0), SHORT: (1, 0, 0x1B, 0xFFF),
            CONFORMING: (1, 0, 0x1F, ~0), GONE_STACK: (0, 0, 0x13, ~0)}
TF, IF, NT, RF, OF = 0x100, 0x200, 0x4000, 0x10000, 0x800
INT, TRAP = 0xE, 0xF


def handler(vector): return 0x30000 + vector * 16


class Machine:
    "Identity-mapped megabyte, rings 0, 1 and 3, a handler that halts for every vector."
    def __init__(self, live=True):
        self.mem = PhysicalMemory(1 << 20)
        self.mem.alloc_pages(255)
        self.cpu = cpu = CPU(self.mem, live)
        for s, (p, dpl, kind, limit) in SEGMENTS.items():
            small = limit != ~0
            self.put(GDT + s, limit & 0xFFFF, (0x400000 if small else 0xCF0000) | p << 15 | dpl << 13 | kind << 8)
        self.put(GDT + TR, TSS << 16 | 0x67, 0x8900)
        self.put(PD, PT | 7)
        self.put(PT, *(i << 12 | 7 for i in range(256)))
        self.put(PT + (ABSENT >> 10), 0)
        self.put(PT + (KERNEL >> 10), KERNEL | 3)
        self.put(TSS + 4, TSS_STACK[0], DATA[0], TSS_STACK[1], DATA[1])
        self.put(TSS + 100, 0x68 << 16)
        for v in range(IDT_ENTRIES): self.gate(v, 0x8, INT, 0)
        for v in range(256): self.mem.write(handler(v), b'\xf4')
        self.mem.write(START, b'\xcf')
        cpu.engine.put(GDTR=(GDT, 0x67), IDTR=(IDT, IDT_ENTRIES * 8 - 1), CR3=PD, CR0=0x80010011)
        cpu.load_segment('cs', 8)
        for s in ('ss', 'ds', 'es'): cpu.load_segment(s, 0x10)
        cpu.load_segment('tr', TR)
        cpu.engine.load()
        self.clean = cpu.snapshot()

    def put(self, at, *words): self.mem.write(at, struct.pack(f'<{len(words)}I', *words))
    def words(self, at, n): return list(struct.unpack(f'<{n}I', self.mem.read(at, 4 * n)))

    def gate(self, vector, selector, kind, dpl, present=1, offset=None):
        offset = handler(vector) if offset is None else offset
        self.put(IDT + vector * 8, selector << 16 | offset & 0xFFFF, offset & 0xFFFF0000 | present << 15 | dpl << 13 | kind << 8)

    def set(self, **values):
        self.cpu.engine.load()
        for name, value in values.items(): self.cpu.state[getattr(self.cpu.f, name.upper())] = value
        self.cpu.engine.store()

    def begin(self, code, ring=0, flags=2, **registers):
        "Ready to run `code` in `ring`, with data segments of its own: the IRET that goes there is next."
        self.mem.write(PROGRAM, code)
        frame = [PROGRAM, CODE[ring], flags] + ([STACK[ring], DATA[ring]] if ring else [])
        esp = STACK[0] - 12
        self.put(esp, *frame)
        for s in ('ds', 'es'): self.cpu.load_segment(s, DATA[ring])      # of any other the IRET would make a null one
        self.set(eip=START, esp=esp, **registers)
        self.cpu.engine.flush_tlb()

    def go(self, *a, **kw):
        "`begin`, and run the IRET."
        self.begin(*a, **kw)
        assert self.cpu.step() == 'count'
        assert self.regs['eip'] == PROGRAM and self.regs['ds'] == self.regs['es'] == DATA[self.regs['cs'] & 3]
        return self

    @property
    def regs(self): return self.cpu.registers()


@pytest.fixture(scope='module')
def shared(): return Machine()


@pytest.fixture
def m(shared):
    shared.cpu.restore(shared.clean)
    yield shared
    shared.cpu.irqs.clear()
    shared.cpu.nmi = shared.cpu.shutdown = None


# --- the manual's rules

class Bad(Exception): pass


def enter(gates, tss, cpl, vector, error, soft):
    "One delivery: (selector, offset, new ring, stack or None, gate kind); Bad(vector, error) where it fails."
    ext = 0 if soft else 1
    if vector not in gates: raise Bad(13, vector * 8 + 2 + ext)
    present, kind, dpl, selector, offset = gates[vector]
    if kind not in (INT, TRAP): raise Bad(13, vector * 8 + 2 + ext)
    if soft and dpl < cpl: raise Bad(13, vector * 8 + 2 + ext)
    if not present: raise Bad(11, vector * 8 + 2 + ext)
    index = selector & ~7
    if index == 0: raise Bad(13, ext)
    if index not in SEGMENTS: raise Bad(13, index + ext)
    here, code_dpl, code_type, limit = SEGMENTS[index]
    if not code_type & 8 or code_dpl > cpl: raise Bad(13, index + ext)
    if not here: raise Bad(11, index + ext)
    ring = cpl if code_type & 4 else code_dpl
    stack = None
    if ring < cpl:
        if tss == 'absent': raise Bad(14, 0)
        if 8 * ring + 11 > tss['limit']: raise Bad(10, TR + ext)
        esp, ss = tss[ring]
        if ss & ~3 == 0: raise Bad(10, ext)
        if ss & ~7 not in SEGMENTS or ss & 3 != ring: raise Bad(10, (ss & ~3) + ext)
        sp, sdpl, stype, _ = SEGMENTS[ss & ~7]
        if sdpl != ring or stype & 0x1A != 0x12: raise Bad(10, (ss & ~3) + ext)
        if not sp: raise Bad(12, (ss & ~3) + ext)
        stack = esp, ss
    if limit != ~0 and offset > limit: raise Bad(13, ext)
    if stack and stack[0] - 1 >> 12 == ABSENT >> 12: raise Bad(14, 2)
    return index | ring, offset, ring, stack, kind


def expected(gates, tss, cpl, flags, first, vector, error, soft, length):
    "What must stand in the machine when the first handler begins; None for a shutdown."
    eip, kind = PROGRAM + (length if soft else 0), None if soft else vector
    contributory = {0, 10, 11, 12, 13}
    while True:
        try: selector, offset, ring, stack, gate = enter(gates, tss, cpl, vector, error, soft)
        except Bad as bad:
            eip = PROGRAM
            if kind == 8: return None
            if kind in contributory and bad.args[0] in contributory or kind == 14 and bad.args[0] in contributory | {14}: vector, error = 8, 0
            else: vector, error = bad.args
            soft, kind = False, vector
            continue
        break
    fault = not soft and vector not in (1, 2, 3, 4, 8)
    saved = flags & ~RF | (RF if fault else 0)
    frame = [eip, CODE[cpl], saved] + ([STACK[cpl], DATA[cpl]] if stack else [])
    if error is not None: frame = [error] + frame
    esp, ss = stack or (STACK[cpl], DATA[cpl])
    after = flags & ~(TF | NT | RF) & (~0 if gate == TRAP else ~IF)
    return dict(vector=vector, cs=selector, eip=offset, esp=esp - 4 * len(frame), ss=ss, eflags=after, frame=frame)


# --- the rows

# name: (code, vector, error code by ring, length if by `int`, registers, more flags)
FAULTS = {'div': ('f7f1', 0, None, {}), 'ud2': ('0f0b', 6, None, {}), 'cli': ('fa', 13, 0, {}), 'hlt': ('f4', 13, 0, {}),
          'in': ('e410', 13, 0, {}), 'bound': ('620500060000', 5, None, {'eax': 9}),
          'load absent': ('a100000800', 14, {0: 0, 1: 0, 3: 4}, {}), 'store absent': ('a300000800', 14, {0: 2, 1: 2, 3: 6}, {}),
          'store kernel': ('a300100800', 14, {3: 7}, {}), 'sysenter': ('0f34', 13, 0, {}), 'syscall': ('0f05', 6, None, {}), 'es absent': ('8ec1', 11, 0x40, {'ecx': GONE_DATA | 3}),
          'ss absent': ('8ed1', 12, 0x40, {'ecx': GONE_DATA | 3}), 'es beyond': ('8ec1', 13, BEYOND, {'ecx': BEYOND | 1})}
SOFT = {'int3': ('cc', 3), 'int 3': ('cd03', 3), 'into': ('ce', 4), 'int 0x80': ('cd80', 0x80), 'int 13': ('cd0d', 13), 'int 14': ('cd0e', 14),
        'int beyond': ('cd90', 0x90), 'int 8': ('cd08', 8)}
GATES = {'interrupt': dict(kind=INT, dpl=3), 'trap': dict(kind=TRAP, dpl=3), 'absent': dict(kind=INT, dpl=3, present=0),
         'type': dict(kind=0xC, dpl=3), 'data type': dict(kind=0x1E, dpl=3), 'null': dict(kind=INT, dpl=3, selector=3),
         'private': dict(kind=INT, dpl=0), 'ring 1': dict(kind=TRAP, dpl=1), 'data handler': dict(kind=INT, dpl=3, selector=0x10),
         'absent handler': dict(kind=TRAP, dpl=3, selector=GONE_CODE), 'beyond': dict(kind=INT, dpl=3, selector=BEYOND),
         'short': dict(kind=INT, dpl=3, selector=SHORT), 'conforming': dict(kind=INT, dpl=3, selector=CONFORMING)}
RINGS = [(0, 0), (1, 0), (3, 0), (3, 1), (1, 1), (3, 3), (0, 1), (1, 3)]
FLAGS = [0x202, 0x2, 0x202 | TF, 0x202 | NT, 0x202 | RF, 0x2 | TF | NT | RF]


def rows():
    for n, (gate, cause, (cpl, to)) in enumerate(itertools.product(GATES, FAULTS | SOFT, RINGS)):
        if cpl == 0 and cause in ('cli', 'hlt', 'in') or cpl < 3 and cause in ('store kernel', 'ss absent'): continue
        if 'selector' in GATES[gate] and to not in (0, cpl): continue
        if gate not in ('interrupt', 'trap') and cause in ('hlt', 'bound', 'store absent', 'int 14'): continue
        chosen = FLAGS if gate in ('interrupt', 'trap') and cause in ('div', 'load absent', 'int3', 'int 0x80', 'into') else [FLAGS[n * 5 % 6]]
        for flags in chosen: yield pytest.param(gate, cause, cpl, to, flags, id=f'{gate}-{cause}-{cpl}to{to}-{flags:x}')


ROWS = list(rows())


def test_there_are_enough_rows(): assert len(ROWS) >= 200


def check(m, want, why):
    got = m.regs
    if want is None:
        assert why == 'shutdown'
        return
    seen = {name: got[name] for name in ('cs', 'eip', 'ss', 'esp', 'eflags')}
    assert m.words(got['esp'], len(want['frame'])) == want['frame'], seen
    assert seen == {name: want[name] for name in seen}
    if want['vector'] == 14 and len(want['frame']) in (4, 6): assert got['cr2'] in range(TSS, TSS + 0x68) or got['cr2'] >> 12 in (ABSENT >> 12, KERNEL >> 12)


@pytest.mark.parametrize('gate,cause,cpl,to,flags', ROWS)
def test_delivery(m, gate, cause, cpl, to, flags):
    soft = cause in SOFT
    if soft: (code, vector), error, registers = SOFT[cause], None, {}
    else: code, vector, error, registers = FAULTS[cause]
    if isinstance(error, dict): error = error[cpl]
    if cause == 'into': flags |= OF
    g = dict(kind=INT, dpl=0, present=1, selector=CODE[to]) | GATES[gate]
    gates = {v: (1, INT, 0, 8, handler(v)) for v in range(IDT_ENTRIES)}
    if vector in gates:
        gates[vector] = g['present'], g['kind'], g['dpl'], g['selector'], handler(vector)
        m.gate(vector, g['selector'], g['kind'], g['dpl'], g['present'])
    tss = {'limit': 0x67, 0: (TSS_STACK[0], DATA[0]), 1: (TSS_STACK[1], DATA[1])}
    code = bytes.fromhex(code)
    want = expected(gates, tss, cpl, flags, None, vector, error, soft, len(code))
    m.go(code + b'\xf4' * 4, cpl, flags, **{'ecx': 0} | registers)
    before = m.cpu.snapshot()
    why = m.cpu.step()
    check(m, want, why)
    if want and not want['cs'] & 3:                     # the same at full speed: the handler's HLT ends it
        m.cpu.restore(before)
        assert m.cpu.run() == 'halted'
        check(m, want | {'eip': want['eip'] + 1}, 'halted')


BAD_STACKS = {'null': 0, 'null rpl': 3, 'rpl': 0x11, 'code': 8, 'wrong dpl': 0x20, 'beyond': BEYOND, 'absent segment': GONE_STACK}


@pytest.mark.parametrize('cause', ['div', 'cli', 'load absent', 'int3', 'int 0x80', 'ud2'])
@pytest.mark.parametrize('cpl', [1, 3])
@pytest.mark.parametrize('stack', list(BAD_STACKS) + ['absent page', 'short TSS', 'absent TSS'])
@pytest.mark.parametrize('rescue', [True, False])
def test_bad_stack(m, cause, cpl, stack, rescue):
    "A bad ring 0 stack: #TS, #SS or #PF, rescued by handlers in the ring of the program, or double fault and shutdown."
    if rescue and cpl == 3: rescue_code = CODE[3]
    else: rescue_code = CODE[1] if rescue else 8
    soft = cause in SOFT
    if soft: (code, vector), error = SOFT[cause], None
    else: code, vector, error, _ = FAULTS[cause]
    if isinstance(error, dict): error = error[cpl]
    gates = {v: (1, INT, 3, 8, handler(v)) for v in range(IDT_ENTRIES)}
    for v in gates:
        if v in (8, 10, 12, 14) and v != vector: gates[v] = 1, INT, 0, rescue_code, handler(v)
        m.gate(v, gates[v][3], INT, gates[v][2])
    tss = {'limit': 0x67, 0: (TSS_STACK[0], BAD_STACKS.get(stack, 0x10)), 1: (TSS_STACK[1], DATA[1])}
    if stack == 'absent page': tss[0] = ABSENT + 0x1000, 0x10
    m.put(TSS + 4, *tss[0])
    code = bytes.fromhex(code)
    m.go(code + b'\xf4' * 4, cpl, 0x202, ecx=0)
    if stack == 'short TSS':
        tss['limit'] = 10
        m.cpu.engine.load(); m.cpu.state[m.cpu.f.TR + 4] = 10; m.cpu.engine.store()
    if stack == 'absent TSS':
        tss = 'absent'
        m.put(PT + (TSS >> 10), 0)
        m.cpu.engine.flush_tlb()
    want = expected(gates, tss, cpl, 0x202, None, vector, error, soft, len(code))
    why = m.cpu.run() if want is None else m.cpu.step()
    check(m, want, why)
    if want is None: assert m.cpu.run() == m.cpu.step() == 'shutdown' and m.cpu.shutdown == 'triple fault'


def test_no_idt_is_a_shutdown(m):
    m.go(b'\x0f\x0b', 0)
    m.cpu.engine.put(IDTR=(IDT, 0))
    assert m.cpu.run() == 'shutdown'


def test_accessed_bits_of_segments(m):
    for s in (8, 0x10): m.mem.u8[GDT + s + 5] &= 0xFE
    m.gate(3, 8, INT, 3)
    m.go(b'\xcc', 3)
    for s in (8, 0x10): m.mem.u8[GDT + s + 5] &= 0xFE
    assert m.cpu.run() == 'halted'
    assert m.mem.u8[GDT + 8 + 5] & 1 and m.mem.u8[GDT + 0x10 + 5] & 1


def test_frame_across_a_page(m):
    m.gate(3, 8, INT, 3)
    m.put(TSS + 4, 0x52008)
    m.go(b'\xcc', 3, 0x202)
    assert m.cpu.run() == 'halted'
    assert m.words(0x52008 - 20, 5) == [PROGRAM + 1, CODE[3], 0x202, STACK[3], DATA[3]]


# --- interrupts from outside

def test_irq_waits_for_sti_and_its_shadow(m):
    m.go(b'\x90\xfb\x40\x40\xf4', 0, 2, eax=0)           # nop; sti; inc eax; inc eax; hlt
    m.cpu.raise_irq(0x40)
    assert m.cpu.run() == 'halted'
    r = m.regs
    assert (r['eip'], r['eax'], r['eflags'] & IF) == (handler(0x40) + 1, 1, 0)
    assert m.words(r['esp'], 2) == [PROGRAM + 3, 8] and m.words(r['esp'] + 8, 1)[0] & IF
    assert m.cpu.irqs == []


def test_irq_with_if_clear_stays_outside(m):
    m.go(b'\x40\x40\xf4', 0, 2, eax=0)
    m.cpu.raise_irq(0x40)
    assert m.cpu.run() == 'halted'
    assert m.regs['eax'] == 2 and m.cpu.irqs == [0x40]


@pytest.mark.parametrize('cpl,flags', [(0, 0x202), (1, 0x202), (3, 0x202 | NT), (3, 0x202)])
def test_irq_delivery(m, cpl, flags):
    m.go(b'\x40\xeb\xfd', cpl, flags)
    m.cpu.raise_irq(0x41)
    assert m.cpu.run() == 'halted'
    r, esp = m.regs, TSS_STACK[0] - 20 if cpl else STACK[0] - 12
    assert (r['eip'], r['esp'], r['eflags']) == (handler(0x41) + 1, esp, 2)
    assert m.words(esp, 3) == [PROGRAM, CODE[cpl], flags]


@pytest.mark.parametrize('bad,error', [(dict(kind=0xC, dpl=0), 0x20B), (dict(kind=INT, dpl=0, present=0), 0x20B)])
def test_irq_through_a_bad_gate_sets_ext(m, bad, error):
    m.gate(0x41, 8, **bad)
    m.go(b'\x40\xeb\xfd', 3, 0x202)
    m.cpu.raise_irq(0x41)
    assert m.cpu.run() == 'halted'
    assert m.regs['eip'] == handler(11 if 'present' in bad else 13) + 1
    assert m.words(m.regs['esp'], 2) == [error, PROGRAM]


def test_nmi_ignores_if_and_goes_first(m):
    m.go(b'\x40\xf4', 0, 2)
    m.cpu.raise_irq(0x40); m.cpu.raise_nmi()
    assert m.cpu.run() == 'halted'
    assert m.regs['eip'] == handler(2) + 1 and m.cpu.irqs == [0x40] and not m.cpu.nmi


def test_a_second_nmi_waits_for_the_iret_of_the_first():
    cpu = flat_machine(b'\x90' * 16)
    cpu.memory.write(STUBS + 16 * 2, b'\x90\x90\xcf')          # nop; nop; iret
    cpu.raise_nmi()
    where = []
    for n in range(5):
        cpu.step()
        where.append(cpu.registers()['eip'])
        if n == 0: cpu.raise_nmi()
    assert where == [STUBS + 33, STUBS + 34, 0x20000, STUBS + 33, STUBS + 34]


def test_mov_ss_shadow_holds_back_an_nmi(m):
    m.go(b'\x8e\xd1\xbc\x00\x00\x05\x00\x40\xf4', 0, 0x202, ecx=0x10, eax=0)    # mov ss, cx; mov esp, 0x50000; inc eax; hlt
    assert m.cpu.step() == 'count'
    m.cpu.raise_nmi(); m.cpu.raise_irq(0x40)
    assert m.cpu.run() == 'halted'
    r = m.regs
    assert (r['esp'], r['eax'], m.words(r['esp'], 1)[0]) == (0x50000 - 12, 0, PROGRAM + 7)


def test_single_step(m):
    m.mem.write(handler(1), b'\x43\xcf')                 # inc ebx; iret
    m.go(b'\x40\x40\x40\xf4', 0, 0x102, eax=0, ebx=0)
    m.cpu.run()
    r = m.regs
    assert r['eax'] == 3 and r['ebx'] in (3, 4)           # the HLT may trap as well, once it is left


@pytest.mark.parametrize('cpl', [0, 1, 3])
def test_single_step_frame(m, cpl):
    m.go(b'\x40\x40\xf4', cpl, 0x302, eax=0)
    assert m.cpu.run() == 'halted'
    r = m.regs
    assert (r['eax'], r['eip'], r['eflags'] & TF) == (1, handler(1) + 1, 0)
    frame = m.words(r['esp'], 3)
    assert frame[:2] == [PROGRAM + 1, CODE[cpl]] and frame[2] & ~0x8D5 == 0x302


def test_step_through_a_traced_program_shows_its_trap(m):
    m.go(b'\x40\x40\xf4', 3, 0x302, eax=0)
    assert m.cpu.step() == 'count'
    assert m.regs['eax'] == 1
    if m.regs['eip'] != handler(1): m.cpu.step()
    assert m.regs['eip'] in (handler(1), handler(1) + 1) and m.words(m.regs['esp'], 1) == [PROGRAM + 1]


# --- IN and OUT

IO = {'in al, imm': ('e421', 1), 'in eax, imm': ('e521', 4), 'in al, dx': ('ec', 1), 'in ax, dx': ('66ed', 2), 'in eax, dx': ('ed', 4),
      'out imm, al': ('e621', 1), 'out dx, al': ('ee', 1), 'out dx, ax': ('66ef', 2), 'out dx, eax': ('ef', 4)}
BITMAPS = {'none': None, 'all free': b'\0' * 9, 'port taken': b'\0' * 4 + b'\x02' + b'\0' * 4, 'next taken': b'\0' * 4 + b'\x04' + b'\0' * 4,
           'all taken': b'\xff' * 9, 'ends before': b'\0' * 4, 'ends with it': b'\0' * 5}


@pytest.mark.parametrize('bitmap', BITMAPS)
@pytest.mark.parametrize('cpl,iopl', [(0, 0), (1, 0), (1, 1), (3, 0), (3, 1), (3, 3)])
@pytest.mark.parametrize('insn', IO)
def test_in_and_out(m, insn, cpl, iopl, bitmap):
    code, width = IO[insn]
    code, bits = bytes.fromhex(code), BITMAPS[bitmap]
    if bits is not None: m.mem.write(TSS + 0x68, bits)
    store = b'\xc7\x05\x00\x06\x00\x00\x01\x00\x00\x00', b'\xc7\x05\x04\x06\x00\x00\x02\x00\x00\x00'
    m.go(store[0] + code + store[1] + b'\xcd\x80', cpl, 0x2 | iopl << 12, edx=0x21, eax=0x11223344)
    m.gate(0x80, 8, INT, 3)
    m.cpu.engine.load(); m.cpu.state[m.cpu.f.TR + 4] = 0x67 + len(bits or b''); m.cpu.engine.store()
    allowed = cpl <= iopl
    if not allowed and bits is not None and len(bits) >= 6:      # the manual: two bytes are always read
        allowed = not int.from_bytes(bits, 'little') >> 0x21 & (1 << width) - 1
    assert m.cpu.run() == 'halted'
    r = m.regs
    assert m.words(0x600, 2) == [1, 2 if allowed else 0]
    if allowed:
        assert r['eip'] == handler(0x80) + 1
        ones = (1 << 8 * width) - 1
        assert r['eax'] == (0x11223344 | ones if insn.startswith('in') else 0x11223344)
    else:
        assert r['eip'] == handler(13) + 1 and r['eax'] == 0x11223344
        assert m.words(r['esp'], 3) == [0, PROGRAM + 10, CODE[cpl]]


STRINGS = {'insb': ('6c', 1), 'insw': ('666d', 2), 'insd': ('6d', 4), 'outsb': ('6e', 1), 'outsw': ('666f', 2), 'outsd': ('6f', 4)}
BUFFER = 0x60800


class Ports:
    "A device on every port: reads count up, writes are kept."
    def __init__(self, cpu): self.n, self.written, cpu.port_in, cpu.port_out = 0, [], self.read, self.write
    def read(self, port, size): self.n += 1; return self.n * 0x01010101 & (1 << 8 * size) - 1
    def write(self, port, size, value): self.written.append((port, size, value))


@pytest.fixture
def ports(m):
    yield Ports(m.cpu)
    del m.cpu.port_in, m.cpu.port_out


@pytest.mark.parametrize('insn', STRINGS)
@pytest.mark.parametrize('repeat,count', [('', 7), ('f3', 0), ('f3', 1), ('f3', 5), ('f2', 3)])
@pytest.mark.parametrize('down', [False, True])
@pytest.mark.parametrize('cpl,iopl', [(0, 0), (1, 0), (1, 1), (3, 1), (3, 3)])
def test_string_in_and_out(m, ports, insn, repeat, count, down, cpl, iopl):
    code, width = STRINGS[insn]
    reads = insn.startswith('in')
    m.mem.write(BUFFER - 32, bytes(range(64)))
    m.go(bytes.fromhex(repeat + code) + b'\x43\xcd\x80', cpl, 0x2 | iopl << 12 | down << 10, edx=0x21, ecx=count, ebx=0, esi=BUFFER, edi=BUFFER)
    m.gate(0x80, 8, INT, 3)
    assert m.cpu.run() == 'halted'
    r = m.regs
    if cpl > iopl:
        assert r['eip'] == handler(13) + 1 and m.words(r['esp'], 2) == [0, PROGRAM]
        assert (r['ecx'], r['esi'], r['edi'], r['ebx'], ports.n, ports.written) == (count, BUFFER, BUFFER, 0, 0, [])
        return
    turns = count if repeat else 1
    moved = turns * (-width if down else width)
    assert r['eip'] == handler(0x80) + 1 and r['ebx'] == 1
    assert r['ecx'] == (0 if repeat else count)
    assert (r['esi'], r['edi']) == ((BUFFER, BUFFER + moved) if reads else (BUFFER + moved, BUFFER))
    memory = bytearray(range(64))
    places = [32 + n * (-width if down else width) for n in range(turns)]
    if reads:
        for n, at in enumerate(places): memory[at:at + width] = bytes([n + 1] * width)
    assert m.mem.read(BUFFER - 32, 64) == memory
    assert ports.written == ([] if reads else [(0x21, width, int.from_bytes(memory[at:at + width], 'little')) for at in places])


@pytest.mark.parametrize('insn', ['insd', 'outsd'])
def test_string_io_that_meets_a_missing_page_can_go_on(m, ports, insn):
    "Three words, and the page ends after the second: the registers are where they must be to go on."
    code, width = STRINGS[insn]
    m.go(b'\xf3' + bytes.fromhex(code) + b'\xf4', 3, 0x3002, edx=0x21, ecx=3, esi=ABSENT - 8, edi=ABSENT - 8)
    assert m.cpu.run() == 'halted'
    r = m.regs
    assert (r['eip'], r['cr2'], r['ecx']) == (handler(14) + 1, ABSENT, 1)
    assert r['edi' if insn == 'insd' else 'esi'] == ABSENT
    assert m.words(r['esp'], 2) == [6 if insn == 'insd' else 4, PROGRAM]
    assert (ports.n, len(ports.written)) == ((2, 0) if insn == 'insd' else (0, 2))


def test_outs_heeds_its_segment(m, ports):
    m.mem.write(BUFFER, b'abcd')
    m.go(b'\x64\x6f\xf4', 3, 0x3002, edx=0x21, esi=0x800)
    m.cpu.state[m.cpu.f.FS + 2] = BUFFER - 0x800
    m.cpu.engine.store()
    m.cpu.run()
    assert ports.written == [(0x21, 4, int.from_bytes(b'abcd', 'little'))]


def test_string_io_with_short_addresses_keeps_the_upper_halves(m, ports):
    m.mem.write(0x7FF0, b'\x11' * 16)
    m.go(b'\xf3\x67\x6c\xf4', 3, 0x3002, edx=0x21, ecx=0xABCD0002, edi=0xABCD7FFE)
    m.cpu.run()
    r = m.regs
    assert (r['ecx'], r['edi']) == (0xABCD0000, 0xABCD8000) and m.mem.read(0x7FFE, 2) == b'\1\2'


# --- run, step, snapshot

@pytest.mark.parametrize('count', [1, 2, 3, 7])
def test_run_count(m, count):
    m.go(b'\x40' * 20 + b'\xf4', 3, 2, eax=0)
    assert m.cpu.run(count) == 'count'
    assert m.regs['eax'] == count and m.regs['eip'] == PROGRAM + count


def test_steps_and_snapshot(m):
    m.go(b'\x40\xa3\x00\x06\x00\x00\x40\xf4', 0, 2, eax=0)      # inc eax; mov [0x600], eax; inc eax; hlt
    saved, trail = m.cpu.snapshot(), []
    for _ in range(2):
        m.cpu.restore(saved)
        assert m.words(0x600, 1) == [0]
        here = [(m.cpu.step(), m.regs['eip'] - PROGRAM, m.regs['eax']) for _ in range(4)]
        assert here == [('count', 1, 1), ('count', 6, 1), ('count', 7, 2), ('halted', 8, 2)]
        assert m.words(0x600, 1) == [1]
        trail.append(m.regs)
    assert trail[0] == trail[1]
    m.cpu.restore(saved)
    assert m.cpu.run() == 'halted' and m.regs == trail[0]


def test_snapshot_keeps_pending_interrupts_and_shutdown(m):
    m.go(b'\x40\xf4', 0, 2)
    m.cpu.raise_irq(0x40); m.cpu.raise_nmi()
    saved = m.cpu.snapshot()
    m.cpu.run()
    m.cpu.irqs.clear()
    m.cpu.restore(saved)
    assert m.cpu.irqs == [0x40] and m.cpu.nmi


def test_kick(m):
    m.go(b'\xeb\xfe', 3, 2)
    m.cpu.kick()
    assert m.cpu.run() == 'stopped'
    assert m.regs['eip'] == PROGRAM


def test_a_stop_that_comes_late_is_not_a_halt(m):
    "The interrupt has been let in, and the program runs again, when the one who raised it gets round to stopping the engine."
    m.mem.write(handler(0x40), b'\xcf')                         # iret
    m.go(b'\xeb\xfe', 3, 0x202)
    raised, over = threading.Event(), threading.Event()
    def raise_it():
        def slowly():
            m.cpu.irqs.append(0x40)
            raised.set()
            over.wait(0.3)
        knock(m.cpu, slowly)
        over.wait(0.2)
        m.cpu.kick()
    visitor = threading.Thread(target=raise_it)
    visitor.start()
    assert raised.wait(60)
    assert m.cpu.run() == 'stopped' and visitor.join() is None
    assert (m.regs['eip'], m.cpu.irqs) == (PROGRAM, []) and m.cpu.tally[0][0x40]


def test_copied_state_delivers_alike():
    "Where the engine's own state cannot be reached, a copy of it serves as well."
    m = Machine(live=False)
    m.gate(0x80, CODE[1], TRAP, 3)
    m.go(b'\x40\xcd\x80', 3, 0x4202, eax=0)
    assert [m.cpu.step(), m.cpu.step()] == ['count', 'count']
    r = m.regs
    assert (r['cs'], r['eip'], r['ss'], r['esp'], r['eflags'] & 0x4300) == (0x19, handler(0x80), 0x21, TSS_STACK[1] - 20, 0x200)
    assert m.words(r['esp'], 5) == [PROGRAM + 3, CODE[3], 0x4202, STACK[3], DATA[3]]


def test_kick_is_heard_while_an_irq_waits(m):
    m.go(b'\xeb\xfe', 3, 2)
    m.cpu.raise_irq(0x40); m.cpu.kick()
    assert m.cpu.run(1000) == 'stopped'
    assert m.regs['eip'] == PROGRAM and m.cpu.irqs == [0x40]


def test_a_kick_that_came_too_early_is_made_good_by_the_next():
    "The clock's thread raises its interrupt after `run` has looked for one, and before the engine has started."
    pytest.importorskip('ziglang')
    g = Workbench('forever: jmp forever', host=Host(memory=12 << 20, clock=OneTurn(slice=0)))
    cpu, engine = g.host.cpu, g.host.cpu.engine
    real, late = engine.start, threading.Timer(60, lambda: cpu.kick())     # a failure, and not for ever
    def start(*args):
        engine.start = real
        cpu.irqs.append(TIMER_VECTOR)
        threading.Timer(0.05, g.host.kick).start()
        return real(*args)
    engine.start = start
    late.start()
    try: assert g.turn() == TIMER_VECTOR
    finally: late.cancel()
