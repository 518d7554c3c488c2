"A Guest's whole life leaves no page behind, and is the same every time."
import pytest

from guests import guest, hypercall
from lguest_lit.host.clock import VirtualClock
from lguest_lit.host.host import Host
from lguest_lit.launcher.launcher import Launcher, LauncherError, boot

TICKS = 10_000


def virtual_host(seed=0):
    "A Host on which a millisecond lasts 2000 instructions."
    return Host(memory=32 << 20, clock=VirtualClock(insn_ns=500, switch_ns=2000), seed=seed)


@pytest.mark.slow
def test_ten_thousand_ticks_leak_nothing():
    with virtual_host() as host:
        before = list(host.mem.refs)
        result = boot('first', args=f'ticks={TICKS} quiet hz=1000', host=host)
        assert (result.reason, result.exit_code) == ('CRASH: Power down', 0)
        assert f'first: {TICKS} ticks' in result.console
        assert result.stats['interrupts'][0] >= TICKS
        assert host.mem.refs == before
        assert host.guests == [None]*16 and not host.dma_bindings and not host.clock.alarms
        started = sum(before)
    assert sum(host.mem.refs) < started, 'the Switcher keeps its pages'


def test_every_life_gives_back_what_the_one_before_did():
    with virtual_host() as host:
        before = list(host.mem.refs)
        for _ in range(5):
            assert boot('first', args='ticks=20 quiet hz=1000', host=host).exit_code == 0
            assert host.mem.refs == before


def test_a_guest_that_is_killed_leaks_nothing():
    with virtual_host() as host:
        before = list(host.mem.refs)
        result = boot(guest(hypercall(99)), mem='4M', host=host)
        assert result.exit_code == 1 and 'hypercall' in result.reason
        assert host.mem.refs == before


def test_a_guest_that_cannot_start_leaks_nothing():
    with virtual_host() as host:
        before = list(host.mem.refs)
        with pytest.raises(LauncherError): Launcher('first', mem='64M', host=host)
        assert host.mem.refs == before


def life(seed):
    with virtual_host(seed) as host: result = boot('first', args='ticks=300 hz=1000', host=host)
    del result.stats['seconds']
    return result


@pytest.mark.parametrize('seed', (0, 7))
def test_the_same_seed_gives_the_same_life(seed):
    one, other = life(seed), life(seed)
    assert one.console == other.console and one.stats == other.stats and one.reason == other.reason
    assert one.stats['world_switches'] > 1000
