"Pictures of the loop, the ring, interrupts and tables: what each shows is what the machine did."
import pytest

from lguest_lit.clock import VirtualClock
from lguest_lit.host import Host
from lguest_lit.launcher import Launcher
from lguest_lit.pictures.run_guest import Turns, run_guest_picture


def goto(page, n: int):
    "Move the slider of the page's picture."
    slider = page.get_by_role('slider')
    slider.evaluate('(e, n) => { e.value = n; e.dispatchEvent(new Event("input")); }', n)


@pytest.fixture(scope='module')
def life() -> Turns:
    "A short life of the first Guest, turn by turn."
    with Host(memory=32 << 20, clock=VirtualClock(slice=2000, insn_ns=500)) as host:
        launcher = Launcher('first', args='ticks=3 hz=1000', host=host)
        with Turns(launcher) as turns: launcher.run()
        return turns


def counts(page) -> dict:
    "What the boxes say."
    return {box.get_attribute('data-step'): int(box.locator('.count').text_content() or 0) for box in page.locator('.step').all()}


def test_turns_are_counted_as_the_host_counts_them(life):
    stats, n = life.launcher.stats, life.counts()
    assert n['run'] == stats.world_switches == n['wish'] + n['fault'] + n['irq'] + n['trap'] + n['protection'] + n['fpu']
    assert n['irq'] == sum(stats.traps[32:256]) and n['fault'] == stats.traps[14] and n['wish'] == stats.traps[31]
    assert n['handler'] == stats.demand_reflected and n['inject'] == sum(stats.interrupts.values())
    assert sum(sum(turn.calls.values()) for turn in life.list) + 1 == sum(stats.hypercalls_sync.values()) + sum(stats.hypercalls_async.values())


def test_the_loop_counts_up_to_the_turn_one_looks_at(show, life):
    page = show(run_guest_picture(life))
    for at in (0, 17, len(life.list) - 1):
        goto(page, at)
        want = {}
        for turn in life.list[:at + 1]:
            for step in turn.path: want[step] = want.get(step, 0) + 1
        assert {step: n for step, n in counts(page).items() if n} == want
        lit = {box.get_attribute('data-step') for box in page.locator('.step.on').all()}
        assert lit == set(life.list[at].path)
        assert page.locator('.says li').all_inner_texts()[-1] == life.list[at].says[-1]
    assert page.locator('.console').inner_text() == b''.join(life.launcher.written).decode()


def test_every_step_of_a_way_has_its_line(show, life):
    page = show(run_guest_picture(life))
    at = next(n for n, turn in enumerate(life.list) if turn.path[-1] == 'mended')
    goto(page, at)
    lit = page.locator('.line.on').evaluate_all('nodes => nodes.map(n => n.dataset.line)')
    path = life.list[at].path
    assert set(lit) == {f'{a}>{b}' for a, b in zip(path, path[1:])} | {'mended>top'}


def test_a_box_leads_to_the_next_turn_that_comes_by(show, life):
    page = show(run_guest_picture(life))
    where = [n for n, turn in enumerate(life.list) if 'inject' in turn.path]
    for expected in (*where, where[0]):                    # and round again
        page.locator('[data-step="inject"]').click()
        assert page.get_by_role('slider').input_value() == str(expected)
    page.locator('[data-step="launcher"]').focus()
    page.keyboard.press('Enter')
    assert 'launcher' in life.list[int(page.get_by_role('slider').input_value())].path


def test_the_console_fills_and_says_what_is_new(show, life):
    page, text = show(run_guest_picture(life)), b''.join(life.launcher.written).decode()
    first = next(n for n, turn in enumerate(life.list) if turn.seen)
    goto(page, first)
    assert page.locator('.console .new').text_content() == text[:life.list[first].seen]
    goto(page, first - 1)
    assert page.locator('.console').text_content() == ''
