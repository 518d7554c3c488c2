"Films: what they show is what the machine was, at every instruction and at every switch."
import json
import random
import zlib

import numpy as np
import pytest

from lguest_lit.watch.film import SEEN, Labels, StayCamera, film_life, film_stay, listing, registers_at, world_of
from lguest_lit.pictures.timeline import reel
from lguest_lit.watch.rewind import Moment, TimeMachine, who_wrote
from lguest_lit.watch.trace import WHAT, record
from lguest_lit.launcher.workbench import assemble

ACCESSED_DIRTY, RF = 0x60, 0x10000


@pytest.fixture(scope='module')
def machine():
    with TimeMachine('first', args='ticks=40 quiet hz=1000', mem='4M', every=50) as machine:
        machine.run_to(1 << 30)
        machine.end = machine.switch
        yield machine


@pytest.fixture(scope='module')
def film(machine): return film_life(machine, stays=[100])


def words(machine): return np.frombuffer(machine.host.mem.u8, np.uint32)


def test_a_stay_shows_the_registers_of_every_instruction(machine):
    dice = random.Random(2)
    for switch in dice.sample(range(machine.end - 1), 4):
        stay = film_stay(machine, switch)
        for n in dice.sample(range(1, len(stay['frames']) - 1), 8):
            machine.goto(switch, n)
            filmed, real = registers_at(stay, n), machine.registers()
            assert {k: real[k] & ~(RF if k == 'eflags' else 0) for k in SEEN if k in real} == {k: filmed[k] for k in SEEN if k in real}


def test_a_stay_has_every_word_that_was_written(machine):
    "Brute force: whatever is different in physical memory after a stay is in the film, but for the marks in page tables."
    for switch in random.Random(4).sample(range(machine.end - 1), 5):
        stay = film_stay(machine, switch)
        machine.goto(switch, 1)                                             # the Host has done its part, and the first instruction is over
        before = words(machine).copy()
        for *_, pa, was, _ in stay['frames'][1]['writes']: before[pa >> 2] = was
        machine.goto(switch, len(stay['frames']) - 3)                       # in front of the last two instructions, which nobody can part
        after, now = words(machine), {}
        for frame in stay['frames']:
            for _, _, linear, pa, was, new in frame.get('writes', ()):
                assert was == now.get(pa, before[pa >> 2]) and (linear is None or linear & 0xFFF == pa & 0xFFF)
                now[pa] = new
        assert all(after[pa >> 2] == new for pa, new in now.items())
        missing = [at for at in np.flatnonzero(after != before).tolist() if at << 2 not in now]
        assert all((after[at] ^ before[at]) & ~ACCESSED_DIRTY == 0 for at in missing)


def test_a_stay_leaves_the_machine_where_it_was(machine):
    machine.goto(120, 5)
    before = machine.hash()
    film_stay(machine, 60)
    assert machine.hash() == before
    with pytest.raises(ValueError, match='no stay after switch'): film_stay(machine, machine.end + 5)


def test_a_trap_in_a_stay_has_its_gate_and_its_frame():
    image = assemble('movw $0x1234, %ax\nmovw %ax, %ds\nnop')
    with TimeMachine(image, mem='4M') as machine:
        machine.run_to(1 << 30)
        traps = [(frame, trap) for switch in range(machine.switch) for frame in film_stay(machine, switch, Labels(image))['frames'] for trap in frame.get('traps', ())]
    frame, trap = next((f, t) for f, t in traps if t['vector'] == 13)
    assert (trap['error'], trap['ring'], trap['to']) == (0x1234, 1, 0) and trap['gate'][1] & 0x8000
    pushed = {name: new for place, name, *_, new in frame['writes'] if place == 'register page'}
    assert (pushed['errcode'], pushed['eip']) == (0x1234, trap['eip'])


def test_a_film_has_what_the_guest_itself_has_written(machine, film):
    "At some switches, before the Host interrupts the Guest: each word that the film knows is in the machine's memory as it says; and the other way round."
    machine.goto(0)
    first = np.frombuffer(machine.lg.mm.ram, np.uint32).copy()
    recording = film.recording
    for switch in random.Random(6).sample(range(1, machine.end - 1), 6):
        then = next(n for n in recording.at(switch) if recording.kind(n) in ('interrupt', 'enter'))
        played = first.copy()
        changes = recording.changes[:recording.span(then).start]
        changes = changes[changes['what'] == WHAT['memory']]
        for where, new in zip(changes['where'].tolist(), changes['new'].tolist()):
            played.view(np.uint8)[where:where + 4] = np.frombuffer(new.to_bytes(4, 'little'), np.uint8)
        machine.goto(switch)
        assert (played == np.frombuffer(machine.lg.mm.ram, np.uint32)).all()


def test_a_film_tells_the_same_events_as_a_recording(film):
    other = record('first', args='ticks=40 quiet hz=1000', mem='4M')
    assert film.recording.events[['kind', 'code', 'a', 'b', 'c', 'd', 'switch']].tolist() == other.events[['kind', 'code', 'a', 'b', 'c', 'd', 'switch']].tolist()


def test_every_place_of_the_guest_has_code_around_it(film):
    recording = film.recording
    eips = {int(recording.events['c'][n]) for n in recording.of_kind('leave')}
    assert eips <= set(film.book.around)
    for eip, seen in film.book.around.items():
        for _, _, lines in seen: assert eip in [film.book.lines[line][0] for line in lines]


@pytest.mark.slow
def test_a_boot_fits_into_two_hundred_kilobytes():
    with TimeMachine('first', args='ticks=200', mem='4M') as machine: film = film_life(machine, stays=[100])
    switches, size = int(film.recording.events['switch'][-1]), len(zlib.compress(json.dumps(reel(film)).encode(), 9))
    print(f'{switches} switches, {len(film.recording):,} events, {len(film.recording.changes):,} changes: {size:,} bytes, deflated')
    assert switches > 900 and size < 200_000


def test_listing_shows_nothing_that_does_not_come_out_right():
    code = bytes.fromhex('ff' * 8 + '90c3')                             # what stands before cannot be read as instructions
    assert [line[0] for line in listing(code, 0, 8)] == [8, 9]


class Witness(StayCamera):
    "A camera that also remembers all of memory, at the first frame and at the last."
    def shoot(self, world):
        super().shoot(world)
        self.now = np.frombuffer(self.cpu.memory.u8, np.uint32).copy()
        if len(self.frames) == 1: self.first = self.now

    def each(self, address):
        if not self.frames: super().each(address)
        elif self.on:                                                      # as above, but without the copy
            StayCamera.shoot(self, world_of(self.cpu, address))
            self.frames[-1]['insn'] = self.number(address)


def last_writes(machine, until):
    "Brute force, from the beginning: of each word that was ever written, the last who did, when, and from where."
    labels, found = Labels(), {}
    machine.back_to(0)
    before = words(machine).copy()
    while machine.switch < until:
        switch = machine.switch
        with Witness(machine, labels) as film: machine.go(switch + 1)
        found.update((at << 2, ('Host', Moment(switch), None)) for at in np.flatnonzero(film.first != before).tolist())
        for n, frame in enumerate(film.frames):
            esp = frame.get('traps', [{}])[-1].get('esp')
            for _, _, linear, pa, was, new in frame.get('writes', ()):
                if esp and linear and esp <= linear < esp + 24 and was == new: continue       # pushed by the processor, and the same as before
                found[pa] = None, Moment(switch, n - 1), film.code[film.frames[n - 1]['insn']][0]
        before = film.now
    found.update((at << 2, ('Host', Moment(until), None)) for at in np.flatnonzero(words(machine) != before).tolist())
    return found


@pytest.mark.slow
def test_who_wrote_this_against_brute_force(machine):
    "On random words of the Guest's memory: the same stay, the same instruction, or the same turn of the Host's."
    until, base = 120, machine.lg.mm.base_pfn << 12
    found = last_writes(machine, until)
    mine = sorted(pa for pa in found if base <= pa < base + (4 << 20))
    for pa in random.Random(8).sample(mine, 40):
        by, moment, eip = found[pa]
        said = who_wrote(machine, pa - base, Moment(until))
        assert (said.moment, said.eip) == (moment, eip) and (said.by == 'Host') == (by == 'Host'), hex(pa - base)
    nobody = random.Random(9).sample(sorted(set(range(base, base + (4 << 20), 4)) - found.keys()), 10)
    assert [who_wrote(machine, pa - base, Moment(until)) for pa in nobody] == [None] * 10
