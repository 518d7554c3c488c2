"""The fuzzer itself: each target runs, a broken Host is noticed in each way that there is, and what was found can be repeated.

What it finds in the Host as it stands is for a campaign to tell, `make fuzz`: here it may be anything that nobody knows of yet, so
a run is short, with a seed that is known to find nothing."""
import json
import random

import pytest

from fuzz import driver
from fuzz.cases import MAKERS, Dice, mutated
from fuzz.house import Finding, House, changed, damaged

SECONDS, CASES = 600, dict(hypercalls=40, tables=40, fragments=30, protocol=60, images=40, recordings=12)


@pytest.mark.slow
@pytest.mark.parametrize('target', MAKERS)
def test_a_short_run_finds_nothing(target, tmp_path, capsys):
    campaign = driver.Campaign([target], 2007, tmp_path, quiet=True)
    assert campaign.run(SECONDS, CASES[target]) == 0, campaign.summary()
    assert campaign.cases[target] == CASES[target] and '0 exceptions, 0 foreign bytes, 0 leaks, 0 waits' in campaign.summary()
    assert list((tmp_path/'corpus').glob(f'{target}-*.json')), 'nothing was worth being kept'


@pytest.mark.parametrize('target', MAKERS)
def test_the_same_seed_makes_the_same_cases(target):
    def cases(seed):
        dice = Dice(random.Random(seed))
        made = [MAKERS[target](dice) for _ in range(5)]
        return json.dumps(made + [mutated(dice, made[0], made[1])])
    assert cases(1) == cases(1) != cases(2)
    assert json.loads(cases(1)) == json.loads(cases(1))


# --- would we notice? ----------------------------------------------------------------------------------------------------

CALL = dict(target='hypercalls', deeds=[], kinds='ee'*30, introduced=True, slice=1000, noise=0, fixes='lguest', typed='', clock='virtual')
SPIN = {**CALL, 'deeds': ['ebfe']}


def nothing(*args): return None


def found(case: dict) -> Finding:
    "What is wrong with a case, tried here, on a Host that a test has broken."
    house = House()
    try:
        driver.tried(house, case)
        pytest.fail('nobody noticed')
    except Finding as e: return e
    finally: house.close()


def test_an_exception_is_noticed(monkeypatch):
    monkeypatch.setattr('lguest_lit.host.hypercalls.LHCALL.LOAD_GDT.does', lambda *args: {}['nothing'])
    worker = driver.Worker()
    answer = worker.run(CALL)
    worker.close()
    assert answer['kind'] == 'exception' and answer['where'].startswith("KeyError in hypercalls.") and 'Traceback' in answer['text']


def test_foreign_bytes_are_noticed(monkeypatch):
    from lguest_lit.host import core
    real = core.do_hypercalls
    def careless(lg):
        real(lg)
        lg.mem.u32[(lg.host.pgdir << 10) + 5] += 1
    monkeypatch.setattr(core, 'do_hypercalls', careless)
    assert found(CALL).kind == 'foreign bytes'


def test_a_leak_is_noticed(monkeypatch):
    monkeypatch.setattr('lguest_lit.host.lguest_user.free_guest_pagetable', nothing)
    assert found(CALL).kind == 'leak'


def test_a_stop_that_takes_long_is_noticed(monkeypatch):
    monkeypatch.setattr('fuzz.house.PATIENCE', 0.05)
    monkeypatch.setattr('fuzz.house.MAX_WAIT', -1.0)          # whatever it takes is too long
    assert found({**SPIN, 'clock': 'wall'}).kind == 'wait'


def test_what_a_tape_changes_is_noticed(monkeypatch):
    monkeypatch.setattr('lguest_lit.watch.trace.Recorder.emulated', lambda self, opcode: setattr(self.lg.stats, 'emulated_insns', 99))
    assert found({**CALL, 'deeds': ['e460']}).kind == 'tape'


@pytest.mark.slow
def test_a_process_that_hangs_is_replaced(monkeypatch):
    monkeypatch.setattr('fuzz.driver.HANG', 0.5)
    def hang(*args):
        while True: pass
    monkeypatch.setattr('lguest_lit.host.hypercalls.LHCALL.LOAD_GDT.does', hang)
    worker = driver.Worker()
    answer = worker.run(CALL)
    worker.close()
    assert answer['kind'] == 'wait' and 'never came back' in answer['where']


@pytest.mark.slow
def test_a_finding_is_made_small_kept_and_repeated(monkeypatch, tmp_path, capsys):
    from lguest_lit.host import interrupts_and_traps
    real = interrupts_and_traps.load_guest_idt_entry
    def fussy(lg, number, *words): return {}[number] if number == 77 else real(lg, number, *words)
    monkeypatch.setattr('lguest_lit.host.hypercalls.LHCALL.LOAD_IDT_ENTRY.does', fussy)
    bad = 'ba4d000000bb00006100b9008e00c0b806000000cd1f'          # LOAD_IDT_ENTRY of vector 77
    campaign = driver.Campaign(['hypercalls'], 0, tmp_path, quiet=True)
    try: campaign.try_case({**CALL, 'deeds': ['90', '90', bad, '90']})
    finally: campaign.worker.close()
    path, = (tmp_path/'found').glob('*.json')
    assert json.loads(path.read_text())['deeds'] == [bad] and str(path) in capsys.readouterr().out
    assert driver.main(['--repro', str(path)]) == 1 and 'KeyError' in capsys.readouterr().out
    monkeypatch.undo()
    assert driver.main(['--repro', str(path)]) == 0


@pytest.mark.slow
def test_files_are_damaged_as_told():
    assert changed(b'0123456789', [('set', 2, 'ff'), ('cut', 0.5, 0), ('insert', 0, '41'), ('word', 2, 0x30303030)]) == b'A00000'
    house = House()
    house.try_recordings(dict(steps=[]), False)
    steps = [('header.json', 'json', 0, 'x'), ('events/kind.npy', 'item', 0.0, 255)]
    spoilt = damaged(house.recording, steps)
    assert spoilt != damaged(house.recording, []) and house.try_recordings(dict(steps=steps), False)['reason'] != 'can be read'
    house.close()
