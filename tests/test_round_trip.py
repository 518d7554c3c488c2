"Into the Guest and back: the Host finds everything where it left it, and only what must be copied is copied."
import struct

import pytest

from guests import PAGE_OFFSET, dma, guest, hypercall, string_at
from lguest_lit.host import core
from lguest_lit.host.clock import VirtualClock
from lguest_lit.host.host import Host
from lguest_lit.host.kernel import CR0_TS
from lguest_lit.launcher.launcher import Launcher
from lguest_lit.host.hypercalls import LHCALL
from lguest_lit.host.lg import GDT_ENTRY_KERNEL_CS, GDT_ENTRY_KERNEL_DS, GDT_ENTRY_TSS, LGUEST_TRAP_ENTRY

WORDS = b'that was it\0'
SEND = hypercall(LHCALL.SEND_DMA, 0, string_at(0))
BYE = hypercall(LHCALL.CRASH, string_at(2))
FLAT_CODE, FLAT_DATA = 0x00CF9B000000FFFF, 0x00CF93000000FFFF       # the Host makes them ring 1
ENTRIES = {GDT_ENTRY_KERNEL_CS: FLAT_CODE, GDT_ENTRY_KERNEL_DS: FLAT_DATA}
GDT = b''.join(struct.pack('<Q', ENTRIES.get(n, 0)) for n in range(32))
STRINGS = (dma((string_at(1), 1)), b'.', WORDS, GDT)
LOAD_GDT, LOAD_TLS = hypercall(LHCALL.LOAD_GDT, string_at(3), 32), hypercall(LHCALL.LOAD_TLS, string_at(3))
PAUSE = b'\xb9' + struct.pack('<I', 5000) + b'\x49\x75\xfd'          # mov ecx, 5000; 1: dec ecx; jnz 1b
# Distinct values in the registers that our hypercalls leave alone.
MARKS = dict(esi=0x51515151, edi=0xD1D1D1D1, ebp=0xB9B9B9B9)
MARKED = b''.join(op + struct.pack('<I', value) for op, value in zip((b'\xbe', b'\xbf', b'\xbd'), MARKS.values()))
BUSY = 2


class Meddler(VirtualClock):
    "A clock that calls `meddle` once, in the middle of the Guest: after its first slice."
    def __init__(self, **kw):
        super().__init__(slice=1000, insn_ns=1, **kw)
        self.meddle = None

    def ran(self, instructions):
        super().ran(instructions)
        meddle, self.meddle = self.meddle, None
        if meddle: meddle()


@pytest.fixture
def host():
    with Host(memory=24 << 20, clock=Meddler()) as host: yield host


def launch(host, code):
    return Launcher(guest(code, STRINGS), mem='4M', host=host)


def segments(cpu):
    "All that the processor knows of its segment registers and TR: selector, base, limit, rights; of TR all but 'busy'."
    cpu.engine.load()
    known = {}
    for name in ('CS', 'SS', 'DS', 'ES', 'FS', 'GS', 'LDTR', 'TR'):
        at = getattr(cpu.f, name)
        known[name] = cpu.state[at], cpu.state[at + 2], cpu.state[at + 4], cpu.state[at + 5] & ~(BUSY << 8)
    return known


def tables(cpu):
    "GDTR and IDTR: base and limit."
    return [cpu.state[getattr(cpu.f, name) + i] for name in ('GDTR', 'IDTR') for i in (0, 2)]


def memory_at(host, vaddr, n): return host.mem.read(vaddr - PAGE_OFFSET, n)


def snapshot(host):
    "Whatever must be the same after a round trip. The Host gave up EAX, EBX, ECX, EDX, ESI and EDI when it called."
    now = host.cpu.registers()
    kept = {name: now[name] for name in 'esp ebp cs ss ds es fs gs cr0 cr3 cr4 eflags'.split()}
    kept['cr0'] &= ~CR0_TS                                  # which is on while the FPU is not the Guest's
    gdt = bytearray(memory_at(host, host.gdt, 256))
    gdt[8*GDT_ENTRY_TSS + 5] &= ~BUSY
    idt, tss = memory_at(host, host.idt, 2048), memory_at(host, host.tss, 104)
    return kept, segments(host.cpu), tables(host.cpu), bytes(gdt), idt, tss


def host_busy(host): return bool(memory_at(host, host.gdt + 8*GDT_ENTRY_TSS + 5, 1)[0] & BUSY)
def guest_busy(host): return bool(host.states[0].guest_gdt[GDT_ENTRY_TSS].b >> 8 & BUSY)


def served(host):
    "How often the Host's own handlers ran: {vector: n}."
    counts = struct.unpack('<256I', memory_at(host, host.symbols['host_irq_count'], 1024))
    return {vector: n for vector, n in enumerate(counts) if n}


# --- the Host's own state ---------------------------------------------------------------------------------------------

def test_host_is_as_it_was_after_a_hypercall(host):
    with launch(host, MARKED + b'\xf9\xfd' + SEND*3 + BYE) as launcher:       # stc; std
        assert host_busy(host) and not guest_busy(host)
        host.cpu.state[host.cpu.f.EBP] = 0x0EB90EB9
        host.cpu.engine.store()
        before = snapshot(host)
        for _ in range(3):
            launcher.file.read()
            assert snapshot(host) == before
            assert {name: getattr(launcher.file.lg.regs, name) for name in MARKS} == MARKS
            assert launcher.file.lg.regs.eflags & 0x401 == 0x401
            assert launcher.file.lg.regs.eflags & 0x3202 == 0x202, 'interrupts on, IOPL 0'
        assert launcher.run().reason == 'CRASH: that was it'
        assert snapshot(host) == before
        assert launcher.stats.traps[LGUEST_TRAP_ENTRY] == 5
        assert launcher.stats.world_switches == sum(launcher.stats.traps)


@pytest.mark.parametrize('flags', (0x2, 0x2 | 0x401, 0x2 | 0x8D5 | 0x400))
def test_flags_of_the_host_survive(host, flags):
    "Arithmetic flags and the direction flag: pushed before the call, popped by the last iret."
    run, at = host.cpu.run, host.symbols['run_guest_once']
    def run_with_flags(*args, **kw):
        if host.cpu.state[host.cpu.f.EIP] == at: set_flags(host, flags)
        return run(*args, **kw)
    host.cpu.run = run_with_flags
    with launch(host, b'\x31\xc0' + SEND*2 + BYE) as launcher:                 # xor eax, eax
        for _ in range(2):
            launcher.file.read()
            assert host.cpu.registers()['eflags'] & 0xFFF == flags


def set_flags(host, flags):
    host.cpu.engine.put(EFLAGS=flags)
    host.cpu.engine.load()


def test_busy_bits(host):
    "While the Guest runs the Host's TSS is free (or ltr could not load it again); afterwards the Guest's is."
    inside = []
    host.clock.meddle = lambda: inside.append((host_busy(host), guest_busy(host)))
    with launch(host, PAUSE + BYE) as launcher: assert launcher.run().reason == 'CRASH: that was it'
    assert inside == [(False, True)]
    assert host_busy(host) and not guest_busy(host)


# --- interrupts of the Host -------------------------------------------------------------------------------------------

@pytest.mark.parametrize('vector', (0x20, 0x21, 0x55, 0x7F, 0x81, 0xFF))
def test_interrupt_in_the_guest_is_served_once(host, vector):
    host.clock.meddle = lambda: host.cpu.raise_irq(vector)
    with launch(host, MARKED + PAUSE + BYE) as launcher:
        before = snapshot(host)
        assert launcher.run().reason == 'CRASH: that was it'
        assert served(host) == {vector: 1}
        assert launcher.stats.traps[vector] == 1 and not host.cpu.irqs
        assert {name: getattr(launcher.file.lg.regs, name) for name in MARKS} == MARKS
        assert snapshot(host) == before


def test_every_vector_is_served_once(host):
    "One after the other, each in the middle of the same Guest."
    waiting = [vector for vector in range(0x20, 0x100) if vector != 0x80]
    expected = {vector: 1 for vector in waiting}
    def next_one():
        host.cpu.raise_irq(waiting.pop())
        if waiting: host.clock.meddle = next_one
    host.clock.meddle = next_one
    long_pause = b'\xb9' + struct.pack('<I', 250_000) + b'\x49\x75\xfd'
    with launch(host, MARKED + long_pause + BYE) as launcher:
        before = snapshot(host)
        assert launcher.run().reason == 'CRASH: that was it'
        assert served(host) == expected and not host.cpu.irqs
        assert {name: getattr(launcher.file.lg.regs, name) for name in MARKS} == MARKS
        assert snapshot(host) == before


def test_interrupt_that_was_waiting_before_the_guest_ran(host):
    with launch(host, PAUSE + BYE) as launcher:
        before = snapshot(host)
        host.cpu.raise_irq(0x55)
        assert launcher.run().reason == 'CRASH: that was it'
        assert served(host) == {0x55: 1} and snapshot(host) == before


def test_two_interrupts_at_once_are_both_served(host):
    host.clock.meddle = lambda: [host.cpu.raise_irq(vector) for vector in (0x31, 0x32)]
    with launch(host, PAUSE + BYE) as launcher: assert launcher.run().reason == 'CRASH: that was it'
    assert served(host) == {0x31: 1, 0x32: 1}


def test_nmi_goes_back_to_the_guest_without_a_word(host):
    with launch(host, MARKED + PAUSE + BYE) as quiet: quiet.run(); usual = quiet.stats.as_dict()
    host.clock.meddle = host.cpu.raise_nmi
    with launch(host, MARKED + PAUSE + BYE) as launcher:
        before = snapshot(host)
        assert launcher.run().reason == 'CRASH: that was it'
        assert launcher.stats.as_dict() == usual, 'a world switch more or less'
        assert served(host) == {} and not host.cpu.nmi and host.clock.meddle is None
        assert {name: getattr(launcher.file.lg.regs, name) for name in MARKS} == MARKS
        assert snapshot(host) == before


# --- copying the tables -----------------------------------------------------------------------------------------------

@pytest.fixture
def copies(monkeypatch):
    "The names of the copying functions, in the order in which the loop called them."
    called = []
    for name in ('copy_traps', 'copy_gdt', 'copy_gdt_tls'):
        def record(*args, name=name, real=getattr(core, name)):
            called.append(name)
            return real(*args)
        monkeypatch.setattr(core, name, record)
    return called


def test_alternating_guests_are_copied_in_full(host, copies):
    with launch(host, SEND*9 + BYE) as one, launch(host, SEND*9 + BYE) as other:
        one.file.read()
        copies.clear()
        for _ in range(3):
            for launcher in (other, one):
                launcher.file.read()
                assert copies == ['copy_traps', 'copy_gdt']
                copies.clear()


@pytest.mark.parametrize('call, expected', (
    (hypercall(LHCALL.FLUSH_ASYNC), []),
    (hypercall(LHCALL.LOAD_IDT_ENTRY, 3, 0x610000, 0x8F00), ['copy_traps']),
    (LOAD_GDT, ['copy_gdt']),
    (LOAD_TLS, ['copy_gdt_tls']),
    (LOAD_TLS + LOAD_GDT, ['copy_gdt_tls', 'copy_gdt'])),
    ids=('nothing', 'an IDT entry', 'the GDT', 'the TLS', 'TLS, then GDT'))
def test_the_same_guest_again_copies_only_what_changed(host, copies, call, expected):
    with launch(host, SEND + call + SEND*2 + BYE) as launcher:
        launcher.file.read()
        copies.clear()
        launcher.file.read()
        assert copies == expected
        launcher.file.read()
        assert copies == expected, 'copied again, though nothing had changed'
