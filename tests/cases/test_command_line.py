"Each of these once ended in a traceback, or in something else than what was asked for, without a word."
import os
import resource
import subprocess
import sys

import pytest
from guests import guest, says
from programs import lguest, refused

from lguest_lit.images import build
from lguest_lit import cli
from lguest_lit.watch.trace import load

HELLO = b'hello from the smallest Guest\n'


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    "Each test in a folder of its own."
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def recording(here):
    "A recording, x.lgt."
    assert lguest('run', '--trace', 'x.lgt', 'minimal').returncode == 0
    return here/'x.lgt'


# --- outputs ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('file', ['/', '.', '', '..', 'none'])
@pytest.mark.parametrize('command', [('trace', '--to', 'csv'), ('view', '--no-open')], ids=lambda c: c[0])
def test_a_recording_that_is_no_file(command, file): refused(lguest(*command, file), 'cannot read')


def test_an_export_to_standard_output_that_is_closed(recording):
    done = lguest('trace', '--to', 'csv', '-o', '-', recording, preexec_fn=lambda: os.close(1))
    assert (done.returncode, done.stderr) == (2, b'lguest: standard output: closed\n')


def test_an_export_into_a_pipe_that_nobody_reads_to_its_end(recording):
    read, write = os.pipe()
    os.close(read)
    done = lguest('trace', '--to', 'perfetto', '-o', '-', recording, capture_output=False, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (2, b'lguest: standard output: Broken pipe\n')


@pytest.mark.parametrize('command, made', [(('trace', '--to', 'csv'), 'x.csv'), (('trace', '--to', 'perfetto'), 'x.json'), (('view', '--no-open'), 'x.html')])
def test_what_is_written_is_said_and_nothing_is_overwritten(recording, command, made):
    done = lguest(*command, 'x.lgt')
    assert (done.returncode, done.stderr) == (0, b'') and done.stdout.decode().split(':')[0].strip() == made
    with open(made, 'w') as file: file.write('precious')
    refused(lguest(*command, 'x.lgt'), made, 'overwrite it with -f')
    refused(lguest(*command, '-o', made, 'x.lgt'), made, 'overwrite it with -f')
    assert open(made).read() == 'precious'
    assert lguest(*command, '-f', 'x.lgt').returncode == lguest(*command, '--force', '-o', made, 'x.lgt').returncode == 0
    assert open(made).read() != 'precious' and load('x.lgt')
    refused(lguest(*command, '-f', '-o', 'x.lgt', 'x.lgt'), 'the recording itself')


def test_a_device_may_be_written_to_without_force(recording):
    assert lguest('trace', '--to', 'csv', '-o', os.devnull, recording).returncode == 0


@pytest.mark.parametrize('one, other', [(('--stats', 'x'), ('--trace', 'x')), (('--trace', 'x'), ('--stats', './x')), (('--trace', 'i.elf'), ()),
                                        (('--stats', 'i.elf'), ()), (('--stats', 'disk'), ('--initrd', 'disk'))])
def test_one_file_for_two_things(one, other):
    for name, data in ('i.elf', says(b'', b'Power down')), ('disk', b'precious'), ('x', b'precious'):
        with open(name, 'wb') as file: file.write(data)
    refused(lguest('run', *one, *other, 'i.elf'), 'are the same file')
    assert open('disk').read() == open('x').read() == 'precious' and open('i.elf', 'rb').read()[:4] == b'\x7fELF'


def test_one_device_for_two_things():
    assert lguest('run', '--stats', os.devnull, '--trace', os.devnull, 'minimal').stdout == HELLO


# --- images and arguments --------------------------------------------------------------------------------------------------

def test_the_hello_world_ends_with_0():
    done = lguest('run', 'minimal')
    assert (done.returncode, done.stdout, done.stderr) == (0, HELLO, b'')


def test_an_initrd_is_a_file_whatever_it_is_called():
    load = b'\x8b\x15' + (0xC0000218).to_bytes(4, 'little')                 # mov edx, [ramdisk address]
    with open('i.elf', 'wb') as file: file.write(guest(load + b'\xb8\x02\0\0\0\xcd\x1f'))       # CRASH with it
    refused(lguest('run', '--initrd', 'minimal', 'i.elf'), 'cannot read initrd minimal')
    with open('minimal', 'wb') as file: file.write(b'my own disk\0')
    assert lguest('run', '--initrd', 'minimal', 'i.elf').stderr == b'lguest: CRASH: my own disk\n'


def test_an_image_that_has_the_name_of_a_built_in_one():
    with open('minimal', 'wb') as file: file.write(says(b'mine\n', b'Power down'))
    done = lguest('run', 'minimal')
    assert (done.returncode, done.stdout, done.stderr.count(b'\n')) == (0, HELLO, 1) and b'say ./minimal' in done.stderr
    assert lguest('run', './minimal').stdout == b'mine\n'


def test_an_unknown_image_names_those_that_there_are(): refused(lguest('run', 'nosuch'), 'nosuch', 'first', 'minimal')


@pytest.mark.parametrize('words', [['--max-seconds', '1'], ['--stats=-'], ['-m', '32M'], ['--trace', 'x'], ['--initrd', 'x'], ['--help'], ['--memory=5M']])
def test_options_behind_the_image_are_warned_of(words):
    done = lguest('run', 'first', 'ticks=3', *words, 'quiet')
    assert done.returncode == 0 and done.stderr.startswith(f'lguest: {words[0]} stands behind the image'.encode()) and done.stderr.count(b'\n') == 1


def test_the_guests_own_options_are_not(capfd):
    done = lguest('run', 'first', 'ticks=3', 'quiet', '--bogus', 'root=/dev/lgba', '-x')
    assert (done.returncode, done.stderr) == (0, b'')


def test_all_options_of_ours_are_known():
    a = cli.make_parser().parse_args(['run', 'first'])
    assert a.ours == ['-h', '--help', '-m', '--memory', '--initrd', '--stats', '--trace', '--max-seconds']


def test_what_is_missing_is_said_by_its_name():
    done = lguest('run')
    refused(done, 'IMAGE')
    assert b'KERNEL ARGS' not in done.stderr.splitlines()[0]
    done = lguest('run', preexec_fn=lambda: os.close(2))
    assert (done.returncode, done.stdout) == (2, b'')                       # not said where nobody asked for it


def test_help_has_examples_and_exit_codes():
    said = lguest('run', '--help').stdout.decode()
    for word in 'examples:', 'lguest run first', 'exit codes:', '124', '130', '143', '--max-seconds 10': assert word in said, word


# --- memory -----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('megabytes', [50, 400, 600, 1100, 1500, 2200, 3100, 3300])
def test_too_little_memory_is_a_line(megabytes):
    limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20,)*2)
    done = lguest('run', '-m', '256M', 'minimal', preexec_fn=limit)
    if done.returncode or megabytes < 3000: refused(done)


def test_no_memory_anywhere(monkeypatch, capsys):
    def hungry(*_, **__): raise MemoryError
    monkeypatch.setattr(cli, 'Launcher', hungry)
    assert cli.main(['run', 'minimal']) == 2
    assert capsys.readouterr().err == 'lguest: the system has no more memory for us\n'


# --- python -m lguest_lit.images.build ------------------------------------------------------------------------------------------------

def make(*args, **kwargs):
    "Run `python -m lguest_lit.images.build` to its end."
    return subprocess.run([sys.executable, '-m', 'lguest_lit.images.build', *args], capture_output=True, timeout=300, **kwargs)


@pytest.mark.parametrize('out, why', [('/no/such/dir/x.elf', 'No such file'), ('/dev/full', 'No space left'), ('.', 'Is a directory')])
def test_an_image_that_cannot_be_written(out, why): refused(make('-o', out, 'minimal'), out, why)


def test_an_image_that_cannot_be_built():
    refused(make('nosuch'), 'nosuch', 'minimal')
    refused(make('nosuch.S'), 'nosuch.S', 'does not exist')
    refused(make(''), 'no image called')


def test_a_source_in_latin_1():
    with open('latin.c', 'wb') as file: file.write(b'/* caf\xe9 */\nint start;\n')
    done = make('latin.c')
    assert done.returncode == 0 and os.path.getsize('latin.elf')
    with open('bad.c', 'wb') as file: file.write(b'/* caf\xe9 */\nint start\xe9;\n')
    assert b'did not compile' in make('bad.c').stderr


def test_somebody_without_a_home(monkeypatch):
    for name in 'XDG_CACHE_HOME', 'LOCALAPPDATA', 'HOME': monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, 'expanduser', lambda path: path)           # as it is for a user whom the system does not know
    assert not build.compiler_env()['ZIG_GLOBAL_CACHE_DIR'].startswith('~')


def test_the_compiler_that_is_asked_for_is_the_one_of_the_settings(root):
    assert f'build_requirements = {build.COMPILER}\n' in (root/'settings.ini').read_text()
