"Whoever stops the processor, and whenever: the Guest stands between two instructions, and goes on as if nothing had been."
import signal
import struct
import threading
import time

import pytest

from lguest_lit.host.clock import VirtualClock, WallClock
from lguest_lit.host.host import Host
from lguest_lit.i386.cpu import CODE, flat_machine, trapped
from lguest_lit.i386.signals import Held
from lguest_lit.launcher.launcher import Launcher
from lguest_lit.watch.trace import Recorder
from lguest_lit.launcher.workbench import OneTurn, Workbench, assemble

push = lambda *words: b''.join(b'\x68' + struct.pack('<I', word) for word in words)
CLOCKS = [VirtualClock, WallClock]
LONG = 20                            # seconds: hung, on any machine


# --- a stop before the stepped instruction ----------------------------------------------------------------------------

LOADERS = {
    'popf': push(2) + b'\x9d\x90\xf4',
    'popf with a prefix': push(2) + b'\x2e\x9d\x90\xf4',
    'popfw': push(2) + b'\x66\x9d\x90\x83\xc4\x02\xf4',
    'iret': push(2, 0x08, CODE + 16) + b'\xcf' + b'\x90\xf4',
    'iret to itself': push(2, 0x08, CODE + 31, 2, 0x08, CODE + 30) + b'\xcf' + b'\xf4',
    'popf in the shadow of mov ss': b'\xb8\x10\0\0\0' + push(2) + b'\x8e\xd0\x9d\x90\xf4',
    'popf that sets the trap flag': push(0x102) + b'\x9d\x90\xf4',
    'pushf': b'\x9c\x58\xf4',
    'pushf in the shadow of mov ss': b'\xb8\x10\0\0\0\x8e\xd0\x9c\x58\xf4',
    'pushfw in the shadow of pop ss': push(0x10) + b'\x17\x66\x9c\x66\x58\xf4',
    'pushf with a prefix': b'\x2e\x9c\x58\xf4',
    'a jump to itself, left by nobody': b'\xb9\x03\0\0\0\xe2\xfe\xf4',
    'hlt': b'\xf4',
    'int': b'\xcd\x40\xf4',
}


def life(code, early, step):
    "Run `code` with an interrupt waiting; the engine's `early`-th start comes back with nothing done. All registers at the end."
    cpu = flat_machine(code)
    cpu.irqs = [0x20] if not step else []                    # interrupts are off: the program is walked
    real, starts = cpu.engine.start, [0]
    def start(*args):
        starts[0] += 1
        return 0 if starts[0] == early else real(*args)
    cpu.engine.start = start
    why = None
    while step and why in (None, 'count'): why = cpu.step()
    return why or cpu.run(), trapped(cpu), cpu.registers(), starts[0]


@pytest.mark.parametrize('step', [False, True], ids=['interrupt waits', 'step'])
@pytest.mark.parametrize('name', LOADERS)
def test_stopped_before_the_stepped_instruction(name, step):
    *right, starts = life(LOADERS[name], 0, step)
    for early in range(1, starts + 1): assert life(LOADERS[name], early, step)[:3] == tuple(right), early


def test_stopped_between_a_load_of_ss_and_its_shadow():
    "The engine may leave between the two instructions of one step."
    code = b'\xb8\x10\0\0\0' + push(2) + b'\x8e\xd0\x9d\x90\xf4'
    cpu = flat_machine(code)
    for _ in range(2): cpu.step()
    real, first = cpu.engine.start, []
    def start(handle, eip, *rest):
        if first: return real(handle, eip, *rest)
        first.append(eip)
        cpu.state[cpu.f.EIP] += 2                            # mov ss has run, and its shadow lies on what follows
        cpu.state[cpu.f.HFLAGS] |= 8
        return 0
    cpu.engine.start = start
    assert cpu.step() == 'count' and not cpu.registers()['eflags'] & 0x100
    assert cpu.run() == 'halted' and trapped(cpu) is None


@pytest.mark.parametrize('taped', [False, True])
def test_boots_that_are_kicked_all_the_time(taped):
    "Kicks at random moments; no life is the worse for it."
    for _ in range(6):
        with Launcher('first', args='ticks=5 quiet') as launcher:
            over = threading.Event()
            def kicks():
                while not over.wait(0.0003): launcher.host.kick()
            kicker = threading.Thread(target=kicks)
            kicker.start()
            try:
                if taped:
                    with Recorder(launcher.file.lg): reason = launcher.run(60).reason
                else: reason = launcher.run(60).reason
            finally: over.set(); kicker.join()
        assert reason == 'CRASH: Power down'


# --- a kick that comes too early --------------------------------------------------------------------------------------

@pytest.mark.parametrize('message', ['kick', 'raise_nmi', 'irq'])
def test_a_message_just_before_the_engine_starts(message):
    "The last look was in vain, the engine does not run yet, and whoever knocks cannot stop it."
    cpu = flat_machine(b'\xeb\xfe', ring=3)
    cpu.state[cpu.f.EFLAGS] |= 0x200
    cpu.engine.store()
    real, kickers = cpu.engine.start, []
    def start(*args):
        if not kickers:
            act = (lambda: cpu.raise_irq(0x21)) if message == 'irq' else getattr(cpu, message)
            kickers.append(threading.Thread(target=act))
            kickers[0].start()
            while not (cpu._kicked or cpu.nmi or cpu.irqs): time.sleep(0.001)
            time.sleep(0.01)
        return real(*args)
    cpu.engine.start = start
    guard = threading.Timer(LONG, cpu.kick)
    guard.start()
    why = cpu.run()
    guard.cancel()
    assert (why, trapped(cpu)) == {'kick': ('stopped', None), 'raise_nmi': ('halted', 2), 'irq': ('halted', 0x21)}[message]
    kickers[0].join(LONG)
    assert not kickers[0].is_alive()


def test_a_signal_handler_just_before_the_engine_starts():
    "It holds up the thread that would have to look, so it cannot wait for it."
    cpu = flat_machine(b'\xeb\xfe', ring=3)
    real, pressed = cpu.engine.start, []
    def start(*args):
        if not pressed:
            pressed.append(1)
            signal.raise_signal(signal.SIGALRM)
        return real(*args)
    cpu.engine.start = start
    def handler(*_): raise KeyboardInterrupt
    before = signal.signal(signal.SIGALRM, handler)
    guard = threading.Timer(LONG, cpu.kick)
    guard.start()
    try:
        with pytest.raises(KeyboardInterrupt): cpu.run()
    finally: guard.cancel(); signal.signal(signal.SIGALRM, before)
    cpu.kick()
    assert cpu.run() == 'stopped' and cpu.registers()['eip'] == CODE


# --- KeyboardInterrupt ------------------------------------------------------------------------------------------------

def press(*_): raise KeyboardInterrupt


@pytest.fixture
def alarm():
    before = signal.signal(signal.SIGALRM, press)
    yield lambda seconds, again=0: signal.setitimer(signal.ITIMER_REAL, seconds, again)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


TRAPS = 'gate 128, h, 0xF, 3\n user 1f\n h: incl %edi\n iret\n 1: incl %esi\n int $128\n jmp 1b'


@pytest.mark.parametrize('last', [signal.SIGALRM, signal.SIGTERM, signal.SIGWINCH])
def test_a_signal_while_the_handlers_are_put_back_is_not_the_last_to_be_heard(last, alarm, monkeypatch):
    "It raises in the middle of that. Whoever comes next must find the house in order."
    others = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGWINCH)}
    real, held = signal.signal, Held(lambda: None)
    def put(number, handler):
        old = real(number, handler)
        if number == last and handler != held.note: signal.raise_signal(signal.SIGALRM)
        return old
    monkeypatch.setattr(signal, 'signal', put)
    try:
        with pytest.raises(KeyboardInterrupt), held: pass
        monkeypatch.undo()
        assert Held.now is None
        with pytest.raises(KeyboardInterrupt): signal.raise_signal(signal.SIGALRM)
        with pytest.raises(KeyboardInterrupt), Held(lambda: None): signal.raise_signal(signal.SIGALRM)
    finally:
        Held.now = None
        for number, handler in others.items(): signal.signal(number, handler)


@pytest.mark.parametrize('clock', CLOCKS)
def test_an_interrupt_arrives_and_the_guest_is_none_the_worse(clock, alarm):
    "In a Guest that traps all the time, the signal comes in the middle of callbacks and deliveries."
    with Host(memory=16 << 20, clock=clock()) as host, Launcher(assemble(TRAPS), mem='4M', host=host, warn=lambda text: None) as launcher:
        lg, arrived = launcher.file.lg, 0
        for n in range(40):
            alarm(0.01 + 0.0007 * n)
            with pytest.raises(KeyboardInterrupt): launcher.run()
            assert lg.dead is None and lg.regs.esi - lg.regs.edi in (0, 1), n
            arrived += 1
        assert arrived == 40 and lg.regs.esi > 100
        assert launcher.run(0.2).exit_code == 124                # and it goes on


def test_a_life_that_is_interrupted_again_and_again_is_the_same(alarm):
    "Under virtual time: console, counters and registers as without."
    def live(interrupted):
        with Host(memory=32 << 20, clock=VirtualClock(insn_ns=50)) as host, Launcher('first', args='ticks=20 hz=1000', host=host) as launcher:
            pressed, result = 0, None
            while result is None:                            # Ctrl-C may also come when the Guest has just died
                if interrupted: alarm(0.02)
                try: result = launcher.run()
                except KeyboardInterrupt: pressed += 1
                finally: alarm(0)
            return pressed, result.reason, b''.join(launcher.written)
    pressed, *life = live(True)
    assert pressed > 1 and tuple(life) == live(False)[1:]


def test_a_handler_that_does_not_raise_stops_nobody():
    seen = []
    before = signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    try:
        with Workbench('movl $3000000, %ecx\n 1: loop 1b') as guest: guest.turns()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert guest.dead is None or guest.dead == 'CRASH: Power down'
    assert seen


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGALRM, signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    try:
        with Workbench('movl $300000, %ecx\n 1: loop 1b') as guest: guest.turns()
        assert signal.getsignal(signal.SIGALRM) is signal.SIG_IGN
    finally: signal.signal(signal.SIGALRM, before)


# --- nothing stops a stop ---------------------------------------------------------------------------------------------

NEVER = {
    'ring 1': '1: jmp 1b',
    'ring 3': 'user 1f\n 1: jmp 1b',
    'hypercalls': '1: hcall LHCALL_FLUSH_ASYNC\n jmp 1b',
    'direct traps': TRAPS,
    'direct traps on top of each other': 'gate 128, h, 0xF, 3\n user 1f\n h: jmp h\n 1: int $128',
    'a handler that traps': 'gate 3, h, 0xF, 3\n h: movl $stack_top, %esp\n int3',
    'reflected faults': 'gate 14, h, 0xE, 0\n jmp 1f\n h: addl $4, %esp\n iret\n 1: movl 0, %eax',
    'undefined opcodes': 'gate 6, h, 0xF, 3\n jmp 1f\n h: iret\n 1: ud2',
    'a long instruction': 'cld\n 1: movl $0x100000, %ecx\n movl $0xC0100000, %esi\n movl %esi, %edi\n rep movsb\n jmp 1b',
    'asleep': 'hcall LHCALL_HALT',
    'asleep with interrupts off': 'movl $0, lguest_data\n hcall LHCALL_HALT\n hcall LHCALL_HALT',
    'in and out': '1: inb $0x61, %al\n outb %al, $0x61\n jmp 1b',
    'single steps': 'gate 1, h, 0xF, 0\n pushf\n orl $0x100, (%esp)\n popf\n 1: jmp 1b\n h: iret',
    'its own code, rewritten for ever': '1: incl 2f + 1\n 2: movl $5, %eax\n jmp 1b',
}


@pytest.mark.parametrize('clock', CLOCKS)
@pytest.mark.parametrize('name', NEVER)
def test_a_guest_that_never_yields_is_stopped(name, clock):
    with Host(memory=16 << 20, clock=clock()) as host, Launcher(assemble(NEVER[name]), mem='4M', host=host, warn=lambda text: None) as launcher:
        began = time.monotonic()
        result = launcher.run(0.5)
        took = time.monotonic() - began
    assert result.exit_code == 124, result.reason
    assert took < LONG


@pytest.mark.parametrize('clock', [OneTurn, VirtualClock, WallClock])
def test_interrupts_off_outside_ring_0(clock):
    "No Guest can switch them off; if one stands there all the same, it is killed, and its neighbour lives."
    with Host(memory=24 << 20, clock=clock()) as host, \
            Launcher(assemble('1: jmp 1b'), mem='4M', host=host, warn=lambda text: None) as bad, \
            Launcher(assemble('1: jmp 1b'), mem='4M', host=host, warn=lambda text: None) as good:
        assert good.run(0.1).exit_code == 124
        bad.file.lg.regs.eflags = 2
        began = time.monotonic()
        assert bad.run(0.3).reason.startswith('interrupts are off at 0x')
        assert time.monotonic() - began < LONG
        assert good.run(0.1).exit_code == 124
