"""What a 386 does where the engine does something else, or nothing: protection in the outer rings, traps, missing memory, the TLB model.

Each machine is `flat_machine`: a trap ends in the HLT of its vector, in ring 0, and the frame lies on top of that stack."""
import struct
import threading

import pytest
from lguest_lit.i386 import cpu as processor
from lguest_lit.i386.cpu import CODE, STACK0, CPU, flat_machine, trapped
from lguest_lit.i386.descriptors import segment
from lguest_lit.i386.guard import WATCHED_RETURNS
from lguest_lit.i386.tlb import TlbCPU
from lguest_lit.launcher.workbench import Workbench

PF, GP, UD, DB, TS = 14, 13, 6, 1, 10
PD, PT, GDT, IDT, TSS = 0x10000, 0x11000, 0x1000, 0x2000, 0x3000
VM, IOPL, IF, RF, TF, NT = 0x20000, 0x3000, 0x200, 0x10000, 0x100, 0x4000
UD2 = b'\x0f\x0b'


class BookCPU(CPU):
    "No delivery takes the short way."
    shortcuts = False


def words(*values) -> bytes: return struct.pack(f'<{len(values)}I', *values)


def push(*values) -> bytes:
    "Code that pushes words, the last one first, as they are written from the lowest address."
    return b''.join(b'\x68' + words(value) for value in reversed(values))


def machine(code: bytes, ring=0, *prepare, cpu=CPU):
    "A flat machine, prepared."
    made = flat_machine(code, ring, cpu=cpu)
    for step in prepare: step(made)
    made.engine.flush_tlb()
    return made


def page(number: int, entry: int): return lambda m: m.memory.u32.__setitem__((PT >> 2) + number, entry)
def at(address: int, data: bytes): return lambda m: m.memory.write(address, data)
def gate(vector: int, address: int, selector=8, kind=0x8E00):
    return at(IDT + 8 * vector, words(selector << 16 | address & 0xFFFF, address & 0xFFFF0000 | kind))


def supervisor(number: int): return page(number, number << 12 | 3)
def register(name: str, value: int):
    def put(m):
        m.state[getattr(m.f, name)] = value
        m.engine.store()
    return put


def run(m, seconds=20) -> int:
    "The vector in whose HLT it ends."
    timer = threading.Timer(seconds, m.kick)
    timer.daemon = True
    timer.start()
    try: assert m.run() == 'halted', m.shutdown
    finally: timer.cancel()
    return trapped(m)


def frame(m, n=6) -> list:
    "The lowest words on the stack."
    return list(m.memory.u32[m.state[m.f.ESP] >> 2:(m.state[m.f.ESP] >> 2) + n])


ways = pytest.mark.parametrize('cpu', (CPU, BookCPU), ids=('short', 'book'))

# --- a4: an int with prefixes, refused -----------------------------------------------------------------------------------

INTS = {'int': b'\xcd\x80', 'int 3': b'\xcd\x03', 'int3': b'\xcc', 'int 6': b'\xcd\x06', 'int 4': b'\xcd\x04'}
PREFIXES = b'', b'\x66', b'\x67', b'\x2e', b'\x66\x66', b'\x64\x67\x66', b'\xf3', b'\x65' * 8


@ways
@pytest.mark.parametrize('ring', (1, 3))
@pytest.mark.parametrize('name', INTS)
@pytest.mark.parametrize('prefix', PREFIXES, ids=bytes.hex)
def test_a4_refused_int_with_prefixes(prefix, name, ring, cpu):
    "EIP at the first prefix, and not at the int, nor at a byte before that looks like another prefix."
    insn = INTS[name]
    vector = insn[1] if len(insn) == 2 else 3
    m = machine(b'\xb8\x66\x66\x66\x66' + prefix + insn, ring, cpu=cpu)         # mov eax, 0x66666666
    assert run(m) == GP and frame(m, 2) == [vector * 8 + 2, CODE + 5]


@ways
@pytest.mark.parametrize('prefix', PREFIXES, ids=bytes.hex)
def test_a4_accepted_int_with_prefixes(prefix, cpu):
    m = machine(prefix + b'\xcd\x80', 3, gate(0x80, 0x18800, kind=0xEE00), cpu=cpu)
    assert run(m) == 0x80 and frame(m, 1) == [CODE + len(prefix) + 2]


def test_a4_in_ring_0_an_absent_gate():
    m = machine(b'\xb8\x66\x66\x66\x66' + b'\x66\xcd\x80', 0, gate(0x80, 0x18800, kind=0x0E00))
    assert run(m) == 11 and frame(m, 2) == [0x402, CODE + 5]


def test_a4_into_with_prefixes():
    m = machine(b'\x66\xce', 3, register('EFLAGS', 2))
    m.engine.put(EFLAGS=0x802)
    assert run(m) == GP and frame(m, 2) == [4 * 8 + 2, CODE]


def test_a4_many_ints_are_forgotten():
    "Whoever has ten thousand of them does not fill the Host's memory."
    m = machine(b'', 3)
    for n in range(10_000): processor.note_int(m, b'\x66\xcd\x80', 0x100000 + 4 * n)
    assert len(m.long_ints) <= processor.LONG_INTS


# --- a5: icebp -----------------------------------------------------------------------------------------------------------

@ways
@pytest.mark.parametrize('ring', (0, 1, 3))
def test_a5_icebp(ring, cpu):
    "Vector 1, though the gate is for ring 0, with EIP behind it and no resume flag."
    m = machine(b'\x43\xf1\x43', ring, cpu=cpu)
    assert run(m) == DB
    assert frame(m, 3) == [CODE + 2, (8, 0x19, 0, 0x2B)[ring], 2] and m.registers()['ebx'] == 1


def test_a5_with_prefixes():
    assert run(m := machine(b'\x66\xf1', 3)) == DB and frame(m, 1) == [CODE + 2]
    assert run(machine(b'\xf0\xf1', 3)) == UD                                    # lock


# --- a6: where there is no memory ----------------------------------------------------------------------------------------

def no_paging(m):
    m.engine.put(CR0=0x11)
    m.engine.load()


NOWHERE = {
    'stack, no paging': ([no_paging, register('ESP', 0xF0000000)], UD),
    'stack at the end of memory': ([no_paging, register('ESP', 0x100006)], UD),
    'stack in a page': ([page(0x27, 0xE0000007)], UD),
    'half a stack': ([page(0x28, 0xE0000007), register('ESP', 0x28006)], UD),
}


@ways
@pytest.mark.parametrize('name', NOWHERE)
def test_a6_a_frame_that_is_lost(name, cpu):
    prepare, vector = NOWHERE[name]
    assert run(machine(UD2, 0, *prepare, cpu=cpu)) == vector


def ends(m, seconds=1) -> str:
    "How a machine ends: by itself, or because it is stopped."
    timer = threading.Timer(seconds, m.kick)
    timer.daemon = True
    timer.start()
    try: return m.run()
    finally: timer.cancel()


GONE = {
    'IDT': lambda m: m.engine.put(IDTR=(0x20000000, 0x7FF)),
    'GDT': lambda m: m.engine.put(GDTR=(0x20000000, 0xFF)),
    'CR3': lambda m: m.engine.put(CR3=0x7000000),
    'page of the IDT': page(IDT >> 12, 0xE0000007), 'page of the GDT': page(GDT >> 12, 0xE0000007),
    'page of the TSS': page(TSS >> 12, 0xE0000007), 'page table': at(PD, words(0xE0000007)), 'page of code': page(CODE >> 12, 0xE0000007),
}


@ways
@pytest.mark.parametrize('paging', (True, False))
@pytest.mark.parametrize('ring', (0, 1, 3))
@pytest.mark.parametrize('name', GONE)
def test_a6_tables_that_are_nowhere(name, ring, paging, cpu):
    """All ones make no gate; but they make a segment of conforming code, and a handler in ring 3 that has no way out.

    Whatever it is: no Python exception, and it can be stopped."""
    m = machine(UD2, ring, *([] if paging else [no_paging]), GONE[name], cpu=cpu)
    m.engine.load()
    assert ends(m) in ('halted', 'shutdown', 'stopped')


@ways
def test_a6_a_table_that_goes_between_two_traps(cpu):
    "The short way has been learnt when the page of the tables turns into nothing."
    m = machine(UD2, 3, cpu=cpu)
    for target in (IDT, GDT, TSS): m.memory.write(0x4000 + target - GDT, m.memory.read(target, 0x800))
    assert run(m) == UD
    for number in 1, 2, 3: m.memory.u32[(PT >> 2) + number] = 0xE0000007
    assert ends(m) in ('halted', 'shutdown', 'stopped')


def test_a6_reads_are_ones_and_writes_are_lost():
    code = b'\xa3\x00\x50\x08\x00' + b'\xa1\x00\x50\x08\x00' + b'\xf4'           # mov [85000], eax; mov eax, [85000]; hlt
    m = machine(code, 0, page(0x85, 0x80000007), register('EAX', 0x1234))
    before = m.memory.read(0, m.memory.size)
    assert run(m) is None and m.registers()['eax'] == 0xFFFFFFFF
    changed = [i for i, (a, b) in enumerate(zip(before, m.memory.read(0, m.memory.size))) if a != b]
    assert all(PD <= i < PT + 0x1000 or i in range(GDT, GDT + 64) for i in changed)      # accessed and dirty bits


def test_a6_code_that_is_nowhere():
    "Ones are FF FF, which is no instruction."
    m = machine(b'\xe9' + struct.pack('<i', 0x85000 - CODE - 5), 0, page(0x85, 0x80000007))
    assert run(m) == UD and frame(m, 1) == [0x85000]


@pytest.mark.parametrize('code', ('6d', 'f36d', '6f', 'f36f', 'ed', 'ef'))
def test_a6_ports_and_a_bitmap_that_are_nowhere(code):
    "The bitmap reads as ones, so nothing is allowed; with IOPL 3 the data come from nowhere."
    nowhere = page(0x85, 0x80000007), register('EDI', 0x85000), register('ESI', 0x85000), register('ECX', 2)
    assert run(machine(bytes.fromhex(code), 3, *nowhere)) == GP
    m = machine(bytes.fromhex(code) + UD2, 3, *nowhere, register('EFLAGS', IOPL | 2))
    written = []
    m.port_out = lambda *what: written.append(what)
    assert run(m) == UD
    assert all(value == 0xFFFFFFFF for port, size, value in written if code[-2:] == '6f')


# --- a7, a8: the TLB model -----------------------------------------------------------------------------------------------

READS = {'mov eax, [80234]': ('a134020800', 0x80234), 'push [80234]': ('ff3534020800', 0x80234), 'across pages': ('a1fe0f0800', 0x80FFE),
         'second page only': ('a1fe0f0700', None), 'inc byte': ('fe0534020800', 0x80234), 'string': ('a5', 0x80040)}


@pytest.mark.parametrize('name', READS)
def test_a7_cr2_has_the_byte(name):
    code, right = READS[name]
    m = machine(bytes.fromhex(code), 3, page(0x80, 0), register('ESI', 0x80040), register('EDI', 0x40000), cpu=TlbCPU)
    if right is None: m.memory.u32[(PT >> 2) + 0x71], right = 0, 0x71000
    assert run(m) == PF and m.registers()['cr2'] == right


@pytest.mark.parametrize('code, cr2', ((b'\x50', 0x27FFC), (b'\xe8\0\0\0\0', 0x27FFC)))
def test_a7_cr2_of_a_push(code, cr2):
    m = machine(code, 3, page(0x27, 0), cpu=TlbCPU)
    assert run(m) == PF and m.registers()['cr2'] == cr2


@pytest.mark.parametrize('load', ('8ee0', '0fa1', '0fb425', 'c5', '0f02c8'))
def test_a8_the_processor_reads_its_own_tables(load):
    "Ring 3 loads a segment although the GDT is in a supervisor's page."
    code = b'\xb8\x33\0\0\0' + {'0fa1': b'\x50\x0f\xa1', '0fb425': b'\x0f\xb4\x25' + words(0x40000), 'c5': b'\xc5\x1d' + words(0x40000)}.get(load, bytes.fromhex(load))
    m = machine(code + UD2, 3, *map(supervisor, (1, 2, 3)), at(0x40000, struct.pack('<IH', 0, 0x33)), cpu=TlbCPU)
    assert run(m) == UD


@pytest.mark.parametrize('code', ('a100100000', '8e2500100000', 'ff3500100000'))
def test_a8_the_program_does_not(code):
    "But for itself it may not look in there; not even with a load whose operand lies beside the GDT."
    m = machine(bytes.fromhex(code) + UD2, 3, supervisor(1), cpu=TlbCPU)
    assert run(m) == PF and frame(m, 1) == [5] and m.registers()['cr2'] == 0x1000


# --- b1, b2, b4: the stack's rights --------------------------------------------------------------------------------------

POINTER = at(0x40000, struct.pack('<IH', 0x20010, 0x2B))
CALLS = {'direct': b'\x9a' + struct.pack('<IH', CODE + 0x10, 0x2B), 'indirect': b'\xff\x1d' + words(0x40000),
         '16 bits': b'\x66\x9a' + struct.pack('<HH', 0x10, 0x2B), 'by register': b'\xff\x18', 'with a prefix': b'\x3e\xff\x18'}


@ways
@pytest.mark.parametrize('name', CALLS)
def test_b1_a_far_call_pushes_with_its_own_rights(name, cpu):
    code = CALLS[name]
    for entry, error in ((0x27003, 7), (0x27005, 7), (0, 6)):                    # the kernel's; read-only; not there
        m = machine(code, 3, page(0x27, entry), POINTER, register('EAX', 0x40000), cpu=cpu)
        before = m.memory.read(0x27000, 0x1000)
        assert run(m) == PF and frame(m, 2) == [error, CODE] and m.registers()['esp'] == STACK0 - 24
        assert m.memory.read(0x27000, 0x1000) == before


@pytest.mark.parametrize('ring', (1, 3))
@pytest.mark.parametrize('name', ('direct', 'indirect', 'by register', 'with a prefix'))
def test_b1_an_honest_far_call(name, ring):
    code, cs = CALLS[name].replace(b'\x2b\0', b'\x19\0' if ring == 1 else b'\x2b\0'), 0x19 if ring == 1 else 0x2B
    m = machine(code + bytes(0x10 - len(code)) + UD2, ring, at(0x40000, struct.pack('<IH', CODE + 0x10, cs)), register('EAX', 0x40000))
    assert run(m) == UD and frame(m, 2) == [CODE + 0x10, cs]
    assert list(m.memory.u32[0x27FF8 >> 2:0x28000 >> 2]) == [CODE + len(code), cs]


RETURNS = {'lret': b'\xcb', 'lret 8': b'\xca\x08\0', 'iret': b'\xcf', 'lretw': b'\x66\xcb', 'iretw': b'\x66\xcf'}


@ways
@pytest.mark.parametrize('name', RETURNS)
def test_b2_b4_a_return_reads_with_its_own_rights(name, cpu):
    "A page of the kernel's, or none; and the error code does not tell what lies there."
    secret = at(0x28000, words(0x1234, 0xABC8, 0x5678) * 2)
    for entry, error in ((0x28003, 5), (0, 4)):
        m = machine(RETURNS[name], 3, secret, page(0x28, entry), cpu=cpu)
        assert run(m) == PF and frame(m, 2) == [error, CODE] and m.registers()['cr2'] >> 12 == 0x28
        assert not any(0xABC8 & ~3 == word & ~3 for word in frame(m))


@pytest.mark.parametrize('name', RETURNS)
def test_b2_honest_returns(name):
    width, flags = 2 if '66' in RETURNS[name].hex() else 4, name[0] == 'i'
    back = [0x400 if width == 2 else CODE + 0x40, 0x2B] + [0x8D5] * flags
    m = machine(RETURNS[name], 3, at(0x28000, struct.pack('<' + 'HI'[width // 4] * len(back), *back)), at(CODE + 0x40, UD2), at(0x400, UD2))
    assert run(m) == UD and frame(m, 4) == [back[0], 0x2B, 0x108D7 if flags else 0x10002, 0x28000 + width * len(back) + 8 * (name == 'lret 8')]


def test_rings_1_and_2_are_supervisors():
    "Their returns and calls may use a supervisor's stack."
    for code, stack in ((b'\xcb', [CODE + 0x40, 0x19]), (b'\xcf', [CODE + 0x40, 0x19, 2])):
        m = machine(code, 1, supervisor(0x28), at(0x28000, words(*stack)), at(CODE + 0x40, UD2))
        assert run(m) == UD and frame(m, 2) == [CODE + 0x40, 0x19]


def test_a_call_gate_into_conforming_code_keeps_the_ring_in_cs():
    "The engine would have put the segment's into it, and the next IRET would have gone there."
    for ring, cs in ((1, 0x19), (3, 0x2B)):
        m = machine(b'\x9a' + struct.pack('<IH', 0, 0x43), ring, at(GDT + 0x40, words(0x48 << 16 | 0x100, CODE & 0xFFFF0000 | 0xEC00)),
                    at(GDT + 0x48, words(*segment(0, 0xFFFFF, 0x9F))), at(CODE + 0x100, UD2), register('GDTR', GDT))
        m.state[m.f.GDTR + 2] = 0x4F
        m.engine.store()
        assert run(m) == UD and frame(m, 2) == [CODE + 0x100, 0x48 | ring]


# --- b3: the flags -------------------------------------------------------------------------------------------------------

@ways
@pytest.mark.parametrize('ring', (1, 3))
@pytest.mark.parametrize('flags', (VM, VM | IOPL | IF, VM | IOPL, IF | IOPL, VM | TF, VM | RF))
def test_b3_vm_and_iopl_are_not_theirs(ring, flags, cpu):
    "To where the frame says, in protected mode, with IF and IOPL as they were."
    cs = (0, 0x19, 0, 0x2B)[ring]
    m = machine(push(CODE + 0x80, cs, flags | 0x8D5) + b'\xcf', ring, at(CODE + 0x80, UD2 * 2), cpu=cpu)
    assert run(m) == UD
    eip, code, pushed = frame(m, 3)
    assert (eip, code, pushed & (VM | IOPL | IF)) == (CODE + 0x80, cs, 0) and pushed & 0x8D5 == 0x8D5
    assert m.memory.u32[(0x28000 >> 2) - 1] == flags | 0x8D5                     # nobody has touched what lay on the stack


@ways
@pytest.mark.parametrize('ring', (1, 3))
def test_b3_a_frame_of_v86_mode(ring, cpu):
    "VM ignored, the selector is what it would have been without: #GP(0x1f00)."
    m = machine(push(0x1040, 0x1F00, VM | 2, 0x100, 0x2000, 0, 0, 0, 0) + b'\xcf', ring, cpu=cpu)
    assert run(m) == GP and frame(m, 3) == [0x1F00, CODE + 45, (0, 0x19, 0, 0x2B)[ring]]


@pytest.mark.parametrize('iopl', range(4))
@pytest.mark.parametrize('ring', (1, 3))
def test_b3_if_is_theirs_only_by_iopl(ring, iopl):
    for vm in 0, VM:
        cs = (0, 0x19, 0, 0x2B)[ring]
        m = machine(push(CODE + 0x80, cs, vm | IF | 2) + b'\xcf', ring, at(CODE + 0x80, UD2), register('EFLAGS', iopl << 12 | 2))
        assert run(m) == UD and frame(m, 3)[2] & (VM | IOPL | IF) == iopl << 12 | (IF if ring <= iopl else 0)


def test_b3_an_iret_that_has_been_honest_a_thousand_times():
    "It is left to the engine, and watched all the same: the thousand-and-first has VM."
    back, loop = CODE + 0x40, CODE + 5
    code = b'\xb9' + words(1000) + b'\x83\xf9\x01' + b'\x75\x08' + b'\x81\x4c\x24\x08' + words(VM | IOPL) + b'\xcf'
    #      mov ecx, 1000; loop: cmp ecx, 1; jnz 1f; or [esp + 8], VM | IOPL; 1: iret, to back:
    again = b'\x49' + b'\x74\x14' + push(back, 0x19, 2)                            # dec ecx; jz 2f; push a frame
    again += b'\xe9' + struct.pack('<i', loop - (back + len(again) + 5)) + UD2      # jmp loop; 2: ud2
    m = machine(code, 1, at(back, again), at(0x28000 - 12, words(back, 0x19, 2)), register('ESP', 0x28000 - 12))
    assert run(m) == UD
    assert m.registers()['ecx'] == 0 and frame(m, 3)[2] & (VM | IOPL) == 0
    assert m.returns and len(m.held) == 1


def test_b3_more_irets_than_are_watched():
    "Each of a hundred has VM set once; all of them are right."
    m = machine(b'', 1)
    for n in range(100):
        place = CODE + 0x40 * n
        m.memory.write(place, push(place + 0x40, 0x19, (VM | IOPL if n % 3 else 0) | 2) + b'\xcf')
    m.memory.write(CODE + 0x40 * 100, UD2)
    assert run(m) == UD and frame(m, 1) == [CODE + 0x40 * 100] and frame(m, 3)[2] & (VM | IOPL) == 0
    assert max(len(m.returns), len(m.held)) <= WATCHED_RETURNS + 1


def test_b3_the_same_address_in_another_page():
    "One IRET has been held back, and another, at its linear address but in another page, has been honest until now."
    m = machine(b'', 1)
    for where in 0x20000, 0x50000: m.memory.write(where, b'\xcf' + bytes(0x7F) + UD2)
    for where, flags in ((0x50000, 2), (0x20000, VM | IOPL), (0x50000, VM | IOPL), (0x20000, VM), (0x50000, 2)):
        m.memory.u32[(PT >> 2) + 0x20] = where | 7
        m.engine.flush_tlb()
        m.memory.write(0x28000, words(CODE + 0x80, 0x19, flags))
        m.load_segment('cs', 0x19)
        m.load_segment('ss', 0x21)
        for name, value in (('EIP', CODE), ('ESP', 0x28000), ('EFLAGS', 2)): register(name, value)(m)
        assert run(m) == UD and frame(m, 3)[2] & (VM | IOPL) == 0
    assert len(m.held) == 2


@pytest.mark.parametrize('offset', (0xFEE, 0xFEF, 0xFF0, 0xFF1))
def test_b3_an_iret_at_the_end_of_a_page(offset):
    for flags in 2, VM | IOPL | 2:
        m = machine(b'', 1, at(CODE + offset, push(CODE, 0x19, flags) + b'\xcf'), at(CODE, UD2), register('EIP', CODE + offset))
        assert run(m) == UD and frame(m, 3)[2] & (VM | IOPL) == 0


def test_b3_on_a_stack_of_4_mb_pages_and_without_paging():
    for prepare in (no_paging,), (at(PD, words(0x87)), lambda m: m.engine.put(CR4=0x10)):
        m = machine(push(CODE + 0x80, 0x19, VM | IOPL) + b'\xcf', 1, at(CODE + 0x80, UD2), *prepare)
        m.engine.load()
        assert run(m) == UD and frame(m, 3)[2] & (VM | IOPL) == 0


def test_b3_a_page_that_may_be_read_only():
    "The frame is nobody's to change: it lies in a page which ring 1 may not write."
    m = machine(b'\xcf', 1, at(0x28000, words(CODE + 0x80, 0x19, VM | IOPL)), page(0x28, 0x28001), at(CODE + 0x80, UD2))
    assert run(m) == UD and frame(m, 3)[2] & (VM | IOPL) == 0
    assert m.memory.u32[0x28008 >> 2] == VM | IOPL


def test_b3_iret_with_nt_in_ring_3_is_a_task_return():
    "And the link in the TSS leads nowhere."
    m = machine(b'\xcf', 3, register('EFLAGS', NT | 2))
    assert run(m) == TS and frame(m, 2) == [0, CODE]


def test_b3_iret_of_ring_1_to_ring_3_drops_what_is_not_for_it():
    m = machine(push(CODE + 0x80, 0x2B, VM | 2, 0x29000, 0x33) + b'\xcf', 1, at(CODE + 0x80, UD2))
    assert run(m) == UD
    assert (m.registers()['ds'], m.registers()['es']) == (0, 0) and frame(m, 5)[3:] == [0x29000, 0x33]


def test_stepping_over_what_is_held_back():
    "One instruction at a time, the same places and flags."
    m = machine(b'\x9a' + struct.pack('<IH', CODE + 0x10, 0x2B), 3, at(CODE + 0x10, b'\xcb'), at(CODE + 7, b'\xeb\x27'), at(CODE + 0x30, push(CODE + 0x20, 0x2B, 0x8D7) + b'\xcf'))
    places = []
    for _ in range(7):
        assert m.step() == 'count'
        places.append(m.registers()['eip'])
    assert places == [CODE + n for n in (0x10, 7, 0x30, 0x35, 0x3A, 0x3F, 0x20)]
    assert m.registers()['eflags'] == 0x8D7 and m.registers()['esp'] == 0x28000


@pytest.mark.parametrize('name', ('call', 'lret', 'in'))
def test_a_traced_program_traps_behind_what_is_held_back(name):
    code = {'call': CALLS['direct'], 'lret': b'\xcb', 'in': b'\xe4\x71'}[name]
    m = machine(code, 3, at(0x28000, words(CODE + 0x10, 0x2B)), register('EFLAGS', TF | IOPL | 2))
    assert run(m) == DB and frame(m, 1) == [CODE + (2 if name == 'in' else 0x10)]
    assert frame(m, 3)[2] & TF


# --- hiding places -------------------------------------------------------------------------------------------------------

def test_a_jump_into_the_middle():
    "What was an immediate is a return now."
    code = b'\xb8\xcb\xcb\xcb\xcb' + b'\x43' + b'\xeb' + bytes([0x100 - 7])        # 1: mov eax, 0xcbcbcbcb; inc ebx; jmp 1b + 1
    m = machine(code, 3, supervisor(0x28), at(0x28000, words(CODE, 0x1001)))
    assert run(m) == PF and frame(m, 2) == [5, CODE + 1] and m.registers()['ebx'] == 1


def test_code_that_writes_a_return():
    "A block that has been looked through is looked through again when it changes."
    code = b'\x90' + b'\xc6\x05' + words(CODE) + b'\xcb' + b'\xeb\xf6'            # 1: nop; movb $0xcb, 1b; jmp 1b
    assert run(m := machine(code, 3, supervisor(0x28))) == PF and frame(m, 2) == [5, CODE]


@pytest.mark.parametrize('unknown', ('f0f4', 'f0cb', 'f0f090', '0f0c', '8ff8', 'fec8fef8', 'd9d1', '0fff'))
def test_what_nobody_knows_hides_nothing(unknown):
    "Whatever an undefined instruction is followed by: nothing is read with the kernel's rights."
    m = machine(bytes.fromhex(unknown) + b'\xcb' * 20, 3, supervisor(0x28), at(0x28000, words(0x1234, 0xABC8)))
    assert run(m) in (UD, GP, PF) and 0xABC8 not in frame(m)


def test_16_bit_code_is_read_as_16_bit_code():
    "An immediate which looks like IN to whoever reads 32-bit code; and an IN that does not."
    code16 = lambda m: (m.memory.write(GDT + 0x28, words(*segment(0, 0xFFFFF, 0xFB, 0x8))), m.load_segment('cs', 0x2B))
    m = machine(b'\x66\xb8\x90\x90\x90\xec' + b'\x66\xea' + struct.pack('<IH', CODE + 0x40, 0x43), 3, at(CODE + 0x40, UD2),
                at(GDT + 0x40, words(*segment(0, 0xFFFFF, 0xFB))), code16)
    m.state[m.f.GDTR + 2] = 0x47
    m.engine.store()
    assert run(m) == UD and m.registers()['eax'] == 0xEC909090
    m = machine(b'\xb8\x34\x12\xec', 3, code16)                                  # mov ax, 0x1234; in al, dx: one mov in 32-bit code
    assert run(m) == GP and frame(m, 2) == [0, CODE + 3]
    m = machine(b'\xe5\x71' + UD2, 3, code16, register('EFLAGS', IOPL | 2))        # in ax, 0x71
    assert run(m) == UD and m.registers()['eax'] == 0xFFFF


def test_code_without_end_does_not_fill_the_engine():
    "A program that is translated over and over is forgotten over and over."
    m = machine(b'', 3)
    flushed = []
    m.engine.flush_code = lambda flush=m.engine.flush_code: (flushed.append(1), flush())
    m._translated = processor.CODE_BUDGET - 8
    m.memory.write(CODE, b'\x43' + (b'\xeb\x00' + b'\x43') * 20 + b'\xe4\x71')
    assert run(m) == GP and m.registers()['ebx'] == 21 and frame(m, 2) == [0, CODE + 61] and flushed == [1]


# --- Guests --------------------------------------------------------------------------------------------------------------

V86 = ' pushl $0\n pushl $0\n pushl $0\n pushl $0\n pushl $0\n pushl $0xFF0\n pushl $0x23202\n pushl $0x100\n pushl $0\n iret'


@pytest.mark.parametrize('ring', (1, 3))
def test_a_guest_never_enters_v86_mode(ring):
    "Its IRET is refused for its selector, and the Host can stop it."
    text = V86 if ring == 1 else f'user 1f\n 1: {V86}'
    guest = Workbench(text)
    for _ in range(30):
        if guest.dead or guest.lg.halted: break
        guest.turn()
        assert not guest.regs.eflags & (VM | IOPL)
    assert 'unhandled trap 13' in guest.dead and '(0x100)' in guest.dead


def test_a_stop_wins_against_a_guest_that_tries_for_ever():
    "V86 mode, with a handler for the fault that follows, again and again."
    guest = Workbench(f' gate 13, back, 0xF\n back: movl $0xC0102F00, %esp\n {V86}')
    assert guest.run(0.5).reason


@pytest.mark.parametrize('ring', [0, 1, 3])
@pytest.mark.parametrize('prefix', ['', '65', '2e', '66', 'f3', '6667'])
@pytest.mark.parametrize('code, vector', [('0f34', 13), ('0f05', 6)], ids=['sysenter', 'syscall'])
def test_fast_calls_are_refused_with_any_prefix(code, vector, prefix, ring):
    cpu = flat_machine(b'\x43' + bytes.fromhex(prefix + code) + b'\x43', ring=ring)
    assert cpu.run() == 'halted' and trapped(cpu) == vector and cpu.registers()['ebx'] == 1
    frame = cpu.memory.u32[cpu.registers()['esp'] >> 2:(cpu.registers()['esp'] >> 2) + 2].tolist()
    assert frame[vector == 13] == CODE + 1                           # EIP at the first prefix
