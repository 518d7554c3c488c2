"""Recordings that lie, recordings that are huge, and Guests that do not like to be recorded. With a tape a Guest lives and dies as without
one; a file that is no recording gets one line and exit code 2, in bounded memory and time; and no name in a file opens anything."""
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings, strategies as st

from guests import guest, hypercall, says
from lguest_lit.watch import trace
from lguest_lit.images.build import image_path
from lguest_lit.cli import main
from lguest_lit.watch.film import film_life
from lguest_lit.host.host import Host
from lguest_lit.launcher.launcher import Launcher
from lguest_lit.pictures import timeline
from lguest_lit.pictures.timeline import Timeline, reel, view
from lguest_lit.watch.rewind import TimeMachine
from lguest_lit.watch.trace import (CHANGE, EVENT, KINDS, NUMBER, Recorder, Recording, TraceError, develop, export, live_again, load,
                              record, to_bytes)
from lguest_lit.launcher.workbench import assemble
from test_hostile_guests import MEM, Leash, deeds, image, kinds

EXAMPLES = int(os.environ.get('LGUEST_LIT_EXAMPLES', 300))
SECONDS = 60                                                  # until a test that hangs is stopped


@pytest.fixture(autouse=True)
def watchdog():
    "Nothing here may take for ever."
    def bark(*_): raise AssertionError(f'{SECONDS} seconds are over')
    old = signal.signal(signal.SIGALRM, bark)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, old)


@pytest.fixture(scope='module')
def recording(): return record(args='ticks=4 quiet hz=1000', mem='4M')


@pytest.fixture(scope='module')
def file(recording): return to_bytes(recording)


# --- a Guest on tape --------------------------------------------------------------------------------------------------

STACK16 = '''movl $0xFFFF, gdt+8                     # a stack whose pointer has 16 bits
    movl $0xC00F9300, gdt+12
    hcall LHCALL_LOAD_GDT, $gdt - PAGE_OFFSET, $32
    gate 128, h, 0xF, 3
    movl 0xC0007000, %eax
    movl $9, %eax
    movl $0x12348000, %esp
    movl %eax, %ss
    int $128
h:  nop
    movl $0x69, %eax
    movl %eax, %ss
    movl $stack_top, %esp'''
WRAPPED = STACK16.replace('0x12348000', '0x12340004')     # the frame goes round the corner
LIVES = {
    'a vector that does not fit': assemble('hcall LHCALL_LOAD_IDT_ENTRY, $0x10000, $0x610000, $0xC010EF00'),
    'the largest vector': assemble('hcall LHCALL_LOAD_IDT_ENTRY, $-1, $0x610000, $0xC010EF00'),
    'the largest hypercall': assemble('hcall 0xFFFFFFFF, $-1, $-1, $-1'),
    'a small stack': assemble(STACK16),
    'a small stack, wrapped': assemble(WRAPPED),
    'all ones': guest(b''.join(hypercall(n, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF) for n in (0, 5, 6, 9, 12))),
    'by hand': guest(hypercall(6, 0x10000, 0x610000, 0xEF00))}


def life(image, taped, slice=1000, seed=0):
    "What comes of a Guest: last words, exit code, console, counters, memory; and its recording."
    with Host(memory=8 << 20, clock=Leash()) as host, Launcher(image, mem=MEM, host=host, warn=lambda text: None) as launcher:
        host.clock.hold(launcher, slice, seed)
        tape = Recorder(launcher.file.lg)
        with tape if taped else contextlib.nullcontext(): result = launcher.run()
        counters = {name: count for name, count in result.stats.items() if name != 'seconds'}
        return (result.reason, result.exit_code, result.console, counters, bytes(launcher.mm.ram)), develop(tape, launcher) if taped else None


def check_life(image, path, **how):
    "The same with a tape as without; and what is on the tape can be saved, read, shown and exported."
    without, (taped, recording) = life(image, False, **how)[0], life(image, True, **how)
    assert taped == without
    recording.save(path)
    again = load(path)
    assert again.hash() == recording.hash()
    for to in 'perfetto', 'csv': export(again, to)
    reel(again)
    return again


@pytest.mark.parametrize('name', LIVES)
def test_a_tape_changes_nothing(name, tmp_path): check_life(LIVES[name], tmp_path/'it.lgt')


@pytest.mark.parametrize('text, offset', [(STACK16, 0x7FF4), (WRAPPED, 0xFFF8)])
def test_the_frame_on_a_small_stack(text, offset, tmp_path):
    "It is where the processor pushed it: base and lower half of ESP, round the corner after the last word."
    recording = check_life(assemble(text), tmp_path/'it.lgt')
    trap, = recording.of_kind('direct trap').tolist()
    assert recording.arguments(trap)['esp'] == 0xC0000000 + offset
    eip, cs, flags = [new for what, _, _, new in recording.changes_of(trap) if what == 'frame']
    assert (eip, cs) == (recording.arguments(trap)['eip'], 0x61) and flags & 2 and eip >> 20 == 0xC01


@settings(max_examples=max(EXAMPLES // 5, 20), deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(deeds, kinds, st.booleans(), st.sampled_from([100, 1000]), st.integers(0, 3))
def test_hostile_guests_on_tape(tmp_path_factory, deeds, kinds, initialised, slice, seed):
    signal.alarm(SECONDS)
    check_life(image(deeds, kinds, initialised), tmp_path_factory.getbasetemp()/'hostile.lgt', slice=slice, seed=seed)


class Endless(Exception): "A Guest that does not come back; this test needs one that does."


def patient(machine, most=20):
    "Give up a Guest that runs for so many slices of its clock without coming back: a film has a frame for each of its instructions."
    ran, since = machine.clock.ran, [0, 0]
    def counted(instructions):
        since[:] = (machine.switch, since[1] + 1) if since[0] == machine.switch else (machine.switch, 0)
        if since[1] > most: raise Endless
        ran(instructions)
    machine.clock.ran = counted


@settings(max_examples=max(EXAMPLES // 20, 10), deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(deeds, kinds)
def test_hostile_guests_on_film(deeds, kinds):
    "A film looks at more than a recording: code, stacks, every instruction of a stay. It sees what happens without it."
    signal.alarm(SECONDS)
    try:
        with TimeMachine(image(deeds, kinds, True), mem=MEM, slice=1000) as machine:
            patient(machine)
            with Recorder(machine.lg) as tape: machine.run_to(60)
            plain, end = develop(tape), machine.switch
            film = film_life(machine, until=60, stays=range(max(end - 3, 0), end))
            assert film.recording.events['kind'].tolist() == plain.events['kind'].tolist() and machine.lg.dead == plain.meta['dead']
            reel(film)
    except Endless: assume(False)


def test_a_full_tape_takes_itself_out(monkeypatch, tmp_path):
    "The Guest goes on; the recording ends earlier, and can be read."
    monkeypatch.setattr(trace, '_NEARLY', 50_000)
    said = []
    with TimeMachine(args='ticks=20 quiet hz=1000', mem='4M') as machine:
        machine.launcher.warn = said.append
        with Recorder(machine.lg) as tape: machine.run_to(1 << 32)
        recording, lived = develop(tape, machine.launcher), machine.switch
    with TimeMachine(args='ticks=20 quiet hz=1000', mem='4M') as machine:
        machine.run_to(1 << 32)
        assert machine.switch == lived
    assert len(said) == 1 and 'is full' in said[0] and len(recording.of_kind('kill')) == 0
    assert recording.events.nbytes + recording.changes.nbytes + len(recording.data) < 60_000
    recording.save(tmp_path/'it.lgt')
    assert load(tmp_path/'it.lgt').hash() == recording.hash()


def test_what_the_shell_gave_us_may_be_no_text(tmp_path):
    "Arguments and file names are bytes; a recording has them as text that can be written."
    made = record(args=os.fsdecode(b'caf\xe9'), mem='4M', until=5)
    assert made.meta['args'] == 'caf�'
    made.save(tmp_path/'it.lgt')
    export(load(tmp_path/'it.lgt'), 'perfetto')
    view(tmp_path/'it.lgt', show=False)


# --- files that lie ---------------------------------------------------------------------------------------------------

def repacked(file, change={}, method=zipfile.ZIP_DEFLATED, twice=()):
    "The file with members replaced, or left out (None), or put in twice."
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(file)) as source, zipfile.ZipFile(out, 'w') as archive:
        for name in source.namelist():
            data = change.get(name, source.read(name))
            for _ in range(1 + (name in twice)):
                if data is not None: archive.writestr(zipfile.ZipInfo(name), data, method)
    return out.getvalue()


def facts(file, **change):
    "The file with other facts in its `meta`; None leaves one out."
    header = json.loads(zipfile.ZipFile(io.BytesIO(file)).read('header.json'))
    header['meta'] = {name: fact for name, fact in (header['meta'] | change).items() if fact is not None}
    return repacked(file, {'header.json': json.dumps(header)})


def header(file, **change):
    return repacked(file, {'header.json': json.dumps(json.loads(zipfile.ZipFile(io.BytesIO(file)).read('header.json')) | change)})


def npy(count, kind, body, **more):
    "A column that says it has so many numbers of such a kind."
    text = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': ({count},), }}" if not more else more['text']
    return b'\x93NUMPY\1\0' + (118).to_bytes(2, 'little') + text.ljust(117).encode() + b'\n' + body


def patched(file, name, at, data, central=True):
    "The file with bytes in the header of a member replaced: the central one, or the local."
    data, out, info = bytes(data), bytearray(file), zipfile.ZipFile(io.BytesIO(file)).getinfo(name)
    where = out.rindex(b'PK\1\2', 0, out.rindex(name.encode())) if central else info.header_offset
    out[where + at:where + at + len(data)] = data
    return bytes(out)


def bomb(file, size=600 << 20):
    "A megabyte that says, and is true to it, that it has six hundred."
    out, piece = io.BytesIO(), bytes(1 << 20)
    with zipfile.ZipFile(io.BytesIO(file)) as source, zipfile.ZipFile(out, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in source.namelist():
            if name != 'data.npy': archive.writestr(name, source.read(name))
        with archive.open('data.npy', 'w') as member:
            member.write(npy(size, '|u1', b''))
            for _ in range(size >> 20): member.write(piece)
    return out.getvalue()


def liar(file):
    "A member that says it has as many bytes as before, and has a hundred million more."
    data = zipfile.ZipFile(io.BytesIO(file)).read('data.npy')
    whole = repacked(file, {'data.npy': data + bytes(100 << 20)})
    return patched(whole, 'data.npy', 24, len(data).to_bytes(4, 'little'))


def column(file, name, change):
    "The file with one column's numbers changed."
    with zipfile.ZipFile(io.BytesIO(file)) as source: numbers = np.load(io.BytesIO(source.read(f'{name}.npy')))
    out = io.BytesIO()
    np.save(out, change(numbers.copy()))
    return repacked(file, {f'{name}.npy': out.getvalue()})


def with_first(kind, /, **fields):
    "The file whose first event of a kind has other fields."
    def made(file):
        with zipfile.ZipFile(io.BytesIO(file)) as source: n = np.load(io.BytesIO(source.read('events/kind.npy'))).tolist().index(NUMBER[kind])
        for name, value in fields.items():
            def change(numbers, value=value):
                numbers[n] = value
                return numbers
            file = column(file, f'events/{name}', change)
        return file
    return made


def long_text(file):
    "A thousand events that are all about one and the same text."
    def same(numbers, value):
        numbers[100:] = value
        return numbers
    for name, value in ('kind', NUMBER['console']), ('a', 0), ('b', 20): file = column(file, f'events/{name}', lambda numbers: same(numbers, value))
    return file


LIES = {
    'a bomb': (bomb, 'when unpacked'),
    'a member that unpacks to more': (liar, 'data.npy'),
    'a shape of a million million': (lambda f: repacked(f, {'data.npy': npy(10**12, '|u1', b'x')}), 'data.npy is no column'),
    'a shape of three thousand million': (lambda f: repacked(f, {'data.npy': npy(3 << 30, '|u1', b'x')}), '3,221,225,472 numbers'),
    'objects': (lambda f: repacked(f, {'data.npy': npy(4, '|O', b'\x80\x04cos\nsystem\n(S"touch PWNED"\ntR.')}), 'data.npy is no column'),
    'floating point': (lambda f: repacked(f, {'data.npy': npy(4, '<f8', bytes(32))}), 'data.npy is no column'),
    'big-endian': (lambda f: repacked(f, {'events/a.npy': npy(0, '>u4', b'')}), 'events/a.npy is no column'),
    'a program for a header': (lambda f: repacked(f, {'data.npy': npy(0, '', b'', text='[' * 100)}), 'data.npy is no column'),
    'two dimensions': (lambda f: repacked(f, {'data.npy': npy('2, 2', '|u1', bytes(4))}), 'data.npy is no column'),
    'a negative shape': (lambda f: repacked(f, {'data.npy': npy(-1, '|u1', b'')}), 'data.npy is no column'),
    'deep JSON': (lambda f: repacked(f, {'header.json': b'[' * 200_000}), 'header.json'),
    'nearly as deep': (lambda f: repacked(f, {'header.json': b'[' * 9000}), 'header.json'),
    'wide JSON': (lambda f: repacked(f, {'header.json': b'[' + b'{},' * 1_000_000}), 'header.json'),
    'long JSON': (lambda f: repacked(f, {'header.json': b'"' + b'x' * (9 << 20) + b'"'}), 'header.json has 9,437,186 bytes'),
    'a huge number': (lambda f: repacked(f, {'header.json': b'{"version":' + b'9' * 10000 + b'}'}), 'header.json'),
    'UTF-16': (lambda f: repacked(f, {'header.json': b'\xff\xfe\x00\xd8'}), 'header.json'),
    'half a character': (lambda f: facts(f, image='\ud800'), 'header.json'),
    'not a number': (lambda f: facts(f, seed=float('nan')), 'header.json'),
    'infinity': (lambda f: facts(f, seed=float('inf')), 'header.json'),
    'a list': (lambda f: repacked(f, {'header.json': '[]'}), 'header.json'),
    'null': (lambda f: repacked(f, {'header.json': 'null'}), 'header.json'),
    'LZMA': (lambda f: repacked(f, method=zipfile.ZIP_LZMA), 'method 14'),
    'BZIP2': (lambda f: repacked(f, method=zipfile.ZIP_BZIP2), 'method 12'),
    'unknown packing': (lambda f: patched(f, 'data.npy', 10, [99, 0]), 'method 99'),
    'encrypted': (lambda f: patched(f, 'data.npy', 8, [1, 0]), 'encrypted'),
    'other names inside': (lambda f: patched(f, 'data.npy', 30, b'DATA', central=False), 'data.npy'),
    'twice': (lambda f: repacked(f, twice=['data.npy']), 'data.npy is in it 2 times'),
    'two headers': (lambda f: repacked(f, twice=['header.json']), 'header.json is in it 2 times'),
    'missing': (lambda f: repacked(f, {'changes/old.npy': None}), 'changes/old.npy is in it 0 times'),
    'a large directory': (lambda f: f[:-12] + b'\xff\xff' + f[-10:], 'more than 64 members'),
    'a second directory': (lambda f: f[:-22] + b'PK\6\7' + bytes(16) + f[-22:], 'not a recording'),
    'the older half': (lambda f: f[:len(f) // 2], 'only the beginning'),
    'memory x': (lambda f: facts(f, memory='x'), "memory cannot be 'x'"),
    'memory -1': (lambda f: facts(f, memory=-1), "memory cannot be '-1'"),
    'memory true': (lambda f: facts(f, memory=True), 'memory'),
    'memory 1e999': (lambda f: facts(f, memory=10**300), 'memory'),
    'no memory': (lambda f: facts(f, memory=None), 'does not say what memory is'),
    'no page_offset': (lambda f: facts(f, page_offset=None), 'does not say what page_offset is'),
    'image 7': (lambda f: facts(f, image=7), 'image'),
    'image []': (lambda f: facts(f, image=[]), 'image'),
    'sha256': (lambda f: facts(f, sha256=0), 'sha256'),
    'symbols true': (lambda f: facts(f, symbols=True), 'symbols'),
    'symbols true inside': (lambda f: facts(f, symbols={'a': True}), 'symbols'),
    'symbols 1.5': (lambda f: facts(f, symbols={'a': 1.5}), 'symbols'),
    'symbols -1': (lambda f: facts(f, symbols={'a': -1}), 'symbols'),
    'symbols of text': (lambda f: facts(f, symbols={'a': 'x', 'b': 2}), 'symbols'),
    'symbols [[]]': (lambda f: facts(f, symbols=[['a', 1]]), 'symbols'),
    **{f'symbols {name!r}': (lambda f, name=name: facts(f, symbols=name), 'symbols') for name in ('/etc/passwd', '/usr/bin/env', '/dev/zero', '/dev/stdin', 'first', 0, '')},
    'a source': (with_first('pending', a=3), 'source'),
    'a source far away': (with_first('pending', a=0xFFFFFFFF), 'source'),
    'text behind the end': (with_first('console', a=0xFFFFFFFF, b=0xFFFFFFFF), 'text that is not there'),
    'one text for all': (long_text, 'text that is not there'),
    'a time after the end of time': (lambda f: column(f, 'events/time', lambda t: t + np.uint64(1 << 63)), 'time'),
    'a kind': (with_first('start', kind=255), 'does not exist'),
    'a track': (with_first('start', track=4), 'does not exist'),
    'a what': (lambda f: column(f, 'changes/what', lambda w: w + np.uint8(100)), 'does not exist'),
    'version 0': (lambda f: header(f, version=0), "version '0', and we read version 1"),
    'version 2': (lambda f: header(f, version=2), "version '2', and we read version 1"),
    'version true': (lambda f: header(f, version='1'), 'version 1'),
    'version of many lines': (lambda f: header(f, version='\n' * 1000), 'version'),
    'version []': (lambda f: header(f, version=[]), 'version'),
    'no version': (lambda f: header(f, version=None), 'version'),
    'another format': (lambda f: header(f, format='diary'), 'not a recording'),
    'more kinds than ours': (lambda f: header(f, kinds=[*KINDS, 'dream']), 'kinds'),
    'no kinds': (lambda f: header(f, kinds=[]), 'kinds'),
    'kinds 7': (lambda f: header(f, kinds=7), 'kinds'),
    'no facts': (lambda f: header(f, meta=None), 'nothing about the run')}
COMMANDS = {'view': ['view', '--no-open'], 'perfetto': ['trace', '--to', 'perfetto'], 'csv': ['trace', '--to', 'csv'],
            'parquet': ['trace', '--to', 'parquet', '--changes']}


def refused(capsys, argv, *words):
    "One line, exit code 2."
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == '' and err.startswith('lguest: ') and err.count('\n') == 1 and len(err) < 500, err
    assert all(word in err for word in words), err


@pytest.mark.parametrize('name', LIES)
def test_a_lie_gets_one_line(name, file, tmp_path, capsys):
    "By every command, and from the functions one kind of error. Nothing is written."
    make, why = LIES[name]
    (tmp_path/'a.lgt').write_bytes(make(file))
    with pytest.raises(TraceError) as said: load(tmp_path/'a.lgt')
    assert str(said.value).count('\n') == 0 and isinstance(said.value, ValueError)
    for argv in COMMANDS.values(): refused(capsys, [*argv, '-o', str(tmp_path/'out'), str(tmp_path/'a.lgt')], 'a.lgt', why)
    assert os.listdir(tmp_path) == ['a.lgt'] and not os.path.exists('PWNED')


MEASURE = '''import re, sys, time
from lguest_lit.cli import main
def peak(): return int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) >> 10
base, began = peak(), time.process_time()
code = main(sys.argv[1:])
print(code, peak() - base, time.process_time() - began)'''


def measured(argv):
    "Exit code, megabytes over the base, seconds of the processor."
    if not os.path.exists('/proc/self/status'): pytest.skip('nobody here says how much memory it took')
    done = subprocess.run([sys.executable, '-c', MEASURE, *map(str, argv)], capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL)
    code, megabytes, seconds = done.stdout.split()[-3:]         # behind what the command says
    return int(code), int(megabytes), float(seconds)


@pytest.mark.parametrize('make', [bomb, liar, LIES['long JSON'][0], LIES['wide JSON'][0]], ids='bomb liar long wide'.split())
@pytest.mark.parametrize('command', ['view', 'csv'])
def test_a_lie_costs_little(make, command, file, tmp_path):
    (tmp_path/'a.lgt').write_bytes(make(file))
    code, megabytes, seconds = measured([*COMMANDS[command], '-o', tmp_path/'out', tmp_path/'a.lgt'])
    assert code == 2 and megabytes < 100 and seconds < 10


def test_long_but_true(recording, tmp_path, capsys, monkeypatch):
    "What would be too long for a browser is told so; CSV takes any length, and never has it all at once."
    monkeypatch.setattr(timeline, 'SAID', 10)
    recording.save(tmp_path/'a.lgt')
    refused(capsys, ['view', '--no-open', str(tmp_path/'a.lgt')], 'too long for a page')
    monkeypatch.setattr(trace, 'PERFETTO', 100)
    refused(capsys, ['trace', '--to', 'perfetto', str(tmp_path/'a.lgt')], 'too many for Perfetto')
    assert os.listdir(tmp_path) == ['a.lgt']
    n = 600_000
    events, changes = np.zeros(n, EVENT), np.zeros(0, CHANGE)
    events['kind'] = NUMBER['flush']
    Recording(events, changes, b'', recording.meta).save(tmp_path/'long.lgt')
    code, megabytes, _ = measured(['trace', '--to', 'csv', '-o', tmp_path/'long.csv', tmp_path/'long.lgt'])
    size = os.path.getsize(tmp_path/'long.csv') >> 20
    assert code == 0 and size >= 25 and megabytes < 25 + 2 * (events.nbytes >> 20), 'the numbers, a column, and a piece of text'


def test_a_recording_of_an_earlier_version_is_read(file, tmp_path):
    "One whose last kinds we have invented since, and which says less about the run."
    made = record(args='ticks=4 quiet hz=1000', mem='4M', until=30)
    head = json.loads(zipfile.ZipFile(io.BytesIO(to_bytes(made))).read('header.json'))
    for name in 'made_by', 'slice', 'insn_ns': del head['meta'][name]
    (tmp_path/'a.lgt').write_bytes(repacked(to_bytes(made), {'header.json': json.dumps(head | dict(kinds=list(KINDS)[:-1]))}))
    again = load(tmp_path/'a.lgt')
    assert (again.events == made.events).all() and Timeline(again).page()
    with pytest.raises(TraceError, match='earlier version'): live_again(again)


# --- any damage -------------------------------------------------------------------------------------------------------

def loads_or_not(data, path, original):
    "It loads, and then everything can be done with it, or there is one kind of error, in one line."
    began = time.monotonic()
    path.write_bytes(data)
    try: found = load(path)
    except TraceError as e: assert '\n' not in str(e) and path.name in str(e)
    else:
        for to in 'perfetto', 'csv':
            for piece in trace.exported(found, to): pass
        reel(found)
        with contextlib.suppress(TraceError): live_again(found).close()
    assert time.monotonic() - began < 30


spans = st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8))


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(spans, min_size=1, max_size=4), st.floats(0, 1), st.sampled_from(['spoil', 'cut', 'double', 'insert']))
def test_damage_to_the_file(tmp_path_factory, file, recording, spoils, cut, how):
    signal.alarm(SECONDS)
    data = bytearray(file)
    for at, new in spoils:
        at = int(at * len(data))
        if how == 'insert': data[at:at] = new
        else: data[at:at + len(new)] = new
    if how == 'cut': data = data[:int(cut * len(data))]
    if how == 'double': data = data[:int(cut * len(data))] + file
    loads_or_not(bytes(data), tmp_path_factory.getbasetemp()/'damaged.lgt', recording)


def damaged_member(data, how, at, new):
    at = int(at * len(data))
    if how == 'cut': return data[:at]
    if how == 'insert': return data[:at] + new + data[at:]
    return data[:at] + new + data[at + len(new):]


NAMES = ['header.json', 'data.npy'] + [f'events/{name}.npy' for name in EVENT.names] + [f'changes/{name}.npy' for name in CHANGE.names]
json_values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8), lambda inner:
    st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=5)


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(['spoil', 'spoil', 'cut', 'insert', 'swap', 'none']), st.floats(0, 1),
                          st.binary(min_size=1, max_size=8), st.sampled_from(NAMES)), min_size=1, max_size=3))
def test_damage_to_members(tmp_path_factory, file, recording, damages):
    "The archive is whole, and what is in it is not."
    signal.alarm(SECONDS)
    with zipfile.ZipFile(io.BytesIO(file)) as source: members = {name: source.read(name) for name in NAMES}
    changed = {name: members[other] if how == 'swap' else None if how == 'none' else damaged_member(members[name], how, at, new)
               for name, how, at, new, other in damages}
    loads_or_not(repacked(file, changed), tmp_path_factory.getbasetemp()/'damaged.lgt', recording)


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_damage_to_facts_and_numbers(tmp_path_factory, file, recording, data):
    "JSON that is JSON, columns that are columns, with any values."
    signal.alarm(SECONDS)
    if data.draw(st.booleans()):
        name = data.draw(st.sampled_from([*recording.meta, 'new']))
        made = facts(file, **{name: data.draw(json_values)})
    else:
        table, dtype = data.draw(st.sampled_from([('events', EVENT), ('changes', CHANGE)]))
        name, places = data.draw(st.sampled_from(dtype.names)), data.draw(st.lists(st.floats(0, 1), min_size=1, max_size=5))
        value = data.draw(st.integers(0, (1 << 8 * dtype[name].itemsize) - 1) | st.integers(0, 40))
        def change(numbers):
            for place in places: numbers[int(place * (len(numbers) - 1))] = value
            return numbers
        made = column(file, f'{table}/{name}', change)
    loads_or_not(made, tmp_path_factory.getbasetemp()/'damaged.lgt', recording)


# --- names open nothing -----------------------------------------------------------------------------------------------

OPENED = []
sys.addaudithook(lambda event, args: OPENED.append(str(args[0])) if event == 'open' else None)


@pytest.mark.parametrize('name', ['/etc/passwd', '/dev/stdin', '../../x', 'process', 'switcher', 'first'])
def test_an_image_that_is_named_opens_no_file(name, file, tmp_path):
    "Built-in images are only looked into when name and fingerprint are theirs."
    (tmp_path/'a.lgt').write_bytes(facts(file, image=name, sha256='0' * 64))
    OPENED.clear()
    view(tmp_path/'a.lgt', show=False)
    ours = {str(tmp_path/'a.lgt'), str(tmp_path/'a.html.part'), str(image_path('first'))}
    strange = [path for path in OPENED if path not in ours and 'lguest_lit' not in path]
    assert not strange and reel(load(tmp_path/'a.lgt'))['code']['lines'] == []
    with pytest.raises(TraceError, match='not at hand|another'): live_again(load(tmp_path/'a.lgt'))


def test_a_pipe_is_no_recording(tmp_path, capsys):
    "Whoever opened it would wait for somebody to write."
    os.mkfifo(tmp_path/'a.lgt')
    for path in tmp_path/'a.lgt', '/dev/zero', '/dev/null', tmp_path: refused(capsys, ['view', '--no-open', str(path)], str(path))


EVIL = '<img src=x onerror=alert(1)></script><script>alert(2)</script><!--<script>'


def test_names_in_a_recording_are_only_text(file, tmp_path):
    (tmp_path/'a.lgt').write_bytes(facts(file, symbols={EVIL: 0xC0100000}, image=EVIL, args=EVIL, dead=EVIL))
    text = view(tmp_path/'a.lgt', show=False).read_text()
    assert '<img' not in text and text.count('<script') == text.count('</script') == 2 and '<!--' not in text


# --- live again -------------------------------------------------------------------------------------------------------

def test_a_recorded_life_can_be_lived_again(tmp_path):
    "From the file, with the same events and the same end; also with a small disk, and with clock and repairs of its own."
    disk = tmp_path/'disk'
    disk.write_bytes(b'x' * 100)
    for more in dict(), dict(initrd=disk), dict(slice=500, insn_ns=100, seed=7):
        record(args='ticks=4 quiet hz=1000', mem='4M', **more).save(tmp_path/'a.lgt')
        made = load(tmp_path/'a.lgt')
        with live_again(made, initrd=more.get('initrd')) as machine:
            with Recorder(machine.lg) as tape: machine.run_to(1 << 32)
            events, changes = trace.arrays(tape)
        assert (events == made.events).all() and (changes == made.changes).all() and bytes(tape.data) == made.data


def test_a_life_of_ones_own_image(tmp_path):
    image = says(b'hello\n', b'Power down')
    record(image, mem='4M').save(tmp_path/'a.lgt')
    made = load(tmp_path/'a.lgt')
    with pytest.raises(TraceError, match='recorded with image, which is not at hand'): live_again(made)
    with pytest.raises(TraceError, match='another image than this one'): live_again(made, image_path('first'))
    with live_again(made, image) as machine:
        machine.run_to(1 << 32)
        assert machine.lg.dead == 'CRASH: Power down'


@pytest.mark.parametrize('change, why', [
    (dict(clock='wall'), 'under the wall clock'), (dict(clock=None), 'a clock that nobody noted'), (dict(slice=None), 'earlier version'),
    (dict(made_by='lguest_lit 0.0.1, Unicorn 1.0'), 'recorded by lguest_lit 0.0.1, Unicorn 1.0, and we are'), (dict(sha256='0'), 'another first'),
    (dict(fixes={}), 'a repair that we do not know'), (dict(initrd='0'), 'an initrd, which is not at hand'), (dict(memory=1), 'cannot be started'),
    (dict(image='/etc/passwd'), '/etc/passwd, which is not at hand')])
def test_others_say_why_they_cannot(recording, change, why):
    meta = {name: fact for name, fact in (recording.meta | change).items() if fact is not None}
    with pytest.raises(TraceError, match=why) as said: live_again(Recording(recording.events, recording.changes, recording.data, meta))
    assert '\n' not in str(said.value)


def test_a_life_that_lguest_run_has_recorded_says_that_its_clock_was_the_walls(tmp_path, capsys):
    (tmp_path/'g.elf').write_bytes(says(b'hi\n', b'Power down'))
    assert main(['run', '--trace', str(tmp_path/'a.lgt'), str(tmp_path/'g.elf')]) == 0
    with pytest.raises(TraceError, match='wall clock'): live_again(load(tmp_path/'a.lgt'))
