"Recordings: what they say against what the machine itself says, by other ways than the tape's."
import errno
import io
import json
import random
import sys
import time
import zipfile

import numpy as np
import pytest
from guests import dma
from hypothesis import HealthCheck, given, settings, strategies as st
from invariants import Puppet
from test_invariants import Story, actions, prepare
from test_several_guests import OwnTime, serve

from lguest_lit.host import core
from lguest_lit.launcher import launcher
from lguest_lit.host.clock import VirtualClock
from lguest_lit.host.host import Host
from lguest_lit.launcher.launcher import Launcher
from lguest_lit.host.lg import GDT_ENTRIES, SYSCALL_VECTOR, LauncherMemory
from lguest_lit.watch.rewind import TimeMachine
from lguest_lit.watch.trace import (EVENT, NUMBER, REGISTERS, WHAT, Recorder, Recording, TraceError, changes_frame,
                              chrome_trace, details, develop, export, load, record, registers_at, shadow_at, spread, thrown_away, to_bytes)
from lguest_lit.launcher.workbench import OneTurn, Workbench

LIFE = dict(args='ticks=40 quiet hz=1000', mem='4M')


@pytest.fixture(scope='module')
def recording(): return record(**LIFE)


@pytest.fixture(scope='module')
def machine():
    with TimeMachine(every=60, **LIFE) as machine:
        machine.run_to(1 << 30)
        yield machine


def registers(lg): return {name: getattr(lg.regs, name) for name in REGISTERS}


def plain(tables):
    "Shadow tables without the two bits that the processor sets by itself: accessed, and dirty."
    return [{where: entry & ~0x60 for where, entry in table.items()} for table in tables]


def shadows(lg):
    "The shadow tables as they lie in memory, in the form of `shadow_at`."
    u32, upper, lower = lg.mem.u32, {}, {}
    for slot, pgdir in enumerate(lg.pgdirs):
        if pgdir.pgdir is None: continue
        for index, spgd in enumerate(u32[pgdir.base:pgdir.base + 1024].tolist()):
            if spgd: upper[slot, index] = spgd
            if spgd and index < 1023:
                table = u32[spgd >> 12 << 10:(spgd >> 12) + 1 << 10].tolist()
                lower.update({(slot, index << 22 | i << 12): spte for i, spte in enumerate(table) if spte})
    return plain((upper, lower))


def when_it_stops(recording, switch):
    "The event after which a TimeMachine stops at this switch: it looks for its signal before it looks for interrupts."
    mine = recording.at(switch)
    for n in mine:
        if recording.kind(n) in ('pending', 'interrupt', 'sleep', 'enter'): return n - 1
    return mine[-1]


# --- the machine says the same ------------------------------------------------------------------------------------------

def test_registers_and_shadow_tables_at_a_switch_are_the_machines(recording, machine):
    end = int(recording.events['switch'][-1])
    assert end == machine.points[-1][0] or machine.goto(1 << 30).switch == end
    for switch in [1, 2, 3, *range(5, end, 17), end]:
        machine.goto(switch)
        n = when_it_stops(recording, switch)
        assert registers_at(recording, n) == registers(machine.lg), switch
        assert plain(shadow_at(recording, n)) == shadows(machine.lg), switch


class Notes:
    "What goes in and what comes out of each stay, noted without a tape; and which words the Host has changed in between."
    def __init__(self, monkeypatch, lg):
        self.lg, self.inside, self.outside, self.written = lg, [], [], []
        self.ram, self.before = np.frombuffer(lg.mm.ram, '<u4'), None
        real = core.run_guest_once
        def once(lg, pages):
            self.host_is_done()
            self.inside.append(registers(lg) | dict(trapnum=256))
            real(lg, pages)
            self.outside.append(registers(lg))
            self.before = self.ram.copy()
        monkeypatch.setattr(core, 'run_guest_once', once)
        self.before = self.ram.copy()

    def host_is_done(self):
        changed = np.flatnonzero(self.ram != self.before)
        self.written.append({int(i) * 4: int(self.ram[i]) for i in changed})


@pytest.fixture(scope='module')
def noted():
    with TimeMachine(every=1 << 32, **LIFE) as machine:
        with pytest.MonkeyPatch.context() as monkeypatch, Recorder(machine.lg) as tape:
            notes = Notes(monkeypatch, machine.lg)
            machine.run_to(1 << 30)
        yield notes, develop(tape)


def test_registers_at_every_door(noted):
    notes, recording = noted
    page = dict.fromkeys(REGISTERS, 0)
    seen = dict(enter=iter(notes.inside), leave=iter(notes.outside))
    for n in range(len(recording)):
        for what, where, old, new in recording.changes_of(n):
            if what != 'register': continue
            assert page[where] == old != new
            page[where] = new
        if recording.kind(n) in seen: assert page == next(seen[recording.kind(n)])
    assert all(next(rest, None) is None for rest in seen.values())


def test_every_word_that_the_host_has_written(noted):
    notes, recording = noted
    changes = recording.changes[recording.changes['what'] == WHAT['memory']]
    switches = recording.events['switch'][recording.owner[recording.changes['what'] == WHAT['memory']]]
    for switch, words in enumerate(notes.written):
        mine = changes[switches == switch]
        final = dict(zip(mine['where'].tolist(), mine['new'].tolist()))
        first = {where: old for where, old in reversed(list(zip(mine['where'].tolist(), mine['old'].tolist())))}
        assert words == {where: new for where, new in final.items() if new != first[where]}, switch


def test_everything_that_is_counted_is_recorded(noted):
    notes, recording = noted
    stats, events = notes.lg.stats, recording.events
    def count(kind, code=None): return int(((events['kind'] == NUMBER[kind]) & (True if code is None else events['code'] == code)).sum())
    assert count('enter') == count('leave') == stats.world_switches
    for vector, n in enumerate(stats.traps): assert count('leave', vector) == n
    assert {v: count('direct trap', v) for v in stats.direct_traps} == stats.direct_traps and count('direct trap') == sum(stats.direct)
    for kind, counts in ('hypercall', stats.hypercalls_sync), ('ring hypercall', stats.hypercalls_async), ('interrupt', stats.interrupts):
        assert {code: count(kind, code) for code in counts} == counts and count(kind) == sum(counts.values())
    faults = events[events['kind'] == NUMBER['demand_page']]['c']
    assert (int(faults.sum()), int((faults == 0).sum())) == (stats.demand_fixed, stats.demand_reflected)


def test_tables_at_the_end(noted):
    notes, recording = noted
    lg, tables = notes.lg, dict(gdt=[0] * 2 * GDT_ENTRIES, idt=[0] * 2 * (SYSCALL_VECTOR + 1))
    slots, current = {}, 0
    for n in range(len(recording)):
        for change in recording.changes[recording.span(n)].tolist():
            what, where, old, new = change
            for name, table in tables.items():
                if what != WHAT[name]: continue
                assert table[where] == old
                table[where] = new
            if what == WHAT['cr3']: slots[where] = new
            if what == WHAT['slot']: current = new
    assert tables['gdt'] == [word for pair in zip(lg.gdt_a, lg.gdt_b) for word in pair]
    assert tables['idt'][:128] == [word for pair in zip(lg.idt_a, lg.idt_b) for word in pair] and tables['idt'][256:] == [*lg.syscall_idt]
    assert slots == {n: p.cr3 for n, p in enumerate(lg.pgdirs) if p.pgdir is not None} and current == lg.pgdidx


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(actions)
def test_shadow_tables_of_a_guest_that_does_everything(story):
    "Played from the beginning, the changes make the tables that are there at the end."
    with Host(memory=5 << 20, clock=VirtualClock()) as host:
        puppet = Puppet(host, prepare)
        puppet.do([])
        told = Story(puppet)
        told.turn = lambda: None                              # there is no other Guest here
        with Recorder(puppet.lg) as tape:
            for action in story: getattr(told, action[0])(*action[1:])
            told.run()
        recording = develop(tape)
        assert puppet.lg.dead is None and plain(shadow_at(recording, len(recording) - 1)) == shadows(puppet.lg)
        for vaddr in {vaddr for _, vaddr in shadow_at(recording, 0)[1]}: deaths_agree(recording, vaddr)
        puppet.close()


def deaths_agree(recording, vaddr):
    "thrown_away against a look at the whole table after every event."
    died, before = [], set()
    for n in range(len(recording)):
        now = {slot for slot, at in shadow_at(recording, n)[1] if at == vaddr}
        died += [n] * len(before - now)
        before = now
    assert thrown_away(recording, vaddr) == died


# --- direct traps ---------------------------------------------------------------------------------------------------------

DIRECT = '''
    gate 3, handler, 0xF, 3
    movl $0x1234, %ebp
    int3
after:
    hcall LHCALL_FLUSH_ASYNC
    user somewhere
somewhere:
    int3
handler:
    movl (%esp), %esi
    movl 4(%esp), %edi
    cmpl $0x1234, %ebp
    jne 1f
    xorl %ebp, %ebp
    iret
1:  ud2
'''

def test_the_frame_of_a_direct_trap_is_what_the_handler_finds_on_its_stack():
    bench = Workbench(DIRECT)
    with Recorder(bench.lg) as tape: bench.turns()
    recording = develop(tape)
    inner, outer = recording.of_kind('direct trap')
    assert [recording.events['track'][n] for n in (inner, outer)] == [2, 3]       # from the kernel, from the user
    words = [{where: new for what, where, _, new in recording.changes_of(n)} for n in (inner, outer)]
    assert [len(frame) for frame in words] == [3, 5]
    esp = recording.arguments(inner)['esp']
    assert words[0][hex(esp)] == bench.at('after') == recording.arguments(inner)['eip']
    last = recording.arguments(outer)
    assert last['handler'] == bench.at('handler') and last['eip'] == bench.at('handler')      # int3 has one byte
    pushed = [bench.word(last['esp'] - 0xC0000000 + 4 * i) for i in range(5)]
    assert [words[1][hex(last['esp'] + 4 * i)] for i in range(5)] == pushed and pushed[1] == 0x73
    bench.close()


@pytest.mark.parametrize('top', range(0xFE8, 0x1018, 4))
def test_a_frame_across_two_pages(top):
    "Wherever the stack ends, the frame is what lies there."
    bench = Workbench(f"""
        gate 3, handler, 0xF, 3
        hcall LHCALL_SET_STACK, $KERNEL_DS, $0xC0301000, $2
        movl $0xC0300000, %esp
        movl $0, (%esp)
        movl $0xC0302000, %esp
        movl $0, -4(%esp)
        movl $0xC0300000 + {top}, %esp
        int3
        handler: hcall LHCALL_FLUSH_ASYNC""")
    with Recorder(bench.lg) as tape:
        while not tape.depths and bench.dead is None: bench.turn()
    recording = develop(tape)
    trap, = recording.of_kind('direct trap')
    frame = {int(where, 16): new for what, where, _, new in recording.changes_of(trap)}
    assert sorted(frame) == [0xC0300000 + top - 12 + 4 * i for i in range(3)]
    assert list(frame.values()) == [bench.word(at - 0xC0000000) for at in frame] and bench.at('handler') in frame.values()
    bench.close()


# --- the same again ------------------------------------------------------------------------------------------------------

def test_three_runs_with_one_seed_are_one_recording(recording):
    assert {record(**LIFE).hash() for _ in range(2)} == {recording.hash()}
    assert record(args='ticks=41 quiet hz=1000', mem='4M').hash() != recording.hash()


def test_a_tape_changes_nothing(machine):
    machine.goto(1 << 30)
    with TimeMachine(every=1 << 32, **LIFE) as other:
        with Recorder(other.lg): other.run_to(1 << 30)
        assert other.lg.tape is None and other.host.cpu.heard is None
        assert other.hash() == machine.hash()


def test_a_tape_put_in_late_knows_the_past(recording, machine):
    machine.goto(200)
    with Recorder(machine.lg) as tape: machine.run_to(250)
    late = develop(tape)
    assert (late.events['switch'][0], late.events['switch'][-1]) == (200, 250)
    for switch in 201, 225, 249:
        mine, all_of_it = when_it_stops(late, switch), when_it_stops(recording, switch)
        assert registers_at(late, mine) == registers_at(recording, all_of_it)
        assert shadow_at(late, mine) == shadow_at(recording, all_of_it)


def test_one_tape_at_a_time():
    bench = Workbench('nop')
    with Recorder(bench.lg):
        with pytest.raises(ValueError, match='already'), Recorder(bench.lg): pass
    bench.close()


def test_a_kill_is_the_last_event(recording):
    n = len(recording) - 1
    assert recording.kind(n) == 'kill' and recording.text(n) == 'CRASH: Power down' == recording.meta['dead']
    assert recording.kind(n - 1) == 'hypercall'


# --- what the first Guest does not do -----------------------------------------------------------------------------------

def test_an_emulated_instruction_is_its_change_of_registers():
    bench = Workbench('in $0x71, %al\n' * 2, eax=0x12340000)
    with Recorder(bench.lg) as tape: bench.turns(2)
    recording = develop(tape)
    first, _ = recording.of_kind('emulate')
    assert recording.events['code'][first] == 0xE4
    assert recording.changes_of(first) == [('register', 'eax', 0x12340000, 0x1234FFFF), ('register', 'eip', bench.at('main'), bench.at('main') + 2)]
    bench.close()


def test_what_is_typed_is_recorded_with_the_words_that_it_becomes():
    keys, at = b'hi', 0x300000
    bench = Workbench(f'hcall LHCALL_BIND_DMA, $0, ${at:#x}, $(1 << 8 | 4)\nhcall LHCALL_HALT')
    bench.put(at, dma((at + 0x100, 8)))
    with Recorder(bench.lg) as tape:
        bench.turns(1)
        bench.typed.append(keys)
        bench.handle_input()
    recording = develop(tape)
    bound, typed, pending = recording.of_kind('bind_dma', 'typed', 'pending')
    assert recording.arguments(bound) == dict(key=0, dma=at, number=1) and recording.events['code'][bound] == 4
    assert recording.text(typed) == 'hi' and details(recording, typed) == "'hi'" and details(recording, pending) == 'Launcher'
    words = [(int(where, 16), new) for what, where, _, new in recording.changes_of(typed)]
    assert (at + 0x100, 0x6968) in words and words[-1] == (at, 2) and [bench.word(where) for where, _ in words[1:]] == [new for _, new in words[1:]]
    bench.close()


class Shared(LauncherMemory):
    "Page 0x300 is one that every Guest shares."
    def shared_key(self, addr): return ('file', addr & 0xFFF) if addr >> 12 == 0x300 else None


def test_a_send_between_guests_is_on_both_tapes(monkeypatch):
    monkeypatch.setattr(launcher, 'LauncherMemory', Shared)
    host = Host(memory=24 << 20, clock=OneTurn())
    receiver = Workbench('hcall LHCALL_BIND_DMA, $0x300000, $0x310000, $(1 << 8 | 5)\njmp .', host=host)
    sender = Workbench('hcall LHCALL_SEND_DMA, $0x300000, $0x310000\njmp .', host=host)
    receiver.put(0x310000, dma((0x320000, 8)))
    sender.put(0x310000, dma((0x320000, 5)))
    sender.put(0x320000, b'hello')
    with Recorder(receiver.lg) as heard, Recorder(sender.lg) as said:
        receiver.turns(1)
        host.signal_pending = True
        receiver.turn()
        sender.turns(1)
        host.signal_pending = True
        sender.turn()
        assert receiver.host.cpu.heard
    heard, said = develop(heard), develop(said)
    assert details(heard, heard.of_kind('pending')[0]) == 'DMA'
    assert said.arguments(said.of_kind('send_dma')[0]) == dict(key=0x300000, dma=0x310000)
    mine = {place: new for what, place, _, new in heard.changes_of(heard.of_kind('pending')[0] - 1) if what == 'memory'}
    assert mine['0x320000'] == int.from_bytes(b'hell', 'little') and mine['0x310000'] == 5
    for bench in receiver, sender: bench.close()
    host.close()


def test_two_guests_on_two_cpus_on_tape():
    "Each tape has its own Guest's life, wherever that was lived."
    rng = random.Random(2)
    with Host(memory=32 << 20, nr_cpus=2, clock=VirtualClock()) as host:
        guests = []
        for n in range(2):
            host.clock = clock = OwnTime(rng)
            clock.host = host
            guest = Launcher('first', args='ticks=30 quiet hz=1000', mem='4M', host=host)
            guests.append((guest, clock, Recorder(guest.file.lg).__enter__()))
        alive = list(guests)
        while alive:
            guest, host.clock, _ = one = rng.choice(alive)
            host.use_cpu(rng.randrange(2))
            if not serve(guest): alive.remove(one)
        for guest, _, tape in guests:
            tape.__exit__(None, None, None)
            lg, recording = guest.file.lg, develop(tape, guest)
            assert len(recording.of_kind('direct trap')) == sum(lg.stats.direct) > 5
            assert len(recording.of_kind('enter')) == lg.stats.world_switches
            assert plain(shadow_at(recording, len(recording) - 1)) == shadows(lg)
        assert not any(mine.cpu.heard for mine in host.percpu)
        for guest, *_ in guests: guest.close()


# --- the file ------------------------------------------------------------------------------------------------------------

def test_saved_and_loaded(recording, tmp_path):
    path = tmp_path/'it.lgt'
    recording.save(path)
    again = Recording.load(path)
    assert again.hash() == recording.hash() and again.meta == recording.meta and again.data == recording.data
    assert (again.events == recording.events).all() and (again.changes == recording.changes).all()
    assert again.frame().equals(recording.frame()) and to_bytes(again) == path.read_bytes()


def members(recording, **change):
    "The file, with members left out (None) or replaced."
    out, source = io.BytesIO(), zipfile.ZipFile(io.BytesIO(to_bytes(recording)))
    with zipfile.ZipFile(out, 'w') as archive:
        for name in source.namelist():
            data = change.get(name, source.read(name))
            if data is not None: archive.writestr(name, data)
    return out.getvalue()


def npy(values, dtype):
    out = io.BytesIO()
    np.save(out, np.array(values, dtype))
    return out.getvalue()


def header(recording, **change): return json.dumps(json.loads(zipfile.ZipFile(io.BytesIO(to_bytes(recording))).read('header.json')) | change)


BAD = {
    'empty': (lambda r: b'', 'not a recording'),
    'text': (lambda r: b'time,switch,kind\n', 'not a recording'),
    'cut': (lambda r: to_bytes(r)[:-1], 'only the beginning'),
    'half': (lambda r: to_bytes(r)[:5000], 'only the beginning'),
    'another zip': (lambda r: members(r, **{'header.json': None}), 'header.json'),
    'no JSON': (lambda r: members(r, **{'header.json': 'hello'}), 'header.json: Expecting value'),
    'another format': (lambda r: members(r, **{'header.json': header(r, format='diary')}), 'not a recording'),
    'version': (lambda r: members(r, **{'header.json': header(r, version=7)}), "version '7'"),
    'other kinds': (lambda r: members(r, **{'header.json': header(r, kinds=['enter'])}), 'kinds'),
    'no column': (lambda r: members(r, **{'events/kind.npy': None}), 'events/kind.npy'),
    'no array': (lambda r: members(r, **{'events/kind.npy': b'hello'}), 'events/kind.npy is no column'),
    'no header': (lambda r: members(r, **{'events/kind.npy': npy(r.events['kind'], 'u1').replace(b'}', b' ', 1)}), 'events/kind.npy is no column'),
    'as long as the world': (lambda r: members(r, **{'events/kind.npy': npy([], 'u1').replace(b'(0,), }           ', b'(1000000000000,), }')}), 'events/kind.npy'),
    'wrong type': (lambda r: members(r, **{'changes/old.npy': npy(r.changes['old'], '<u8')}), 'changes/old.npy'),
    'objects': (lambda r: members(r, **{'changes/old.npy': npy([[1], None], object)}), 'changes/old.npy is no column'),
    'short column': (lambda r: members(r, **{'changes/old.npy': npy(r.changes['old'][1:], '<u4')}), 'one length'),
    'no kind': (lambda r: members(r, **{'events/kind.npy': npy(r.events['kind'] | 0x80, 'u1')}), 'does not exist'),
    'no register': (lambda r: members(r, **{'changes/where.npy': npy(r.changes['where'] | 1 << 31, '<u4')}), 'register'),
    'first': (lambda r: members(r, **{'events/first.npy': npy(r.events['first'][::-1], '<u4')}), 'belong to no event'),
    'too many changes': (lambda r: members(r, **{'events/first.npy': npy(r.events['first'] * 1000, '<u4')}), 'belong to no event'),
    'no text': (lambda r: members(r, **{'data.npy': npy([], 'u1')}), 'text that is not there'),
    'backwards': (lambda r: members(r, **{'events/time.npy': npy(r.events['time'][::-1], '<u8')}), 'backwards'),
    'no events': (lambda r: members(r, **{f'events/{name}.npy': npy([], EVENT[name]) for name in EVENT.names}), 'no event')}


@pytest.mark.parametrize('name', BAD)
def test_a_file_that_is_no_recording_is_named_and_told_why(recording, tmp_path, name):
    make, why = BAD[name]
    path = tmp_path/'bad.lgt'
    path.write_bytes(make(recording))
    with pytest.raises(TraceError) as said: load(path)
    assert str(path) in str(said.value) and why in str(said.value), said.value


def test_no_file(tmp_path):
    with pytest.raises(TraceError, match='none.lgt: No such file'): load(tmp_path/'none.lgt')
    with pytest.raises(TraceError, match='Is a directory'): load(tmp_path)


@pytest.mark.slow
@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_spoilt_byte_is_noticed_or_harmless(recording, tmp_path, data):
    "One byte of the file is another: it is the same recording, or none."
    whole = to_bytes(recording)
    at = data.draw(st.integers(0, len(whole) - 1))
    (tmp_path/'it.lgt').write_bytes(whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1:])
    try: assert load(tmp_path/'it.lgt').hash() == recording.hash()
    except TraceError as e: assert 'it.lgt' in str(e)


class FullDisk(io.FileIO):
    "Takes a hundred bytes."
    def write(self, data): raise OSError(errno.ENOSPC, 'No space left on device')


def test_a_full_disk_takes_nothing_away(recording, tmp_path, monkeypatch):
    path = tmp_path/'it.lgt'
    path.write_bytes(b'what was there')
    monkeypatch.setattr('builtins.open', lambda name, mode: FullDisk(name, mode))
    with pytest.raises(TraceError, match='it.lgt: No space left'): recording.save(path)
    monkeypatch.undo()
    assert path.read_bytes() == b'what was there' and [p.name for p in tmp_path.iterdir()] == ['it.lgt']


# --- other programs ------------------------------------------------------------------------------------------------------

def validate(chrome):
    """The published rules of the Chrome trace format, for what we use of it: phases, required fields and their types, times that can be
    drawn, names before they are used, and slices of one thread that lie beside or within each other. Raises AssertionError."""
    assert set(chrome) <= {'traceEvents', 'displayTimeUnit', 'otherData'} and chrome['displayTimeUnit'] in ('ms', 'ns')
    named, threads = set(), {}
    for row in chrome['traceEvents']:
        assert isinstance(row['name'], str) and row['name'] and row['ph'] in 'MXi' and type(row['pid']) is type(row['tid']) is int
        assert isinstance(row.get('args', {}), dict)
        if row['ph'] == 'M':
            assert row['name'] in ('process_name', 'thread_name', 'thread_sort_index') and len(row['args']) == 1
            if row['name'] == 'thread_name': named.add((row['pid'], row['tid']))
            continue
        assert isinstance(row['cat'], str) and isinstance(row['ts'], (int, float)) and row['ts'] >= 0 and (row['pid'], row['tid']) in named
        assert round(row['ts'], 3) == row['ts'], 'no finer than the nanosecond that it is shown in'
        threads.setdefault((row['pid'], row['tid']), []).append(row)
        if row['ph'] == 'i': assert row['s'] in 'gpt' and 'dur' not in row
        else: assert row['dur'] >= 0
    for rows in threads.values():
        assert [row['ts'] for row in rows] == sorted(row['ts'] for row in rows)
        open_until = []
        for row in rows:
            if row['ph'] != 'X': continue
            while open_until and open_until[-1] <= row['ts'] + 5e-4: open_until.pop()
            assert not open_until or row['ts'] + row['dur'] <= open_until[-1] + 5e-4, 'slices of a thread overlap'
            open_until.append(row['ts'] + row['dur'])
    return threads


def test_what_perfetto_gets_keeps_to_the_format(recording):
    chrome = json.loads(export(recording, 'perfetto'))
    threads = validate(chrome)
    assert sorted(tid for _, tid in threads) == [0, 1, 2, 3]
    instants = [row for rows in threads.values() for row in rows if row['ph'] == 'i']
    assert sorted(row['args']['event'] for row in instants) == list(range(len(recording)))
    for row in instants:
        n = row['args']['event']
        assert row['cat'] == recording.kind(n) and row['tid'] == recording.events['track'][n]
        assert list(row['args']['changed'].items()) == list({f'{w} {p}': f'{o:#x} → {v:#x}' for w, p, o, v in recording.changes_of(n)}.items())
    for tid, what, count in (1, 'stay', len(recording.of_kind('enter'))), (0, 'turn', len(recording.of_kind('leave')) + 1):
        assert sum(row['ph'] == 'X' and row['name'].startswith(what) for row in threads[1, tid]) == count


def test_guests_are_processes(recording):
    other = record('minimal', mem='4M')
    chrome = json.loads(json.dumps(chrome_trace(recording, other)))
    assert {pid for pid, _ in validate(chrome)} == {1, 2}
    assert [row['args']['name'] for row in chrome['traceEvents'] if row['name'] == 'process_name'] == ['Guest 0: first', 'Guest 0: minimal']


def overlap(one, other): one['dur'] = other['ts'] - one['ts'] + other['dur'] / 2


@pytest.mark.parametrize('spoil', [
    lambda rows: rows[-1].pop('ts'), lambda rows: rows[-1].update(ph='Q'), lambda rows: rows[-1].update(ts=-1), lambda rows: rows[-1].update(tid=9),
    lambda rows: overlap(*(next(row for row in rows if row['name'] == name) for name in ('turn 5', 'turn 6')))])
def test_the_validator_notices(recording, spoil):
    chrome = json.loads(json.dumps(chrome_trace(recording)))
    spoil(chrome['traceEvents'])
    with pytest.raises((AssertionError, KeyError)): validate(chrome)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 3000), min_size=1, max_size=40))
def test_time_with_room_in_it(steps):
    "Nothing changes places, nothing is moved into the next moment of the clock, and what it can tell apart stays where it is."
    time = np.cumsum(np.array(steps) * (np.array(steps) % 3 == 0)).astype(np.uint64) + 10**18
    shown = spread(time)
    exact = (time - time[0]).astype(np.int64)
    assert (np.diff(shown) >= 0).all() and (shown >= exact).all()
    first = np.diff(exact, prepend=-1) > 0
    assert (shown[first] == exact[first]).all()


def test_tables_for_other_programs(recording):
    pd, table = pytest.importorskip('pandas'), recording.frame()
    pytest.importorskip('pyarrow')
    assert list(table.columns) == 'time switch track kind name code a b c d changes details'.split()
    for changes, frame in (False, table), (True, changes_frame(recording)):
        read = pd.read_parquet(io.BytesIO(export(recording, 'parquet', changes)))
        assert read.equals(frame) or read.astype(str).equals(frame.astype(str))
        read = pd.read_csv(io.BytesIO(export(recording, 'csv', changes)), index_col='number', keep_default_na=False)
        assert read.shape == frame.shape and read.astype(str).equals(frame.astype(str).rename_axis('number'))
    with pytest.raises(TraceError, match='leave out --changes'): export(recording, 'perfetto', True)


@pytest.mark.parametrize('module, to', [('pandas', 'parquet'), ('pyarrow', 'parquet')])
def test_without_pandas_or_pyarrow_one_is_told_what_to_install(recording, monkeypatch, module, to):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(TraceError, match=rf'{module}: pip install lguest_lit\[trace\]'): export(recording, to)
    assert export(recording, 'csv').startswith(b'number,time,'), 'which needs neither'


# --- how much ------------------------------------------------------------------------------------------------------------

@pytest.mark.slow
def test_a_hundred_thousand_events_take_200_bytes_each_at_most():
    recording = record(args='ticks=6000 quiet hz=1000', mem='4M')
    assert len(recording) >= 100_000 and len(to_bytes(recording)) <= 200 * len(recording)
    assert recording.events.nbytes + recording.changes.nbytes <= 200 * len(recording), 'nor in memory'


@pytest.mark.slow
def test_recording_costs_little():
    "The measurement stands in the notebook; this only keeps it from getting out of hand on a busy machine."
    def seconds(taped):
        with TimeMachine(args='ticks=600 quiet hz=1000', mem='4M', every=1 << 32) as machine:
            machine.run_to(300)
            if taped: Recorder(machine.lg).__enter__()
            began = time.process_time()
            machine.run_to(1 << 32)
            return time.process_time() - began
    best = {taped: min(seconds(taped) for _ in range(5)) for taped in (False, True)}
    assert best[True] / best[False] < 1.4
