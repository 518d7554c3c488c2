"The Host's page walk against the engine's own: two opinions on random page tables."
import struct

import pytest
from hypothesis import given, settings, strategies as st
from lguest_lit.i386.paging import ACCESSED, DIRTY, PRESENT, PSE, RW, USER, PageFault, walk
from test_trap_delivery import INT, PD, Machine, handler

TABLES = [0x60000, 0x61000]                       # two page tables of the test's
FRAMES = [0x70000, 0x71000, 0x72000, 0x73000]     # and four frames
SLOTS = [0x40000000, 0x80400000, 0xC0000000, 0xFFC00000]
BITS = st.sampled_from([PRESENT | RW | USER]) | st.integers(0, 7) | st.builds(lambda a, b: a | b, st.integers(0, 7), st.sampled_from([ACCESSED, DIRTY | ACCESSED, DIRTY, 0x600]))


@pytest.fixture(scope='module')
def m():
    machine = Machine()
    machine.gate(0x80, 8, INT, 3)
    machine.clean = machine.cpu.snapshot()
    return machine


entries = st.fixed_dictionaries(dict(pde=BITS, pte=BITS, table=st.sampled_from(TABLES), frame=st.sampled_from(FRAMES),
                                     large=st.sampled_from([0, 0, 0, PSE]), slot=st.sampled_from(SLOTS),
                                     page=st.sampled_from([0, 1, 511, 1023]), offset=st.integers(0, 1023).map(lambda n: n * 4)))


@settings(max_examples=600, deadline=None)
@given(entries, st.sampled_from([0, 1, 3]), st.booleans(), st.booleans(), st.booleans())
def test_walk_agrees_with_the_engine(m, e, ring, write, wp, pse):
    cpu = m.cpu
    cpu.restore(m.clean)
    vaddr = e['slot'] | e['page'] << 12 | e['offset']
    if e['large'] and pse: vaddr = e['slot'] | FRAMES[0] | e['offset']        # a 4 MB page of the first megabyte
    at_pde, at_pte = PD + (vaddr >> 22) * 4, e['table'] + (vaddr >> 10 & 0xFFC)
    pde = e['large'] | e['pde'] if e['large'] and pse else e['table'] | e['pde'] | e['large']
    m.put(at_pde, pde)
    m.put(at_pte, e['frame'] | e['pte'])
    for n, frame in enumerate(FRAMES): m.mem.write(frame, struct.pack('<1024I', *(n << 16 | i | 0x5A000000 for i in range(1024))))
    # the engine
    code = (b'\xa3' if write else b'\xa1') + struct.pack('<I', vaddr) + b'\xcd\x80'
    m.go(code, ring, 2, eax=0x12345678)
    cpu.engine.put(CR0=0x80000011 | wp << 16, CR4=pse << 4)
    cpu.engine.flush_tlb()
    before = bytes(m.mem.u8)
    assert cpu.run() == 'halted'
    r = m.regs
    theirs = m.words(at_pde, 1) + m.words(at_pte, 1)
    if r['eip'] == handler(14) + 1: engine = 'fault', r['cr2'], m.words(r['esp'], 1)[0]
    else:
        assert r['eip'] == handler(0x80) + 1
        if write: engine = 'done', [pa for frame in FRAMES for pa in range(frame, frame + 4096, 4) if m.mem.u32[pa >> 2] == 0x12345678]
        else: engine = 'done', [FRAMES[r['eax'] >> 16 & 0xFF] + (r['eax'] & 0x3FF) * 4]
    # ours
    m.mem.u8[:] = before
    try: host = 'done', [walk(m.mem.u32, PD, vaddr, write, ring == 3, wp, pse)]
    except PageFault as fault: host = 'fault', fault.vaddr, fault.errcode
    ours = m.words(at_pde, 1) + m.words(at_pte, 1)
    assert host == engine
    if host[0] == 'fault':                        # what a walk that fails leaves in the accessed bits is the processor's business
        ours, theirs = [w & ~ACCESSED for w in ours], [w & ~ACCESSED for w in theirs]
    assert ours == theirs


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1023), st.integers(0, 255), BITS), max_size=20), st.integers(0, 0xFFFFFFFF), st.booleans(), st.booleans(), st.booleans())
def test_walk_without_marks_changes_nothing(m, tables, vaddr, write, user, wp):
    m.cpu.restore(m.clean)
    for index, frame, bits in tables: m.put(PD + index * 4, TABLES[0] | bits); m.put(TABLES[0] + index * 4, frame << 12 | bits)
    before = bytes(m.mem.u8)
    def result(mark):
        try: return walk(m.mem.u32, PD, vaddr, write, user, wp, True, mark)
        except PageFault as fault: return fault.vaddr, fault.errcode
    quiet = result(False)
    assert bytes(m.mem.u8) == before
    assert result(True) == quiet
    assert result(True) == quiet                  # and the marks change no answer


@given(st.integers(1 << 20, 0xFFFFFFFF).map(lambda x: x & ~0xFFF), st.integers(0, 0xFFFFFFFF), st.booleans(), st.booleans())
def test_tables_outside_memory_are_ones(m, table, vaddr, write, user):
    "A directory or a table beyond the end of memory reads as ones: every page is there, and nobody's memory."
    m.cpu.restore(m.clean)
    def found(cr3, pse): return walk(m.mem.u32, cr3, vaddr, write, user, True, pse)
    assert found(table, True) == 0xFFC00000 | vaddr & 0x3FFFFF and found(table, False) == 0xFFFFF000 | vaddr & 0xFFF
    m.put(PD + (vaddr >> 22) * 4, table | 7)
    assert found(PD, False) == 0xFFFFF000 | vaddr & 0xFFF


@pytest.mark.parametrize('pse', (False, True))
def test_the_engine_sees_the_same_ones(m, pse):
    "It reads and writes through such a table; what it reads is ones, and what it writes is lost."
    m.cpu.restore(m.clean)
    vaddr = 0x80400000
    m.put(PD + (vaddr >> 22) * 4, 0x40000007 | pse << 7)
    m.go(b'\xa3' + struct.pack('<I', vaddr + 8) + b'\xa1' + struct.pack('<I', vaddr + 8) + b'\xcd\x80', 3, 2, eax=0x12345678)
    m.cpu.engine.put(CR4=pse << 4)
    m.cpu.engine.flush_tlb()
    assert m.cpu.run() == 'halted' and m.regs['eip'] == handler(0x80) + 1 and m.regs['eax'] == 0xFFFFFFFF
