"The command line as a user meets it: exit codes, messages, and what goes to which output."
import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from guests import LOAD_AT, NO_CALL, PAGE_OFFSET, elf_header, guest, hypercall, make_elf, says, tiny_elf

from lguest_lit import cli
from lguest_lit.watch.trace import load
from lguest_lit.host.kernel import HostError

pytestmark = pytest.mark.slow    # each test is a process or two
SPIN = b'\xeb\xfe'    # jmp .
MARK = b'GenuineLguest'
V = LOAD_AT + PAGE_OFFSET


def lguest(*args, timeout=120, **kwargs):
    "Run `python -m lguest_lit` to its end."
    return subprocess.run([sys.executable, '-m', 'lguest_lit', *map(str, args)], capture_output=True, timeout=timeout, **kwargs)


@pytest.fixture
def image(tmp_path):
    "Write an image, return its path."
    def write(data: bytes, name='guest.elf') -> Path:
        (tmp_path/name).write_bytes(data)
        return tmp_path/name
    return write


def refused(done, *words):
    "Exit code 2, nothing on standard output, and one line `lguest: ...` with these words in it."
    err = done.stderr.decode()
    assert done.returncode == 2 and done.stdout == b'', (done.returncode, err)
    assert err.startswith('lguest: ') and 'Traceback' not in err, err
    for word in words: assert str(word) in err.splitlines()[0], err


# --- images that are none --------------------------------------------------------------------------------------------

BAD_IMAGES = {
    'empty': (b'', 'not an ELF file'),
    'text': (b'#!/bin/sh\n', 'not an ELF file'),
    'short': (elf_header(1)[:40], 'truncated'),
    'no headers': (elf_header(1), 'truncated'),
    'cut': (tiny_elf(bytes(100))[:-50], 'truncated'),
    '64 bits': (make_elf((LOAD_AT, V, MARK), bits=2), '32-bit'),
    'big endian': (make_elf((LOAD_AT, V, MARK), order=2), 'little-endian'),
    'arm': (make_elf((LOAD_AT, V, MARK), machine=40), 'i386'),
    'object': (make_elf((LOAD_AT, V, MARK), kind=1), 'not an executable'),
    'phentsize': (make_elf((LOAD_AT, V, MARK), phentsize=56), '56'),
    'no segment': (make_elf(), 'program headers'),
    'no marker': (tiny_elf(SPIN, marker=b'ImitatedLguest'), 'Is this image a genuine lguest?'),
    'two offsets': (make_elf((LOAD_AT, V, MARK), (LOAD_AT + 4096, V + 8192, b'x')), 'different page_offset'),
    'too high': (make_elf((0x4000000, 0xC4000000, MARK)), 'outside memory'),
    'bss too high': (make_elf((LOAD_AT, V, MARK, 0x8000000)), 'outside memory'),
    'wraps': (make_elf((0xFFFFF000, 0xBFFFF000, MARK + bytes(8192))), 'outside memory'),
    'in the switcher': (make_elf((LOAD_AT, 0xFFD00000, MARK)), 'page_offset'),
    'no page': (make_elf((LOAD_AT, V + 4, MARK)), 'page_offset'),
    'shrinks': (make_elf((LOAD_AT, V, MARK, 4)), 'more bytes in the file'),
}


@pytest.mark.parametrize('name', BAD_IMAGES)
def test_bad_image(image, name):
    data, why = BAD_IMAGES[name]
    path = image(data)
    refused(lguest('run', path), path, why)


def test_missing_image_and_directory(tmp_path):
    refused(lguest('run', tmp_path/'none'), tmp_path/'none', 'No such file')
    refused(lguest('run', tmp_path), tmp_path, 'Is a directory')


# --- options -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('size', ['0', '0M', '-5', '999G', '4096M', 'lots', '16X', '', '1.5M', '1025K', '100K'])
def test_bad_memory_size(size): refused(lguest('run', '-m', size, 'minimal'), repr(size) if not size else size)


@pytest.mark.parametrize('args', [[], ['dance'], ['run'], ['run', '--max-seconds', '0', 'first'], ['run', '--max-seconds', 'nan', 'first'],
                                  ['run', '--bogus', 'first'], ['run', '--stats'], ['run', '--trace'], ['trace', 'x'], ['trace', '--to', 'svg', 'x']])
def test_bad_options(args): refused(lguest(*args))


def test_bad_initrd(tmp_path):
    refused(lguest('run', '--initrd', tmp_path/'none', 'first'), tmp_path/'none')
    (tmp_path/'empty').touch()
    refused(lguest('run', '--initrd', tmp_path/'empty', 'first'), tmp_path/'empty', 'empty')
    (tmp_path/'big').write_bytes(bytes(17 << 20))
    refused(lguest('run', '--initrd', tmp_path/'big', 'first'), 'initrd', 'do not fit')


def test_arguments_too_long(): refused(lguest('run', 'first', 'x'*5000), 'kernel arguments')


def test_stats_that_cannot_be_written(tmp_path):
    refused(lguest('run', '--stats', tmp_path, 'minimal'), tmp_path, 'Is a directory')
    refused(lguest('run', '--stats', tmp_path/'no'/'file', 'minimal'), tmp_path/'no'/'file')


def test_stats_of_another_run_survive_a_bad_image(tmp_path):
    (tmp_path/'s.json').write_text('precious')
    refused(lguest('run', '--stats', tmp_path/'s.json', '/no/such/image'))
    assert (tmp_path/'s.json').read_text() == 'precious'
    refused(lguest('run', '--stats', tmp_path/'new.json', '/no/such/image'))
    assert not (tmp_path/'new.json').exists()


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='no /dev/full here')
def test_full_disk(image):
    done = lguest('run', '--stats', '/dev/full', image(says(b'', b'Power down')))
    refused(done, '/dev/full', 'No space left')


# --- Guests that run ---------------------------------------------------------------------------------------------------

def test_power_down(image):
    done = lguest('run', image(says(b'hello\n', b'Power down')))
    assert (done.returncode, done.stdout, done.stderr) == (0, b'hello\n', b'')


def test_death(image):
    done = lguest('run', image(says(b'bye\n', b'of \x1b[2Jboredom')))
    assert (done.returncode, done.stdout, done.stderr) == (1, b'bye\n', b'lguest: CRASH: of \\x1b[2Jboredom\n')


def test_power_down_has_exactly_one_spelling(image):
    assert lguest('run', image(says(b'', b'Power down!'))).returncode == 1


DEATHS = {
    'hypercall 5 before LGUEST_INIT': tiny_elf(hypercall(5)),
    'bad guest page': tiny_elf(hypercall(1, 0xFFFF0000)),
    'already have lguest_data': guest(hypercall(1, LOAD_AT + 0x1000)),
    f'Bad hypercall {NO_CALL}': guest(hypercall(NO_CALL)),
    'Bad hypercall -1': guest(hypercall(0xFFFFFFFF)),
    'bad read address': guest(hypercall(2, 0xF0000000)),
    'too many gdt entries 33': guest(hypercall(3, LOAD_AT, 33)),
    'bad stack pages 3': guest(hypercall(7, 0x69, 0xC0200000, 3)),
    'unhandled trap 6': guest(b'\x0f\x0b'),
    'unhandled trap 13': guest(b'\xfa'),
    'unhandled trap 14 at 0xc0100024 (0x1234)': tiny_elf(bytes(0) + b'\x90'*0x17 + b'\xa1\x34\x12\0\0'),
    'DMA outside memory': guest(hypercall(13, 0, 0x00FFFFFC + 0x1000)),
}


@pytest.mark.parametrize('text', DEATHS)
def test_kill_messages(image, text):
    done = lguest('run', image(DEATHS[text]))
    assert done.returncode == 1 and done.stderr.decode().startswith(f'lguest: {text}'), done.stderr
    assert done.stdout == b'' and done.stderr.count(b'\n') == 1


def test_out_of_time_even_in_an_endless_loop(image):
    began = time.monotonic()
    done = lguest('run', '--max-seconds', '0.5', image(guest(SPIN)))
    assert done.returncode == 124 and b'0.5 seconds' in done.stderr
    assert time.monotonic() - began < 20


def test_out_of_time_asleep(image):
    assert lguest('run', '--max-seconds', '0.5', image(guest(hypercall(10) + SPIN))).returncode == 124


@pytest.mark.parametrize('code', [SPIN, hypercall(10) + SPIN], ids=['spinning', 'asleep'])
def test_ctrl_c(image, code):
    path = image(guest(hypercall(13, 0, LOAD_AT + 0x2000) + code, (struct.pack('<I16I16H', 0, LOAD_AT + 0x2100, *[0]*15, 3, *[0]*15),
                                                                   b'up\n')))
    guest_at_work = subprocess.Popen([sys.executable, '-m', 'lguest_lit', 'run', str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert guest_at_work.stdout.readline() == b'up\n'    # it comes at once, not when the buffer is full
        time.sleep(0.2)
        guest_at_work.send_signal(signal.SIGINT)
        _, err = guest_at_work.communicate(timeout=20)
    finally: guest_at_work.kill()
    assert (guest_at_work.returncode, err) == (130, b'lguest: interrupted\n')


def test_broken_pipe(image):
    read, write = os.pipe()
    os.close(read)
    try: done = subprocess.run([sys.executable, '-m', 'lguest_lit', 'run', str(image(says(b'anyone?\n', b'Power down')))],
                               stdout=write, stderr=subprocess.PIPE, timeout=120)
    finally: os.close(write)
    assert done.returncode == 2 and done.stderr == b'lguest: standard output: Broken pipe\n'


def closed(fd, *args):
    "Run with one of the standard files closed, as a shell's `>&-` does it."
    return subprocess.run([sys.executable, '-m', 'lguest_lit', *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120,
                          preexec_fn=lambda: os.close(fd))


def test_standard_output_that_is_closed(image):
    done = closed(1, 'run', image(says(b'anyone?\n', b'Power down')))
    assert (done.returncode, done.stderr) == (2, b'lguest: standard output: closed\n')


def test_standard_error_that_is_closed(image):
    "What can't be said there is not said anywhere else."
    done = closed(2, 'run', '/no/such/image')
    assert (done.returncode, done.stdout) == (2, b'')
    done = closed(2, 'run', image(says(b'bye\n', b'of boredom')))
    assert (done.returncode, done.stdout) == (1, b'bye\n')


@pytest.mark.skipif(not os.path.exists('/dev/zero'), reason='no /dev/zero here')
def test_an_image_without_an_end(): refused(lguest('run', '/dev/zero'), '/dev/zero', 'larger than any Guest')


def test_stats(image, tmp_path):
    path = image(says(b'hello\n', b'Power down'))
    assert lguest('run', '--stats', tmp_path/'s.json', path).returncode == 0
    s = json.loads((tmp_path/'s.json').read_text())
    assert list(s) == ['world_switches', 'traps', 'direct_traps', 'hypercalls', 'interrupts', 'demand_page', 'emulated_insns', 'seconds']
    assert s['hypercalls'] == {'sync': {'1': 1, '13': 1, '2': 1}, 'async': {}}
    assert s['traps']['31'] == 3 and s['demand_page']['fixed'] >= 1 and s['seconds'] > 0
    done = lguest('run', '--stats', '-', path)
    console, counters = done.stdout.splitlines()
    assert console == b'hello' and json.loads(counters)['hypercalls'] == s['hypercalls']


def test_stats_are_written_for_a_dead_guest_too(image, tmp_path):
    assert lguest('run', '--stats', tmp_path/'s.json', image(guest(hypercall(NO_CALL)))).returncode == 1
    assert json.loads((tmp_path/'s.json').read_text())['hypercalls']['sync']


def test_trace(image, tmp_path):
    path = tmp_path/'t.lgt'
    done = lguest('run', '--trace', path, '-m', '4M', image(says(b'hello\n', b'Power down')), 'some', 'words')
    assert (done.returncode, done.stdout, done.stderr) == (0, b'hello\n', b'')
    recording = load(path)
    assert recording.text(recording.of_kind('console')[0]) == 'hello\n' and recording.text(len(recording) - 1) == 'CRASH: Power down'
    assert (recording.meta['image'], recording.meta['args'], recording.meta['clock']) == ('guest.elf', 'some words', 'wall')
    for to, ending in ('perfetto', 'json'), ('csv', 'csv'), ('parquet', 'parquet'):
        done = lguest('trace', path, '--to', to)
        assert (done.returncode, done.stderr) == (0, b'') and done.stdout.startswith(f'{tmp_path}/t.{ending}: '.encode())
        assert (tmp_path/f't.{ending}').stat().st_size > 1000
    assert 'hypercall CRASH' in (tmp_path/'t.json').read_text()
    done = lguest('trace', '--to', 'csv', '--changes', '-o', '-', path)
    assert done.returncode == 0 and done.stdout.startswith(b'number,event,what,place,where,old,new\n0,0,')
    assert done.stdout.count(b'\n') == 1 + len(recording.changes)


@pytest.mark.parametrize('code, why', [(hypercall(NO_CALL), f'Bad hypercall {NO_CALL}'.encode()), (b'\x0f\x0b', b'unhandled trap 6')])
def test_a_trace_of_a_guest_that_dies(image, tmp_path, code, why):
    done = lguest('run', '--trace', tmp_path/'t.lgt', image(guest(code)))
    assert done.returncode == 1 and why in done.stderr
    recording = load(tmp_path/'t.lgt')
    assert recording.kind(len(recording) - 1) == 'kill' and recording.text(len(recording) - 1).encode().startswith(why)


def test_a_trace_of_a_guest_that_is_stopped(image, tmp_path):
    assert lguest('run', '--trace', tmp_path/'t.lgt', '--max-seconds', '0.5', image(guest(hypercall(10) + SPIN))).returncode == 124
    recording = load(tmp_path/'t.lgt')
    assert recording.kind(len(recording) - 1) == 'sleep' and recording.meta['dead'] is None


def test_a_trace_after_ctrl_c(image, tmp_path):
    run = subprocess.Popen([sys.executable, '-m', 'lguest_lit', 'run', '--trace', tmp_path/'t.lgt', 'first', 'ticks=1000000'], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert run.stdout.readline()
        time.sleep(0.3)
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=60)
    finally: run.kill()
    assert (run.returncode, err) == (130, b'lguest: interrupted\n')
    recording = load(tmp_path/'t.lgt')
    assert len(recording.of_kind('leave')) > 5 and recording.meta['dead'] is None


def test_a_trace_that_cannot_be_written(image, tmp_path):
    refused(lguest('run', '--trace', tmp_path, 'minimal'), tmp_path, 'Is a directory')
    refused(lguest('run', '--trace', tmp_path/'no'/'file', 'minimal'), tmp_path/'no'/'file')
    (tmp_path/'t.lgt').write_text('precious')
    refused(lguest('run', '--trace', tmp_path/'t.lgt', '/no/such/image'))
    assert (tmp_path/'t.lgt').read_text() == 'precious'


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='no /dev/full here')
def test_a_trace_on_a_full_disk(image): refused(lguest('run', '--trace', '/dev/full', image(says(b'', b'Power down'))), '/dev/full', 'No space left')


def test_a_trace_that_is_none(tmp_path):
    refused(lguest('trace', '--to', 'csv', tmp_path/'none'), tmp_path/'none', 'No such file')
    (tmp_path/'t.csv').write_text('not a recording')
    refused(lguest('trace', '--to', 'csv', tmp_path/'t.csv'), tmp_path/'t.csv', 'not a recording')
    assert (tmp_path/'t.csv').read_text() == 'not a recording'


def test_a_trace_is_not_overwritten_by_what_is_made_of_it(image, tmp_path):
    lguest('run', '--trace', tmp_path/'t.csv', image(says(b'', b'Power down')))
    refused(lguest('trace', '--to', 'csv', tmp_path/'t.csv'), 'is the recording itself')
    assert load(tmp_path/'t.csv')


def test_built_in_guests_and_their_arguments():
    done = lguest('run', 'first', 'ticks=20')
    assert done.returncode == 0 and done.stdout and done.stderr == b''
    done = lguest('run', 'minimal')
    assert (done.returncode, done.stdout, done.stderr) == (0, b'hello from the smallest Guest\n', b'')


def test_an_initrd_lies_at_the_top_of_memory_and_its_size_in_the_boot_parameters(image, tmp_path):
    (tmp_path/'disk').write_bytes(b'on the disk\0')
    load = b'\x8b\x15' + struct.pack('<I', PAGE_OFFSET + 0x218)      # mov edx, [ramdisk address]
    done = lguest('run', '--initrd', tmp_path/'disk', image(guest(load + b'\xb8\x02\0\0\0\xcd\x1f')))      # CRASH with it
    assert (done.returncode, done.stderr) == (1, b'lguest: CRASH: on the disk\n')


def test_what_is_typed_reaches_the_guest():
    run = subprocess.Popen([sys.executable, '-m', 'lguest_lit', 'run', 'first', 'ticks=300'], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    for line in run.stdout:
        if line.startswith(b'process 1: at'): run.stdin.write(b'hello there\n'); run.stdin.flush()
        if b'typed' in line: break
    assert line == b'first: you typed "hello there"\n'
    run.communicate(timeout=60)
    assert run.returncode == 0


def test_a_bug_in_the_host_is_a_message(monkeypatch, capsys):
    def broken(*_, **__): raise HostError('exception 6 in the Host itself')
    monkeypatch.setattr(cli, 'Launcher', broken)
    assert cli.main(['run', 'minimal']) == 2
    assert capsys.readouterr().err == 'lguest: the Host has a bug, or does not know this machine: exception 6 in the Host itself\n'


def test_demo():
    done = lguest('demo')
    assert done.returncode == 0
    for word in (b'world switches', b'LGUEST_INIT', b'direct traps', b'time'): assert word in done.stdout, done.stdout


def test_view_writes_a_page(tmp_path):
    file = tmp_path/'boot.lgt'
    assert lguest('run', '--trace', file, 'first', 'ticks=5', 'quiet').returncode == 0
    done = lguest('view', '--no-open', file)
    page = tmp_path/'boot.html'
    assert (done.returncode, done.stdout, done.stderr) == (0, f'{page}\n'.encode(), b'') and 'data-picture="timeline"' in page.read_text()
    assert lguest('view', '--no-open', '-o', tmp_path/'other.html', file).returncode == 0
    assert (tmp_path/'other.html').read_bytes() == page.read_bytes()
    refused(lguest('view', '--no-open', page), page)
    refused(lguest('view', '--no-open', '-o', file, file), file, 'the recording itself')
    refused(lguest('view', tmp_path/'none'), tmp_path/'none', 'No such file')
