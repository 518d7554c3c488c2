"A delivery by the remembered way must not differ in any byte from the same delivery by the long way."
import struct

import pytest

from lguest_lit.i386 import shortcut
from lguest_lit.i386.cpu import CODE, CPU, STACK0, STUBS, flat_machine
from lguest_lit.i386.descriptors import gate

IDT, GDT, TSS, TABLE = 0x2000, 0x2900, 0x2A00, 0x11000     # all in one page, as lguest has them


class LongWay(CPU):
    shortcuts = False


def machine(kind, code):
    "Ring 3 about to run `code`, its GDT and TSS moved into the IDT's page."
    cpu = flat_machine(code, ring=3, cpu=kind)
    mem = cpu.memory
    mem.write(GDT, mem.read(0x1000, 64))
    mem.write(TSS, mem.read(0x3000, 104))
    mem.write(GDT + 0x38, struct.pack('<2I', 0x67 | TSS << 16, 0x8B00))
    mem.write(IDT + 8 * 0x80, struct.pack('<2I', *gate(STUBS + 16 * 0x80, 0x08, dpl=3)))
    cpu.state[cpu.f.GDTR], cpu.state[cpu.f.TR + 2] = GDT, TSS
    cpu.engine.store()
    cpu.translate(IDT); cpu.translate(STACK0 - 4, write=True)
    return cpu


def word(at, xor):
    def change(cpu): cpu.memory.u32[at >> 2] ^= xor
    return change


def register(name, offset, value):
    def change(cpu):
        cpu.state[getattr(cpu.f, name) + offset] = value
        cpu.engine.store()
    return change


page = lambda address: TABLE + 4 * (address >> 12)
CHANGES = dict(
    nothing=lambda cpu: None,
    gate_absent=word(IDT + 8 * 0x80 + 4, 0x8000), gate_dpl=word(IDT + 8 * 0x80 + 4, 0x6000), trap_gate=word(IDT + 8 * 0x80 + 4, 0x100),
    other_handler=word(IDT + 8 * 0x80, 0x10), null_selector=word(IDT + 8 * 0x80, 0x80000), gp_gate_absent=word(IDT + 8 * 13 + 4, 0x8000),
    code_absent=word(GDT + 8 + 4, 0x8000), code_is_data=word(GDT + 8 + 4, 0x800), code_base=word(GDT + 8, 0x10000), code_16=word(GDT + 8 + 4, 0x400000),
    stack_absent=word(GDT + 16 + 4, 0x8000), stack_dpl=word(GDT + 16 + 4, 0x2000), stack_read_only=word(GDT + 16 + 4, 0x200), stack_16=word(GDT + 16 + 4, 0x400000),
    esp0=word(TSS + 4, 0x100), esp0_odd=word(TSS + 4, 6), esp0_zero=word(TSS + 4, STACK0), ss0_null=word(TSS + 8, 0x10), ss0_rpl=word(TSS + 8, 3), ss0_high=word(TSS + 8, 0xABCD0000),
    stack_page_gone=word(page(STACK0 - 4), 1), stack_page_read_only=word(page(STACK0 - 4), 2), stack_page_clean=word(page(STACK0 - 4), 0x40),
    stack_page_elsewhere=word(page(STACK0 - 4), 0x70000), stack_page_outside=word(page(STACK0 - 4), 0x7FF00000), tables_page_gone=word(page(IDT), 1),
    idt_limit=register('IDTR', 2, 8 * 0x80), gdt_limit=register('GDTR', 2, 7), tss_limit=register('TR', 4, 8), no_tss_at=register('TR', 2, 0x5000),
    ds_base=register('DS', 2, 0x10), no_wp=register('CR0', 0, 0x80000011))


def outcome(cpu):
    return cpu.shutdown, cpu.registers(), [list(t) for t in cpu.tally], cpu.state[cpu.f.HFLAGS], bytes(cpu.engine.state_bytes[cpu.f.ES * 4:cpu.f.GS * 4 + 24]), bytes(cpu.memory.u8)


@pytest.mark.parametrize('code', ['cd80', '0f0b', 'f4'], ids=['int 0x80', 'ud2', 'hlt'])
@pytest.mark.parametrize('change', CHANGES)
def test_short_and_long_way_agree(change, code):
    seen = []
    for kind in (CPU, LongWay):
        cpu = machine(kind, bytes.fromhex(code))
        start = cpu.snapshot()
        cpu.run()                                           # the first time is always the long way; now it is known
        if kind is CPU: assert cpu.paths
        cpu.restore(start)
        cpu.shutdown = None
        CHANGES[change](cpu)
        cpu.engine.flush_tlb()
        cpu.run(count=3)                                    # with its base moved, a handler may go on for ever
        seen.append(outcome(cpu))
    differs = [n for n, (a, b) in enumerate(zip(*seen)) if a != b]
    assert not differs, differs


def test_the_shortcut_is_taken(monkeypatch):
    cpu = machine(CPU, bytes.fromhex('cd80'))
    start = cpu.snapshot()
    cpu.run()
    cpu.restore(start)
    taken = []
    monkeypatch.setattr(shortcut, 'shortcut', lambda *a, real=shortcut.shortcut: taken.append(real(*a)) or taken[-1])
    cpu.run()
    assert taken == [True] and cpu.memory.u32[STACK0 - 20 >> 2] == CODE + 2
