"Pictures of the loop, the ring, interrupts and tables: what each shows is what the machine did."
import pytest

from lguest_lit.clock import VirtualClock
from lguest_lit.host import Host
from lguest_lit.launcher import Launcher
from lguest_lit.pictures.hypercall_ring import RingLog, ring_picture
from lguest_lit.pictures.run_guest import Turns, run_guest_picture
from lguest_lit.workbench import Workbench


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


# the ring

RING_GUEST = '''
        queue 62, LHCALL_TS, $62
        queue 63, LHCALL_TS, $63
        queue 0, LHCALL_SEND_DMA, $0x40, $0x200000
        queue 1, LHCALL_TS, $1
        queue 3, LHCALL_TS, $3
        hcall LHCALL_TS, $5
        queue 2, LHCALL_TS, $2
        hcall LHCALL_FLUSH_ASYNC
'''


@pytest.fixture(scope='module')
def ring() -> RingLog:
    "Round the end of the ring, over a message, up to a gap, and on."
    pytest.importorskip('ziglang')
    g = Workbench(RING_GUEST)
    g.lg.next_hcall = 62
    with RingLog(g) as log:
        while g.dead is None:
            try: g.file.read(8)
            except OSError: pass
    return log


def test_the_ring_is_what_was_filled_less_what_was_done(ring):
    waiting, cursor, done = set(), 62, []
    for who, what, mask, slot, at, trap, direct, dma in ring.moments:
        if 'fills place' in what: waiting.add(slot)
        if 'does place' in what:
            waiting.remove(slot)
            cursor, done = (slot + 1) % 64, [*done, slot]
        assert {n for n in range(64) if int(mask, 16) >> n & 1} == waiting and at == cursor, what
        assert (trap == 31) == bool(direct)
    assert done == [62, 63, 0, 1, 2, 3]
    assert [what for _, what, *_ in ring.moments if what.startswith('The Host stops')][:2] == ['The Host stops: a message is waiting for the Launcher',
                                                                                              'The Host stops: place 2 is free']


def test_the_ring_shows_the_moment(show, ring):
    page = show(ring_picture(ring))
    for at, (who, what, mask, slot, cursor, trap, direct, dma) in enumerate(ring.moments):
        goto(page, at)
        waits = page.locator('.place.waits').evaluate_all('nodes => nodes.map(n => +n.dataset.slot)')
        assert waits == [n for n in range(64) if int(mask, 16) >> n & 1]
        assert page.locator('.place.here').evaluate_all('nodes => nodes.map(n => +n.dataset.slot)') == ([] if slot is None else [slot])
        says = {t.get_attribute('data-says'): t.text_content() for t in page.locator('[data-says]').all()}
        assert says == dict(many=f'{len(waits)} waiting', trap=f'trap number {trap}', direct=f'direct: {direct}' if direct else 'no direct call',
                            dma='a message is pending' if dma else 'no message')
        assert f'rotate({(cursor + .5) * 360 / 64} ' in page.locator('.cursor').get_attribute('transform')
        assert page.locator('.log .now').inner_text().endswith(what)


def test_a_place_leads_to_its_next_moment(show, ring):
    page = show(ring_picture(ring))
    moments = [n for n, m in enumerate(ring.moments) if m[3] == 63]
    for at in moments:
        page.get_by_label('go to the next moment of a place').select_option('63')
        assert page.get_by_role('slider').input_value() == str(at)
    page.locator('[data-slot="63"]').click()
    assert page.get_by_role('slider').input_value() == str(moments[0])


def test_a_call_that_kills_stays_in_its_place():
    pytest.importorskip('ziglang')
    g = Workbench('queue 0, LHCALL_TS, $8\n queue 1, 17\n hcall LHCALL_FLUSH_ASYNC')
    with RingLog(g) as log: g.turns()
    assert [m[1] for m in log.moments[-2:]] == ['The Host does place 1: number 17', 'The Host stops: the Guest is dead']
    assert int(log.moments[-1][2], 16) == 0b10
