"Recordings: what they say against what the machine itself says, by other ways than the tape's."
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from invariants import Puppet
from test_invariants import Story, actions, prepare

from lguest_lit import core
from lguest_lit.clock import VirtualClock
from lguest_lit.host import Host
from lguest_lit.lg import GDT_ENTRIES, SYSCALL_VECTOR
from lguest_lit.rewind import TimeMachine
from lguest_lit.trace import NUMBER, REGISTERS, WHAT, Recorder, develop, record, registers_at, shadow_at, thrown_away
from lguest_lit.workbench import Workbench

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
    with pytest.MonkeyPatch.context() as monkeypatch, TimeMachine(every=1 << 32, **LIFE) as machine:
        notes = Notes(monkeypatch, machine.lg)
        with Recorder(machine.lg) as tape: machine.run_to(1 << 30)
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
    slots, current = {}, None
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
