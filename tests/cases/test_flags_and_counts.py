"While the engine counts instructions nothing else is different: no flag, no fault, no count."
import random

import pytest

from lguest_lit.host.clock import VirtualClock, WallClock
from lguest_lit.host.host import Host
from lguest_lit.i386.cpu import CPU, flat_machine, trapped
from lguest_lit.i386.tlb import TlbCPU
from lguest_lit.launcher.launcher import Launcher
from lguest_lit.launcher.workbench import assemble

A, B = 0x80000000, 0xD56F678F
CF, PF, AF, ZF, SF, OF = 1, 4, 0x10, 0x40, 0x80, 0x800
ARITHMETIC = CF | PF | AF | ZF | SF | OF


def parity(x): return PF if bin(x & 0xFF).count('1') % 2 == 0 else 0
def sign(x): return (ZF if not x else 0) | (SF if x >> 31 else 0) | parity(x)
def add(a, b):
    r = a + b & 0xFFFFFFFF
    return sign(r) | (a + b >> 32) | (a ^ b ^ r) & AF | ((a ^ r) & (b ^ r)) >> 31 << 11
def sub(a, b):
    r = a - b & 0xFFFFFFFF
    return sign(r) | (a < b) | (a ^ b ^ r) & AF | ((a ^ b) & (a ^ r)) >> 31 << 11


OPERATIONS = {               # code, flags by the manual, those that are defined
    'cmp eax, edx': ('39d0', sub(A, B), ARITHMETIC),
    'add eax, edx': ('01d0', add(A, B), ARITHMETIC),
    'sub eax, edx': ('29d0', sub(A, B), ARITHMETIC),
    'neg eax': ('f7d8', sub(0, A), ARITHMETIC),
    'inc eax': ('40', add(A, 1) & ~CF, ARITHMETIC),
    'dec eax': ('48', sub(A, 1) & ~CF, ARITHMETIC),
    'and eax, edx': ('21d0', sign(A & B), ARITHMETIC & ~AF),
    'test edx, edx': ('85d2', sign(B), ARITHMETIC & ~AF),
    'shl eax, 1': ('d1e0', ZF | PF | CF | OF, ARITHMETIC & ~AF),
    'stc': ('f9', CF, CF),
    'sahf, all of them': ('b4d59e', 0xD5, ARITHMETIC & ~OF),
}
BEFORE = {'nothing': '', 'nop': '90', 'mov': '89d1', 'push': '51', 'load': '8b0d00210200', 'jump': 'eb00', 'another cmp': '39c8', 'pushf; popf': '9c9d'}
FAULTS = {'store': 'a300005000', 'load': '8b0d00005000', 'push': '8f0500005000', 'add to memory': '010500005000', 'string': 'bf00005000ab'}


def flags(cpu, code, ring, count):
    "Arithmetic flags in the frame of the page fault that this program ends in."
    m = flat_machine(bytes.fromhex(code), ring, cpu=cpu)
    m.state[m.f.EAX], m.state[m.f.EDX] = A, B
    m.engine.store()
    assert m.run(count) == 'halted' and trapped(m) == 14
    return m.memory.u32[(m.registers()['esp'] >> 2) + 3]


@pytest.mark.parametrize('operation', OPERATIONS)
def test_flags_survive_a_fault(operation):
    code, right, known = OPERATIONS[operation]
    around = [(before, 'store') for before in BEFORE] + [('nothing', fault) for fault in FAULTS]
    for before, fault in around:
        if (fault, operation) == ('string', 'sahf, all of them'): continue
        for ring, count, cpu in (0, 20000, CPU), (3, 0, CPU), (3, 20000, CPU), (3, 0, TlbCPU):
            seen = flags(cpu, BEFORE[before] + code + FAULTS[fault] + '90', ring, count)
            assert seen & known == right & known, (before, fault, ring, count, cpu, hex(seen))


@pytest.mark.parametrize('code', ['39d0' 'e9fb0f0000', '39d0' 'ffe1'], ids=['jmp', 'jmp ecx'])
def test_flags_survive_a_fault_of_the_fetch(code):
    "No instruction has begun; the last one's flags are still to be worked out."
    for count in 0, 20000:
        m = flat_machine(bytes.fromhex(code), 3)
        m.state[m.f.EAX], m.state[m.f.EDX], m.state[m.f.ECX] = A, B, 0x21002
        m.memory.u32[0x11000 + 4 * 0x21 >> 2] = 0
        m.engine.store()
        assert m.run(count) == 'halted' and trapped(m) == 14
        eip, _, seen = m.memory.u32[(m.registers()['esp'] >> 2) + 1:(m.registers()['esp'] >> 2) + 4].tolist()
        assert eip == 0x21002 and seen & ARITHMETIC == sub(A, B)


@pytest.mark.parametrize('count', [0, 20000])
@pytest.mark.parametrize('n', [0, 1, 2, 5])
def test_a_block_that_runs_into_a_missing_page(n, count):
    "So many instructions before the page ends; the fault is the next one's, with the last one's flags."
    m = flat_machine(b'', 3)
    m.memory.write(0x30000 - n, b'\x40' * n)
    m.state[m.f.EAX], m.state[m.f.EIP] = 0x7FFFFFFF, 0x30000 - n
    m.memory.u32[0x11000 + 4 * 0x30 >> 2] = 0
    m.engine.store()
    assert m.run(count) == 'halted' and trapped(m) == 14
    now = m.registers()
    frame = m.memory.u32[now['esp'] >> 2:(now['esp'] >> 2) + 6].tolist()
    assert (frame[0], frame[1], now['cr2'], now['eax']) == (4, 0x30000, 0x30000, 0x7FFFFFFF + n)
    if n: assert frame[3] & ARITHMETIC == add(0x7FFFFFFE + n, 1) & ~CF


def test_an_instruction_that_reaches_into_a_missing_page():
    m = flat_machine(b'', 3)
    m.memory.write(0x2FFFC, b'\x40' b'\xb8\x01\x02')                 # inc eax; mov eax, ...
    m.state[m.f.EIP] = 0x2FFFC
    m.memory.u32[0x11000 + 4 * 0x30 >> 2] = 0
    m.engine.store()
    assert m.run() == 'halted' and trapped(m) == 14
    now = m.registers()
    assert (now['cr2'], now['eax'], m.memory.u32[(now['esp'] >> 2) + 1]) == (0x30000, 1, 0x2FFFD)


def test_a_read_of_the_page_behind_is_not_a_fetch():
    "The instruction ends before the page does, and reads what is not there: its own fault."
    for count in 0, 20000:
        m = flat_machine(b'', 3)
        m.memory.write(0x2FFF0, bytes.fromhex('39d0' 'a100000300' 'eb00'))
        m.state[m.f.EAX], m.state[m.f.EDX], m.state[m.f.EIP] = A, B, 0x2FFF0
        m.memory.u32[0x11000 + 4 * 0x30 >> 2] = 0
        m.engine.store()
        assert m.run(count) == 'halted' and trapped(m) == 14
        frame = m.memory.u32[m.registers()['esp'] >> 2:(m.registers()['esp'] >> 2) + 4].tolist()
        assert frame[:2] == [4, 0x2FFF2] and frame[3] & ARITHMETIC == sub(A, B)


@pytest.mark.parametrize('name, op', [('cmp', 'cmpl %edx, %eax'), ('add', 'addl %edx, %eax'), ('neg', 'negl %eax')])
@pytest.mark.parametrize('clock', [VirtualClock, WallClock])
def test_a_guest_branches_rightly_behind_a_fault(name, op, clock):
    image = assemble(f'''movl $0x80000000, %eax\n movl $0xd56f678f, %edx\n jmp 1f\n 1: {op}\n movl %eax, 0xC0200000\n jc good\n crash bad\n good: crash fine
        .data\n bad: .asciz "no carry"\n fine: .asciz "carry"\n .text''')
    with Host(memory=24 << 20, clock=clock()) as host, Launcher(image, mem='4M', host=host, warn=lambda text: None) as launcher:
        assert launcher.run().reason == 'CRASH: carry'


# --- counts -----------------------------------------------------------------------------------------------------------

PIECES = ['40', '4b', '0fafc3', '01d0', '39d0', '7500', '7200', 'eb00', '9090', 'e800000000 58', '51 59', 'f3aa', 'f3a4', 'f3a6', 'f2ae', 'aa', 'cd80', '8cd8 8ed8',
          '8cd0 8ed0 90', '9c 9d', 'a1 00005000', '0f31']


def program(rng):
    "Straight on, with hops, traps, faults and repetitions; ECX is small again before each repetition."
    body = ''.join(rng.choice(['', 'b9 0%d000000' % rng.randrange(6), 'bf 00800200 be 00810200']) + rng.choice(PIECES) for _ in range(rng.randrange(5, 40)))
    return bytes.fromhex(body)


def counted(code, counts, ring):
    "Run in portions; where each ended, and all registers."
    m = flat_machine(code + b'\xeb\xfe', ring)
    for n in range(256):                                             # each trap returns; a fault's error code goes first, and its instruction is left out
        m.memory.write(0x18000 + 16 * n, bytes.fromhex('83c404 8304240 5'.replace(' ', '')) + b'\xcf' if n == 14 else b'\xcf')
    m.memory.u32[0x2000 + 8 * 0x80 + 4 >> 2] |= 0x6000
    m.state[m.f.ECX], m.state[m.f.EDI], m.state[m.f.ESI] = 3, 0x28000, 0x28100
    m.engine.store()
    places = []
    for count in counts:
        assert m.run(count) == 'count' and m.begun >= count
        assert m.begun - count <= 1                                  # mov ss and its shadow begin together
        r = m.registers()
        places.append((m.begun, [r[name] for name in 'eax ebx ecx edx esp ebp esi edi eip cs ss'.split()], r['eflags']))
    return places


@pytest.mark.parametrize('ring', [0, 1, 3])
def test_a_count_is_the_programs_and_not_the_engines(ring):
    "A run in one go, in two portions, in many, in single steps that count: after as many instructions, the same place."
    rng = random.Random(ring)
    for _ in range(15):
        code = program(rng).replace(b'\x0f\x31', b'\x90')
        total = rng.randrange(60, 200)
        *_, whole = counted(code, [total], ring)
        total = whole[0]
        first = rng.randrange(10, total - 10)
        places = counted(code, [first], ring)
        first = places[-1][0]
        if total - first > 1:
            *_, (n, registers, eflags) = counted(code, [first, total - first], ring)
            assert (first + n, registers, eflags) == whole, code.hex()


def test_time_is_the_same_whatever_the_slices():
    "The first Guest's life, to the last counter, with slices of any size."
    lives = []
    for slice in 3_000, 20_000, 1_000_000:
        with Host(memory=32 << 20, clock=VirtualClock(slice=slice, insn_ns=50)) as host, Launcher('first', args='ticks=2 hz=1000', host=host) as launcher:
            result = launcher.run()
            result.stats.pop('seconds')
            lives.append((result.reason, result.console, host.clock.now(), result.stats))
    assert lives[0] == lives[1] == lives[2]


def alarm_at(body):
    "How often the Guest has gone round when its alarm goes off, and where it is then."
    image = assemble(f'hcall LHCALL_SET_CLOCKEVENT, $777770\n movl $0, %esi\n 1: {body} incl %esi\n jmp 1b')
    with Host(memory=24 << 20, clock=VirtualClock()) as host, Launcher(image, mem='4M', host=host, warn=lambda text: None) as launcher:
        real, seen, f = host.kick, [], host.cpu.f
        def kick():
            if seen: return real()
            seen.append((host.cpu.state[f.ESI], host.cpu.state[f.EIP], host.clock.now()))
            launcher.stop('enough', 124)                             # which kicks
        host.kick = kick
        launcher.run()
    return seen[0]


def test_an_alarm_falls_between_the_same_two_instructions_whatever_the_blocks():
    "As many instructions, in one long block or in many short ones."
    (long, _, then), (short, _, now) = alarm_at('nop\n' * 300), alarm_at('nop\n' * 150 + 'jmp 9f\n 9: ' * 150)
    assert long == short > 100 and then == now
