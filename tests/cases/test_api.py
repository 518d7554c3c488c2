"Launcher, boot and Workbench as a program uses them: stops, second runs, what is dropped, and names that are misspelt."
import ast
import gc
import importlib
import math
import pkgutil
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import lguest_lit
import pytest
from guests import dma, guest, hypercall, string_at
from programs import PATIENCE, SPIN, sends, until

from lguest_lit.host.clock import VirtualClock
from lguest_lit.host.host import Host
from lguest_lit.launcher.launcher import Launcher, LauncherError, boot
from lguest_lit.launcher.workbench import Workbench

SPINNING = guest(SPIN)


# --- running and stopping --------------------------------------------------------------------------------------------------

def test_each_run_has_its_own_reason():
    with Launcher(SPINNING, mem='4M') as spinning:
        assert [(r.reason, r.exit_code) for r in map(spinning.run, (0.2, 0.4))] == [('stopped after 0.2 seconds', 124), ('stopped after 0.4 seconds', 124)]
        spinning.stop('by hand', 7)
        spinning.stop('too late', 8)
        began = time.monotonic()
        assert (spinning.run().reason, time.monotonic() - began < PATIENCE) == ('by hand', True)
        assert spinning.run(0.1).exit_code == 124


@pytest.mark.parametrize('clock', [None, VirtualClock], ids=['wall', 'virtual'])
def test_stop_from_another_thread(clock):
    with Host(memory=32 << 20, clock=clock and clock()) as host, Launcher(SPINNING, mem='4M', host=host) as spinning:
        threading.Timer(0.2, spinning.stop, ('enough', 9)).start()
        assert (spinning.run().reason, spinning.run(0.1).exit_code) == ('enough', 124)


@pytest.mark.parametrize('seconds', [math.nan, 0, -1, 'soon', -math.inf])
def test_a_limit_that_is_no_time(seconds):
    with Launcher(SPINNING, mem='4M') as spinning, pytest.raises(LauncherError, match='max_seconds'): spinning.run(seconds)


def test_stopping_a_guest_does_not_stop_its_neighbour():
    with Host(memory=64 << 20) as host, Launcher(SPINNING, mem='4M', host=host) as a, Launcher(SPINNING, mem='4M', host=host) as b:
        threading.Timer(0.2, b.stop, ('b is stopped', 9)).start()
        assert a.run(1).reason == 'stopped after 1 seconds'
        assert b.run(PATIENCE).reason == 'b is stopped'


def test_a_signal_for_somebody_else_is_not_ours():
    with Launcher(SPINNING, mem='4M') as spinning:
        threading.Timer(0.2, setattr, (spinning.host, 'signal_pending', True)).start()
        assert spinning.run(1).reason == 'stopped after 1 seconds'


def test_a_limit_that_rings_when_all_is_over_is_forgotten():
    with Launcher(SPINNING, mem='4M') as spinning:
        for _ in range(20): assert spinning.run(0.001).reason == 'stopped after 0.001 seconds'
        assert spinning.asked is None and threading.active_count() < 10


# --- exceptions from outside -------------------------------------------------------------------------------------------------

def numbers(times: int) -> bytes:
    "A Guest that says 0123456789 so many times."
    return sends(b'0123456789', times)


def test_an_exception_in_the_console_leaves_a_guest_that_goes_on():
    "Nothing is lost, and nothing said twice."
    heard = []
    def console(text):
        heard.append(text)
        if len(heard) in (3, 7): raise KeyboardInterrupt
    with Launcher(numbers(20), mem='4M', console=console) as guest:
        for so_far in 3, 7:
            with pytest.raises(KeyboardInterrupt): guest.run()
            assert guest.said() == '0123456789'*so_far
        result = guest.run()
    assert result.exit_code == 0 and result.console == '0123456789'*20 == b''.join(heard).decode()


def test_an_exception_before_a_dma_is_served():
    with Launcher(numbers(3), mem='4M') as guest:
        served, guest.handle_output = guest.handle_output, None            # calling it is a TypeError
        with pytest.raises(TypeError): guest.run()
        guest.handle_output = served
        assert guest.run().console == '0123456789'*3


def test_errors_of_the_console_are_not_the_guests():
    def console(_): raise KeyError('mine')
    with Launcher(numbers(3), mem='4M', console=console) as guest, pytest.raises(KeyError, match='mine'): guest.run()


def test_a_guest_that_sends_to_strangers_is_warned_of_once():
    warnings, send = [], hypercall(13, 4, string_at(0))
    strange = guest(send*3 + hypercall(13, 8, string_at(0)) + hypercall(2, string_at(1)), (dma((string_at(1), 5)), b'Power down\0'))
    assert boot(strange, mem='4M', warn=warnings.append).exit_code == 0
    assert [w.split(',')[0] for w in warnings] == ['the Guest sent to key 0x4', 'the Guest sent to key 0x8']


# --- what is dropped ----------------------------------------------------------------------------------------------------------

def of_guests() -> list:
    "The threads that a Guest needs."
    return [t for t in threading.enumerate() if t.name in ('lguest clock', 'waker', 'console') or isinstance(t, threading.Timer)]


def test_a_launcher_that_is_dropped_is_freed_with_its_host_and_thread():
    before, hosts = len(of_guests()), []
    for _ in range(4):
        launcher = Launcher('minimal')
        launcher.run(60)
        hosts += [weakref.ref(launcher.host), weakref.ref(launcher.host.mem), weakref.ref(launcher.host.cpu.engine.uc)]
    del launcher
    gc.collect()
    assert not any(ref() for ref in hosts)
    until(lambda: len(of_guests()) <= before)


def test_a_host_that_is_dropped_while_its_guest_could_still_run():
    host = Host(memory=32 << 20)
    launcher = Launcher(SPINNING, mem='4M', host=host)
    launcher.run(0.05)
    thread, ref = host.clock.thread, weakref.ref(host)
    del host, launcher
    gc.collect()
    thread.join(PATIENCE)                                # in the middle of a kick it holds the Host itself
    assert not thread.is_alive() and ref() is None


def test_addresses_do_not_pile_up():
    "Each engine reserves a gigabyte of them."
    size = lambda: int(open('/proc/self/statm').read().split()[0]) * 4096 >> 20
    boot('minimal', show=False)
    gc.collect()
    before = size()
    for _ in range(5): Launcher('minimal').run()
    gc.collect()
    assert size() < before + 1500


def test_a_program_may_end_without_closing_anything():
    code = 'from lguest_lit import Launcher\nguests = [Launcher("first", args="quiet") for _ in range(3)]\nfor guest in guests: guest.run(0.02)'
    for _ in range(8): subprocess.run([sys.executable, '-c', code], check=True, timeout=PATIENCE)


def test_a_launcher_in_a_circle_of_references_is_freed_without_an_accident():
    for _ in range(3):
        launcher = Launcher('minimal', console=lambda _: launcher.type(b'x'))   # noqa: F821 (it is gone again below)
        launcher.run(60)
        ref = weakref.ref(launcher.host)
        launcher.me = launcher
        del launcher
        gc.collect()
        assert ref() is None


def test_a_run_leaves_no_thread():
    with Launcher('minimal') as guest:
        guest.type(b'hello\n')
        guest.run(60)
        assert [t.name for t in of_guests()].count('waker') == 0


# --- fork ---------------------------------------------------------------------------------------------------------------------

FORKED = '''
import os
from lguest_lit.launcher.launcher import Launcher
guest = Launcher('first', args='ticks=5 quiet', console=lambda text: None)
first = bytes(guest.mm.ram[0x100000:0x100010])
pid = os.fork()
if not pid:
    guest.mm.ram[0x100000:0x100010] = b'written by child'
    os._exit(0)
os.waitpid(pid, 0)
assert bytes(guest.mm.ram[0x100000:0x100010]) == first
guest.run(0.05)
pid = os.fork()
code = guest.run(60).exit_code                 # in both: the child has a clock of its own
if not pid: os._exit(code)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == code == 0
'''


def test_a_forked_child_has_its_own_copy_of_the_guest():
    subprocess.run([sys.executable, '-c', FORKED], check=True, timeout=2*PATIENCE)


# --- names --------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('wrong, near', [('eaxx', 'eax'), ('EAX', 'eax'), ('rip', 'eip'), ('foo', 'eflags')])
def test_a_register_that_does_not_exist(wrong, near):
    with pytest.raises(LauncherError, match=f"no register is called '{wrong}'.*{near}"): Workbench('nop', **{wrong: 5})


def test_a_value_that_is_none():
    with pytest.raises(LauncherError, match="register eax: 'five' is not a number"): Workbench('nop', eax='five')


@pytest.mark.parametrize('mem', [None, 16.5, '--5M', '-', '', '5 M', '٣M'])
def test_a_size_that_is_none(mem):
    with pytest.raises(LauncherError, match='memory size'): Launcher('minimal', mem=mem)


@pytest.mark.parametrize('args', [[5], [None], ['\ud800']])
def test_arguments_that_are_no_text(args):
    with pytest.raises(LauncherError, match='kernel arguments'): Launcher('minimal', args=args)


def test_our_errors_have_one_base():
    "And keep what they were before: `except ValueError` still catches a bad recording."
    found = {}
    for info in pkgutil.walk_packages(lguest_lit.__path__, 'lguest_lit.'):
        if info.name.endswith('__main__') or info.name.startswith('lguest_lit.tools'): continue
        module = importlib.import_module(info.name)
        found |= {n: c for n, c in vars(module).items() if isinstance(c, type) and issubclass(c, Exception) and c.__module__ == info.name}
    own = {name for name, cls in found.items() if issubclass(cls, lguest_lit.Error)}
    assert own == {'OutOfMemory', 'EngineError', 'HostError', 'LauncherError', 'OutputError', 'BadDma', 'BuildError', 'SymbolError', 'TraceError'}
    assert {*found} - own == {'Fault', 'LateFault', 'PageFault', 'GuestDead'}, 'what happens inside, and no caller sees'
    assert issubclass(found['TraceError'], ValueError) and issubclass(found['BadDma'], LookupError)


def test_editors_are_told_where_the_names_are():
    tree = ast.parse(Path(lguest_lit.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    told = {alias.name: node.module for node in block.body for alias in node.names}
    assert told == lguest_lit._HOMES and {*lguest_lit.__all__} == {'Error', *told}
    assert (Path(lguest_lit.__file__).parent/'py.typed').exists()


def test_the_package_offers_what_most_people_want():
    "And loads it only when it is asked for: the command line wants to hear a Ctrl-C before that."
    code = ('import sys, lguest_lit\nassert not {"unicorn", "numpy"} & {*sys.modules}\n'
            'assert {"boot", "Launcher", "Workbench", "record"} <= {*dir(lguest_lit)}\n'
            'from lguest_lit import Launcher, boot\nfrom lguest_lit.launcher import launcher\nassert boot is launcher.boot\n'
            'try: lguest_lit.nonsense\nexcept AttributeError as e: print(e)')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.stdout, done.stderr) == ("module 'lguest_lit' has no attribute 'nonsense'\n", '')
