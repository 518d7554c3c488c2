"What the Guest says arrives whole and in order, what it is told waits for it, and nobody who does not read keeps it from being stopped."
import contextlib
import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading

import pytest
from guests import dma, guest, hypercall, says, string_at
from programs import ECHO, FLOOD, PATIENCE, SPIN, lguest, sends, started, until, up_and

from lguest_lit.launcher.launcher import Launcher, Output, OutputError, boot, write_all
from lguest_lit.launcher.workbench import assemble


@pytest.fixture
def image(tmp_path):
    "Write an image, return its path."
    def write(data: bytes):
        (tmp_path/'guest.elf').write_bytes(data)
        return tmp_path/'guest.elf'
    return write


@pytest.fixture
def pipe():
    "A pipe, both ends open."
    ends = list(os.pipe())
    yield ends
    for end in ends:
        with contextlib.suppress(OSError): os.close(end)


# --- out: whole and in order -------------------------------------------------------------------------------------------

NUMBERS = b''.join(b'%07d\n' % n for n in range(32))      # 256 bytes


@pytest.mark.parametrize('blocking', [True, False])
def test_a_slow_reader_gets_everything(image, pipe, blocking):
    read, write = pipe
    os.set_blocking(write, blocking)
    with started('run', image(sends(NUMBERS, 1000)), stdout=write) as run:
        full(write)
        os.close(write)
        got = b''.join(iter(lambda: os.read(read, 10_000), b''))
        assert (run.wait(PATIENCE), run.stderr.read()) == (0, b'')
    assert got == NUMBERS*1000


def full(pipe: int):
    "Wait until a pipe takes no more."
    until(lambda: not select.select([], [pipe], [], 0)[1])


def test_it_goes_to_a_terminal_whole(image):
    ours, theirs = pty.openpty()
    with started('run', image(sends(NUMBERS, 100)), stdout=theirs) as run:
        os.close(theirs)
        got = b''
        with contextlib.suppress(OSError):                  # EIO: the other end is closed
            while part := os.read(ours, 4096): got += part
        assert run.wait(PATIENCE) == 0
    os.close(ours)
    assert got.replace(b'\r\n', b'\n') == NUMBERS*100


def test_statistics_come_behind_the_console(image):
    done = lguest('run', '--stats', '-', image(sends(b'no newline', 300)))
    console, counters = done.stdout.split(b'\n')[:2]
    assert console == b'no newline'*300 and counters.startswith(b'{')


def test_a_reader_who_has_gone_is_an_error(image, pipe):
    read, write = pipe
    with started('run', image(FLOOD), stdout=write) as run:
        os.close(write)
        assert os.read(read, 1)
        os.close(read)
        assert (run.wait(PATIENCE), run.stderr.read()) == (2, b'lguest: standard output: Broken pipe\n')


def test_statistics_and_recording_are_written_though_the_reader_has_gone(image, pipe, tmp_path):
    read, write = pipe
    os.close(read)
    done = lguest('run', '--stats', tmp_path/'s.json', '--trace', tmp_path/'t.lgt', image(FLOOD), capture_output=False, stdout=write, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (2, b'lguest: standard output: Broken pipe\n')
    assert json.loads((tmp_path/'s.json').read_text())['hypercalls']['sync']['13'] and (tmp_path/'t.lgt').stat().st_size


def test_write_all_waits_where_it_would_block(pipe):
    read, write = pipe
    os.set_blocking(write, False)
    writer = threading.Thread(target=write_all, args=(write, bytes(1 << 20)))
    writer.start()
    got = 0
    while got < 1 << 20: got += len(os.read(read, 5000))
    writer.join(PATIENCE)
    assert not writer.is_alive()


def test_a_stream_without_a_file_gets_text():
    shown = io.StringIO()
    result = boot(says('naïve\n'.encode(), b'Power down'), console=shown, mem='4M')
    assert shown.getvalue() == result.console == 'naïve\n'


def test_boot_shows_the_console_as_it_comes(capsys):
    result = boot('minimal')
    assert capsys.readouterr().out == result.console == 'hello from the smallest Guest\n'
    boot('minimal', show=False)
    assert capsys.readouterr().out == ''


def test_an_output_that_is_closed():
    with pytest.raises(OutputError, match='standard output: closed'): Output(None)
    with pytest.raises(OutputError, match='closed file'):
        with open(os.devnull, 'wb') as file: pass
        Output(file)


# --- out: not kept -------------------------------------------------------------------------------------------------------

def resident(pid: int) -> int:
    "Megabytes of memory."
    return int(open(f'/proc/{pid}/statm').read().split()[1]) * 4096 >> 20


def test_memory_stays_flat_while_a_guest_floods_its_console(image):
    sections = dma(*[(0x200000, 65535)]*16)                 # a megabyte each time
    send = hypercall(13, 0, string_at(0))
    flood = guest(send + b'\xe9' + (-(len(send) + 5)).to_bytes(4, 'little', signed=True), (sections,))
    with started('run', '--max-seconds', '120', image(flood)) as run:
        read = lambda size: sum(len(run.stdout.read(1 << 20)) for _ in range(size))
        read(100)
        before = resident(run.pid)
        read(600)
        assert resident(run.pid) < before + 100             # it was 600 more


def test_what_is_only_handed_on_is_not_kept():
    said = []
    with Launcher(says(b'hi\n', b'Power down'), mem='4M', console=said.append, keep=False) as guest: result = guest.run()
    assert (said, result.console, guest.written) == ([b'hi\n'], '', [])


# --- nobody reads ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('end, code', [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_a_run_that_nobody_reads(image, pipe, end, code):
    read, write = pipe
    with started('run', image(FLOOD), stdout=write) as run:
        full(write)
        run.send_signal(end)
        assert run.wait(PATIENCE) == code
        assert run.stderr.read().count(b'\n') == 1
        assert os.read(read, 1 << 16).startswith(b'x')       # what was accepted is there


def test_time_ends_a_run_that_nobody_reads(image, pipe):
    read, write = pipe
    with started('run', '--max-seconds', '1', image(FLOOD), stdout=write) as run:
        assert run.wait(PATIENCE) == 124
        assert run.stderr.read().startswith(b'lguest: stopped after 1 seconds')


def test_time_ends_a_guest_that_is_off_already_and_waits_for_its_reader(image, pipe, tmp_path):
    read, write = pipe
    with started('run', '--max-seconds', '2', '--trace', tmp_path/'t.lgt', '--stats', '-', image(sends(NUMBERS, 300)), stdout=write) as run:
        assert run.wait(PATIENCE) == 124
    assert (tmp_path/'t.lgt').stat().st_size > 1000


def test_a_terminal_that_nobody_reads(image):
    ours, theirs = pty.openpty()
    with started('run', '--max-seconds', '1', image(FLOOD), stdout=theirs) as run: assert run.wait(PATIENCE) == 124
    os.close(ours)
    os.close(theirs)


def test_ctrl_c_ends_a_script_that_boots_and_that_nobody_reads(image, pipe):
    read, write = pipe
    script = f'from lguest_lit import boot; boot({str(image(FLOOD))!r}, mem="4M")'
    with subprocess.Popen([sys.executable, '-c', script], stdout=write, stderr=subprocess.PIPE) as run:
        full(write)
        run.send_signal(signal.SIGINT)
        assert run.wait(PATIENCE) in (-signal.SIGINT, 130) and b'KeyboardInterrupt' in run.stderr.read()


def test_launcher_stop_wins_against_a_stream_that_nobody_reads(pipe):
    read, write = pipe
    with Launcher(FLOOD, mem='4M', console=open(write, 'wb', closefd=False)) as guest:
        stopper = threading.Thread(target=lambda: (full(write), guest.stop('enough', 7)))
        stopper.start()
        result = guest.run(PATIENCE)
        stopper.join()
    assert (result.reason, result.exit_code) == ('enough', 7)


# --- in ------------------------------------------------------------------------------------------------------------------

def heard(size: int, *keys: bytes, before: bool = True) -> str:
    "What a Guest with a buffer of `size` bytes repeats of what is typed, before it runs or while it does."
    with Launcher(assemble(ECHO.replace('SIZE', str(size))), mem='4M') as guest:
        typing = lambda: [guest.type(k) for k in (*keys, b'!')]
        if before: typing()
        else: threading.Thread(target=typing).start()
        return guest.run(PATIENCE).console


LETTERS = b'abcdefghijklmnopqrstuvwxyz0123456789'
LINES = [b'line %03d\n' % n for n in range(50)]


@pytest.mark.parametrize('before', [True, False])
@pytest.mark.parametrize('size', [16, 256, 1])
def test_what_is_typed_arrives_whole(size, before): assert heard(size, LETTERS, before=before) == LETTERS.decode() + '!'


@pytest.mark.parametrize('before', [True, False])
def test_lines_typed_one_after_the_other_all_arrive(before): assert heard(256, *LINES, before=before) == b''.join(LINES).decode() + '!'


def test_type_does_not_wait():
    with Launcher('first') as guest:
        guest.type(b'hello\n')
        guest.type(b'')
        assert list(guest.typed) == [b'hello\n']


def test_a_guest_types_at_itself_from_its_console():
    "The function that gets the console runs where the Guest runs; there nobody can wait for it."
    replies = iter((b'one', b'two', b'!'))
    with Launcher(assemble(ECHO.replace('SIZE', '256')), mem='4M', console=lambda _: guest.type(next(replies, b''))) as guest:
        guest.type(b'zero')
        assert guest.run(PATIENCE).console == 'zeroonetwo!'


def test_keys_that_nobody_takes_wait_and_do_no_harm():
    with Launcher(guest(SPIN), mem='4M') as spinning:
        spinning.type(b'hello')
        assert spinning.run(0.5).exit_code == 124 and list(spinning.typed) == [b'hello']
        assert spinning.run(0.2).exit_code == 124
        assert threading.active_count() < 10


def test_a_line_that_is_piped_in_before_the_guest_is_up():
    done = lguest('run', 'first', 'ticks=100', stdin=None, input=b'a\nb\n')
    assert done.returncode == 0 and [line for line in done.stdout.splitlines() if b'typed' in line] == [b'first: you typed "a"', b'first: you typed "b"']


def test_a_line_longer_than_the_buffer_of_the_first_guest():
    line = b''.join(b'%07d.' % n for n in range(100))
    done = lguest('run', 'first', 'ticks=200', stdin=None, input=line + b'\n')
    said = [text.split(b'"')[1] for text in done.stdout.splitlines() if b'typed' in text]
    assert done.returncode == 0 and b''.join(said) == line and len(said[0]) == 256


def test_a_file_that_is_piped_in_arrives_whole(image, tmp_path):
    text = b''.join(b'%d bottles of beer on the wall\n' % n for n in range(300)) + b'x'*1000 + b'\n'
    (tmp_path/'text').write_bytes(text + b'!')
    with open(tmp_path/'text', 'rb') as file: done = lguest('run', image(assemble(ECHO.replace('SIZE', '64'))), stdin=file)
    assert (done.returncode, done.stdout) == (0, text + b'!')


def test_input_that_would_block_is_waited_for(image, pipe):
    read, write = pipe
    os.set_blocking(read, False)
    with started('run', image(assemble(ECHO.replace('SIZE', '64'))), stdin=read) as run:
        os.write(write, b'hello\n')
        assert run.stdout.readline() == b'hello\n'
        os.write(write, b'!')
        assert (run.stdout.read(), run.wait(PATIENCE)) == (b'!', 0)


def test_no_input_at_all(image):
    "Where standard input is closed, whatever is opened first has its number, and must not be typed at the Guest."
    done = lguest('run', image(up_and(hypercall(2, string_at(2)))), stdin=None, preexec_fn=lambda: os.close(0))
    assert (done.returncode, done.stdout, done.stderr) == (0, b'up\n', b'')
