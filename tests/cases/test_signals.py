"Who ends a run, and how: signals, terminals, and what is written then."
import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import termios

import pytest
from guests import hypercall
from programs import PATIENCE, SPIN, mapped, started, until, up_and

from lguest_lit import cli
from lguest_lit.watch.trace import load

ENDS = [(signal.SIGINT, 130, b'interrupted'), (signal.SIGTERM, 143, b'terminated'), (signal.SIGHUP, 129, b'the terminal has hung up')]


@pytest.fixture
def spin(tmp_path):
    "An image of a Guest that says `up` and spins."
    (tmp_path/'spin.elf').write_bytes(up_and(SPIN))
    return tmp_path/'spin.elf'


@pytest.mark.parametrize('end, code, words', ENDS)
def test_recording_and_statistics_are_written(spin, tmp_path, end, code, words):
    with started('run', '--trace', tmp_path/'t.lgt', '--stats', tmp_path/'s.json', spin) as run:
        assert run.stdout.readline() == b'up\n'
        run.send_signal(end)
        assert (run.wait(PATIENCE), run.stderr.read()) == (code, b'lguest: ' + words + b'\n')
    recording = load(tmp_path/'t.lgt')
    assert recording.text(recording.of_kind('console')[0]) == 'up\n' and recording.meta['dead'] is None
    assert json.loads((tmp_path/'s.json').read_text())['hypercalls']['sync'] == {'1': 1, '13': 1}


@pytest.mark.parametrize('end, code, words', ENDS)
@pytest.mark.parametrize('code_bytes', [SPIN, hypercall(10) + SPIN], ids=['spinning', 'asleep'])
def test_a_guest_that_does_nothing_is_ended(tmp_path, end, code, words, code_bytes):
    (tmp_path/'g.elf').write_bytes(up_and(code_bytes))
    with started('run', tmp_path/'g.elf') as run:
        assert run.stdout.readline() == b'up\n'
        run.send_signal(end)
        assert (run.wait(PATIENCE), run.stderr.read()) == (code, b'lguest: ' + words + b'\n')


@pytest.mark.parametrize('ignored', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_ignored_signal_stays_ignored(spin, ignored):
    "nohup does so, and a script with what it starts in the background."
    with started('run', '--max-seconds', '3', spin, preexec_fn=lambda: signal.signal(ignored, signal.SIG_IGN)) as run:
        assert run.stdout.readline() == b'up\n'
        for _ in range(3): run.send_signal(ignored)
        assert (run.wait(PATIENCE), run.stderr.read()) == (124, b'lguest: stopped after 3 seconds\n')


@pytest.mark.parametrize('library', ['libunicorn', 'numpy', 'capstone'])
def test_ctrl_c_while_the_program_is_being_loaded(spin, library):
    with started('run', spin) as run:
        until(lambda: mapped(run.pid, library) or run.poll() is not None)
        run.send_signal(signal.SIGINT)
        assert (run.wait(PATIENCE), run.stderr.read()) == (130, b'lguest: interrupted\n')


@pytest.mark.parametrize('call', ['load', 'exported', 'write_file'])
@pytest.mark.parametrize('end, code, words', ENDS)
def test_a_signal_at_another_time_is_a_message(monkeypatch, capsys, tmp_path, call, end, code, words):
    "And what stands in the way of Python's own handlers is put back."
    monkeypatch.setattr(cli, call, lambda *_: signal.raise_signal(end))
    if call != 'load': monkeypatch.setattr(cli, 'load', lambda _: [])
    if call == 'write_file': monkeypatch.setattr(cli, 'exported', lambda *_: [b''])
    before = [signal.getsignal(n) for n, *_ in ENDS]
    assert cli.main(['trace', '--to', 'csv', str(tmp_path/'x.lgt')]) == code
    assert capsys.readouterr() == ('', f'lguest: {words.decode()}\n')
    assert before == [signal.getsignal(n) for n, *_ in ENDS]


# --- terminals ----------------------------------------------------------------------------------------------------------

@pytest.fixture
def terminal():
    "Both ends of a terminal."
    ends = list(pty.openpty())
    yield ends
    for end in ends:
        try: os.close(end)
        except OSError: pass


def in_front(theirs):
    "Make this process the leader of a session on the terminal."
    os.setsid()
    fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)


def screen(ours, words: bytes) -> bytes:
    "What is on the screen, once these words are."
    got = b''
    while words not in got: got += os.read(ours, 4096)
    return got


def test_a_run_in_the_background_is_not_stopped_by_its_terminal(spin, terminal):
    ours, theirs = terminal
    in_background = ('import os, subprocess, sys\n'
                     'run = subprocess.Popen([sys.executable, "-m", "lguest_lit", "run", "--max-seconds", "2", *sys.argv[1:]], preexec_fn=os.setpgrp)\n'
                     'pid, status = os.waitpid(run.pid, os.WUNTRACED)\n'
                     'print("stopped" if os.WIFSTOPPED(status) else os.waitstatus_to_exitcode(status), flush=True)\n'
                     'if os.WIFSTOPPED(status): run.kill()\n')
    with subprocess.Popen([sys.executable, '-c', in_background, str(spin)], stdin=theirs, stdout=theirs, stderr=theirs,
                          preexec_fn=lambda: in_front(theirs)) as leader:
        seen = screen(ours, b'\r\n124') if leader.poll() is None else b''
        assert leader.wait(PATIENCE) == 0
    assert b'up\r\n' in seen and b'stopped after 2 seconds' in seen


def test_ctrl_d_then_a_line_then_ctrl_c(spin, terminal):
    ours, theirs = terminal
    with started('run', spin, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=lambda: in_front(theirs)) as run:
        screen(ours, b'up\r\n')
        os.write(ours, b'\x04')
        os.write(ours, b'hello\n')
        os.write(ours, b'\x03')
        assert run.wait(PATIENCE) == 130
        assert b'lguest: interrupted' in screen(ours, b'interrupted')


def test_two_lines_typed_fast(terminal):
    ours, theirs = terminal
    with started('run', 'first', 'ticks=1000000', stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=lambda: in_front(theirs)) as run:
        os.write(ours, b'one\ntwo\n')                       # it is not even up
        screen(ours, b'you typed "two"')
        os.write(ours, b'three\nfour\n')
        screen(ours, b'you typed "four"')
        os.write(ours, b'\x03')
        assert run.wait(PATIENCE) == 130


def test_the_terminal_hangs_up(spin, terminal, tmp_path):
    ours, theirs = terminal
    with started('run', '--trace', tmp_path/'t.lgt', spin, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=lambda: in_front(theirs)) as run:
        screen(ours, b'up\r\n')
        os.close(theirs)
        os.close(ours)
        assert run.wait(PATIENCE) == 129
    assert load(tmp_path/'t.lgt').meta['dead'] is None
