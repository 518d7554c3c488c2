"Several Guests on one Host, on one CPU and on several: each lives as if it were alone."
import errno
import random
import struct

import pytest
from lguest_lit.host.clock import VirtualClock
from lguest_lit.host.host import Host
from lguest_lit.launcher.launcher import Launcher
from lguest_lit.host.lguest_user import LguestFile
from lguest_lit.launcher.workbench import OneTurn, Workbench

LIVES = {'ticks=40 hz=1000': 3, 'ticks=25 hz=500': 4}


class OwnTime(VirtualClock):
    "A Guest's own time, with a signal after a random number of world switches."
    def __init__(self, rng):
        super().__init__(insn_ns=500)
        self.rng, self.left, self.host = rng, 1, None

    def switched(self):
        super().switched()
        self.left -= 1
        if self.left <= 0: self.host.signal_pending, self.left = True, self.rng.randrange(1, 40)


def serve(launcher) -> bool:
    "One read() of a Launcher; False when its Guest is dead."
    try: launcher.handle_output(*struct.unpack('<2I', launcher.file.read(8)))
    except OSError as e:
        assert e.errno in (errno.EINTR, errno.ENOENT)
        launcher.host.signal_pending = False
        return e.errno == errno.EINTR
    return True


def live(args_list, nr_cpus, seed):
    "Run Guests interleaved at random, wandering over the CPUs; what each of them said, and its counters."
    rng = random.Random(seed)
    with Host(memory=64 << 20, nr_cpus=nr_cpus, clock=VirtualClock()) as host:
        before, guests = list(host.mem.refs), []
        for args in args_list:
            host.clock = clock = OwnTime(rng)
            clock.host, host.rng = host, random.Random(0)
            guests.append((Launcher('first', args=args, mem='4M', host=host), clock))
        alive, visits = list(guests), 0
        while alive:
            pair = rng.choice(alive)
            host.use_cpu(rng.randrange(nr_cpus))
            host.clock = pair[1]
            visits += 1
            if not serve(pair[0]): alive.remove(pair)
        said = [b''.join(g.written) for g, _ in guests]
        ends = [g.file.lg.dead for g, _ in guests]
        for g, _ in guests: g.close()
        assert host.mem.refs == before and visits > 20 * len(guests)
        assert set(ends) == {'CRASH: Power down'}
        return said


@pytest.fixture(scope='module')
def alone(): return {args: live([args], 1, 0)[0] for args in LIVES}


@pytest.mark.parametrize('nr_cpus', (1, 2, 3))
def test_interleaved_guests_say_what_they_say_alone(alone, nr_cpus):
    arguments = list(LIVES) * 2
    assert live(arguments, nr_cpus, nr_cpus) == [alone[a] for a in arguments]


def test_a_guest_that_moves_takes_its_new_code_along():
    "Code rewritten on one CPU is the code that runs on the other, though that one knows the old."
    with Host(memory=16 << 20, nr_cpus=2, clock=OneTurn()) as host:
        g = Workbench('''
        1:      mov  $1, %esi
                hcall LHCALL_FLUSH_ASYNC
                incl 1b + 1
                jmp  1b''', host=host)
        seen = []
        for cpu in (0, 1, 0, 1, 1, 0):
            host.use_cpu(cpu)
            while g.turn() != 31: pass
            seen.append(g.regs.esi)
        assert seen == [1, 2, 3, 4, 5, 6]
        g.close()


def test_what_the_launcher_writes_is_what_runs():
    "A device writes code that the CPU has run before."
    g = Workbench('1: mov $7, %esi\n hcall LHCALL_FLUSH_ASYNC\n jmp 1b')
    while g.turn() != 31: pass
    assert g.regs.esi == 7
    for value in (5, 6):
        g.put(g.pa('main'), b'\xbe' + struct.pack('<I', value))
        while g.turn() != 31: pass
        assert g.regs.esi == value


def test_the_frames_of_a_dead_guest_hold_no_code():
    with Host(memory=12 << 20, clock=OneTurn()) as host:
        for value in (1, 2, 3):
            g = Workbench(f'mov ${value}, %esi', host=host)
            g.turns()
            assert g.regs.esi == value
            g.close()


def test_a_cpu_has_its_own_pages_and_the_guest_sees_only_those():
    with Host(memory=16 << 20, nr_cpus=2, clock=OneTurn()) as host:
        for cpu, other in ((0, 1), (1, 0)):
            host.use_cpu(cpu)
            mine, theirs = (0xFFC01000 + 0x2000 * n for n in (cpu, other))
            g = Workbench(f'mov {mine + 0xFB8:#x} + 4, %esi\n mov {mine + 0x1000:#x}, %edi\n mov {theirs:#x}, %eax', host=host, ecx=77)
            g.turns()
            assert g.regs.edi == host.pgdir << 12               # host_cr3: the state page can be read
            assert g.dead.startswith('unhandled trap 14') and g.dead.endswith(f'({theirs:#x})')
            g.close()


def test_sixteen_guests_and_no_more():
    with Host(memory=64 << 20, clock=OneTurn()) as host:
        guests = [Workbench('nop', host=host, mem='2M') for _ in range(16)]
        assert [g.data.guestid for g in guests] == list(range(16))
        with pytest.raises(OSError) as e: LguestFile(host, mm=guests[0].mm).write(struct.pack('<5I', 0, 16, 0, 0, 0xC0000000))
        assert e.value.errno == errno.ENOSPC
        for g in guests: g.turns()
        assert {g.dead for g in guests} == {'CRASH: Power down'}
        for g in guests: g.close()
