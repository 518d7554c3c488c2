"Back in time: the same moment is the same machine, however one comes to it."
import os
import random
from dataclasses import dataclass, field, fields

import pytest

from lguest_lit.host.lg import FOR_LIFE, OWN_WAY, Lguest
from lguest_lit.i386.probe import on_write
from lguest_lit.watch.rewind import Counter, Moment, TimeMachine, keep_guest, last_change, put_guest, who_wrote

LIFE = dict(args='ticks=40 quiet hz=1000', mem='4M')


@pytest.fixture(scope='module')
def machine():
    with TimeMachine('first', every=60, **LIFE) as machine:
        machine.run_to(1 << 30)
        assert machine.lg.dead == 'CRASH: Power down'
        machine.end = machine.switch
        yield machine


@pytest.mark.slow
def test_a_moment_is_the_same_from_wherever_one_comes(machine):
    dice, prints = random.Random(5), {}
    moments = [(dice.randrange(machine.end), dice.choice((0, 0, 1, 7, 30, 60))) for _ in range(25)]
    for _ in range(4):
        dice.shuffle(moments)
        for moment in moments:
            machine.goto(*moment)
            assert prints.setdefault(moment, machine.hash()) == machine.hash()
    assert len(set(prints.values())) > 20


STEPS = int(os.environ.get('LGUEST_LIT_STEPS', 200))


@pytest.mark.slow
def test_back_and_forward_again(machine):
    "So many random steps back, to a switch or by a few instructions, each undone: the same machine every time. (LGUEST_LIT_STEPS=1000 takes longer.)"
    dice = random.Random(3)
    for n in range(STEPS):
        if n % 10 == 0:
            machine.goto(dice.randrange(machine.end), dice.randrange(40))
            here, print_ = machine.now, machine.hash()
        if n % 10 == 9:
            steps = min(dice.randrange(1, 4), here.insn or 3 * here.switch)
            for _ in range(steps): machine.back()
            for _ in range(steps): machine.step()
        else:
            machine.goto(max(here.switch - dice.randrange(1, 80), 0), dice.randrange(60))
            machine.goto(here.switch, here.insn)
        assert machine.now == here and machine.hash() == print_


def test_three_lives_with_one_seed(machine):
    machine.goto(machine.end)
    for _ in range(2):
        with TimeMachine('first', every=1000, **LIFE) as other:
            other.run_to(1 << 30)
            assert other.hash() == machine.hash()


def trace_of_all_writes(machine, until):
    "Every write of the processor's from the beginning: word -> (stay, address of the instruction, ring) of the last one."
    cpu, last, eip = machine.host.cpu, {}, [0]
    def each(address): eip[0] = address
    def wrote(address, size, value):
        for word in {address & ~3, address + size - 1 & ~3}: last[word] = (machine.switch, eip[0], cpu.state[cpu.f.HFLAGS] & 3)
    machine.back_to(0)
    with Counter(cpu, each), on_write(cpu, wrote): machine.go(until)
    return last


@pytest.mark.slow
def test_who_wrote_this_against_a_trace_of_everything(machine):
    until, base = 200, machine.lg.mm.base_pfn << 12
    last = trace_of_all_writes(machine, until)
    mine = {word: write for word, write in last.items() if base <= word < base + (4 << 20) and write[2]}
    dice, agreed = random.Random(1), 0
    for word in dice.sample(sorted(mine), 40):
        found = who_wrote(machine, word - base, Moment(until))
        stay, eip, ring = mine[word]
        if found.eip is None or found.by in ('Host', 'Switcher'):     # the Host wrote later than any instruction
            assert found.moment.switch > stay
            continue
        if found.eip != eip: assert found.moment.switch >= stay       # a frame that the processor has pushed later
        else:
            assert (found.moment.switch, found.by) == (stay, {1: 'Guest kernel', 3: 'Guest user'}[ring])
            agreed += 1
    assert agreed >= 25


def test_nobody_wrote_a_word_that_is_as_it_was_loaded(machine):
    assert who_wrote(machine, 0x3FF000 - 0x2000 + 8, Moment(5)) is None


def test_last_change_of_a_register(machine):
    machine.goto(150, machine.stay(150) // 2)
    found = last_change(machine, 'eax')
    machine.goto(found.moment.switch, found.moment.insn + 1)
    assert machine.registers()['eax'] == found.new
    machine.goto(found.moment.switch, found.moment.insn)
    assert machine.registers()['eax'] == found.old


def test_no_moment_before_the_first(machine):
    for moment in (-1, 0), (0, -1):
        with pytest.raises(ValueError, match='-1'): machine.goto(*moment)
    machine.goto(0)
    assert machine.back() == Moment(0)


def test_no_such_place(machine):
    with pytest.raises(ValueError, match='0xffffffff is not in the Guest'): who_wrote(machine, 0xFFFFFFFF)
    with pytest.raises(ValueError, match="no register is called 'eaks'"): last_change(machine, 'eaks')


# --- what is saved ----------------------------------------------------------------------------------------------------

@dataclass(eq=False, slots=True)
class Newer(Lguest):
    "A Guest with two more members than this Host knows of; of one nobody has said how it is saved."
    wishes: list = field(default_factory=list)
    pedigree: str = field(default='', metadata=FOR_LIFE)


def test_a_new_member_of_struct_lguest_is_saved(monkeypatch):
    monkeypatch.setattr('lguest_lit.host.lguest_user.Lguest', Newer)
    with TimeMachine('minimal', mem='4M', every=1) as machine:
        lg, prints = machine.lg, []
        for wishes in (['a pony'], ['peace']):
            lg.wishes[:], lg.pedigree = wishes, 'none'
            kept = keep_guest(machine.launcher)
            prints.append(machine.hash())
            lg.wishes.append('more wishes')
            put_guest(machine.launcher, kept)
            assert lg.wishes == wishes and lg.pedigree == 'none'
            lg.wishes.append('more wishes')
            put_guest(machine.launcher, kept)
            assert lg.wishes == wishes, 'one can come back twice'
        assert len(set(prints)) == 2, 'a fingerprint is of all that is saved'
        lg.pedigree = 'of age'
        put_guest(machine.launcher, kept)
        assert lg.pedigree == 'of age'


def test_struct_lguest_has_no_other_members():
    with TimeMachine('minimal', mem='4M') as machine:
        with pytest.raises(AttributeError): machine.lg.wishes = ['a pony']
        assert not hasattr(machine.lg, '__dict__')
        said = {f.name: f.metadata['saved'] for f in fields(machine.lg) if f.metadata}
        assert set(said.values()) == {FOR_LIFE['saved'], OWN_WAY['saved']}
        assert {name for name, how in said.items() if how == OWN_WAY['saved']} == {'lguest_data', 'pgdirs', 'dma', 'stats'}
