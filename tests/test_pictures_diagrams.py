"Pictures of the loop, the ring, interrupts and tables: what each shows is what the machine did."
import itertools
import linecache
import random
import sys

import pytest
from axe_playwright_python.sync_playwright import Axe
from guests import NO_CALL

from lguest_lit.host.clock import VirtualClock
from lguest_lit.host.host import Host
from lguest_lit.i386.descriptors import segment_base, segment_limit
from lguest_lit.host.interrupts_and_traps import idt_address, load_guest_idt_entry, maybe_do_interrupt, set_trap
from lguest_lit.launcher.launcher import Launcher
from lguest_lit.host.lg import Fixes, GuestDead
from lguest_lit.pictures.base import module
from lguest_lit.pictures.descriptors import GATE_RULES, SEGMENT_RULES, gate_bits, gdt_rows, guest_words, idt_rows, segment_bits, table_picture
from lguest_lit.pictures.hypercall_ring import RingLog, ring_picture
from lguest_lit.pictures.interrupt_decision import circumstances, decision_picture
from lguest_lit.pictures.run_guest import CALL, Listener, Turns, run_guest_picture
from lguest_lit.host.segments import fixup_gdt_table
from lguest_lit.launcher.workbench import Workbench


def goto(page, n: int):
    "Move the slider of the page's picture."
    slider = page.get_by_role('slider')
    slider.evaluate('(e, n) => { e.value = n; e.dispatchEvent(new Event("input")); }', n)


@pytest.fixture(scope='module')
def life() -> Turns:
    "A short life of the first Guest, turn by turn."
    with Host(memory=32 << 20, clock=VirtualClock(insn_ns=500)) as host:
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
    g = Workbench(f'queue 0, LHCALL_TS, $8\n queue 1, {NO_CALL}\n hcall LHCALL_FLUSH_ASYNC')
    with RingLog(g) as log: g.turns()
    assert [m[1] for m in log.moments[-2:]] == [f'The Host does place 1: number {NO_CALL}', 'The Host stops: the Guest is dead']
    assert int(log.moments[-1][2], 16) == 0b10


# may this interrupt go in?

WAKING = '''
        gate  32, tick
        hcall LHCALL_FLUSH_ASYNC
here:   nop
tick:   nop
'''
# What stands in the line at which maybe_do_interrupt was over, and which of the six questions may have been the reason.
OVER = {'if not pending': [0], 'if data is None': [1], 'if not ready or': [2, 3], 'elif not data.irq_enabled': [4], 'if hi & 0x8000': [5], 'set_guest_interrupt(': [None]}


@pytest.fixture(scope='module')
def sleeper() -> Workbench:
    "A Guest at a place where it can be interrupted."
    pytest.importorskip('ziglang')
    g = Workbench(WAKING)
    while g.regs.eip != g.at('here'): g.turn()
    return g


def ask(g, known, pending, blocked, enabled, window, halted, if_flag, handlers) -> tuple:
    "Which question stopped it (those that are in the last line), the interrupt, pending, irq_enabled and halted afterwards: as the Host has it."
    lg, gate = g.lg, (g.lg.idt_a[32], g.lg.idt_b[32])
    lg.irqs_pending, lg.halted, lg.fixes = pending, halted, Fixes(if_flag=if_flag)
    data, data.blocked_interrupts, data.irq_enabled = ask.data, blocked, enabled
    lg.lguest_data = data if known else None
    lg.noirq_start, lg.noirq_end = (g.at('here'), g.at('here') + 1) if window else (0, 0)
    lg.idt_a[33:64], lg.idt_b[33:64] = [gate[0]] * 31, [gate[1]] * 31
    for n in range(8): lg.idt_b[32 + n] = gate[1] | 0x8000 if handlers >> n & 1 else gate[1] & ~0x8000
    lg.regs.eip, lg.regs.esp, before, last = g.at('here'), g.at('stack_top'), dict(lg.stats.interrupts), []
    def line(frame, event, _):
        if event == 'line': last[:] = [frame.f_lineno]
        return line
    sys.settrace(lambda frame, *_: line if frame.f_code is maybe_do_interrupt.__code__ else None)
    try: maybe_do_interrupt(lg)
    finally: sys.settrace(None)
    lg.lguest_data = data
    text = linecache.getline(maybe_do_interrupt.__code__.co_filename, last[0]).strip()
    irq = [n for n, times in lg.stats.interrupts.items() if times != before.get(n, 0)]
    return next(q for start, q in OVER.items() if text.startswith(start)), irq[0] if irq else None, lg.irqs_pending, data.irq_enabled, bool(lg.halted)


@pytest.mark.slow
def test_the_picture_decides_as_the_host_does(show, sleeper):
    masks = [sum(1 << n for n in chosen) for k in range(4) for chosen in itertools.combinations((0, 1, 5), k)]
    names = 'known pending blocked enabled window halted if_flag handlers'.split()
    cases = list(itertools.product((True, False), masks, masks, (0, 2, 0x200), (False, True), (False, True), (True, False), masks))
    ask.data = sleeper.data
    told = [ask(sleeper, *case) for case in cases]
    page = show(decision_picture({'a': circumstances(sleeper.lg)}))
    said = page.evaluate('''async ([text, cases]) => {
        const { decide } = (await import(URL.createObjectURL(new Blob([text], { type: "text/javascript" })))).default;
        return cases.map((c) => { const d = decide(c); return [d.stop, d.irq, d.pending, d.enabled, d.halted]; });
    }''', [module('interrupt_decision'), [dict(zip(names, case)) for case in cases]])
    assert len(cases) == 2 * 8 * 8 * 3 * 2 * 2 * 2 * 8
    for case, (questions, *rest), (stop, *answer) in zip(cases, told, said): assert stop in questions and answer == rest, case
    assert {stop for stop, *_ in said} == {None, 0, 1, 2, 3, 4, 5}


def test_the_reader_turns_the_circumstances(show):
    start = dict(known=True, pending=5, blocked=0, enabled=0x200, window=False, halted=False, if_flag=True, handlers=1)
    asleep = start | dict(halted=True, enabled=0)
    page = show(decision_picture({'awake': start, 'asleep': asleep}))
    states = lambda: [row.get_attribute('class') for row in page.locator('ol li').all()]
    said = lambda: page.locator('.outcome').inner_text()
    assert states() == ['passes'] * 6 and said().startswith('Interrupt 0 goes in, to vector 32; still pending: 2.')
    page.locator('[data-bit="blocked-0"]').click()                       # now number 2 is first, and has no handler
    assert states() == ['passes'] * 5 + ['stops'] and said() == 'Nothing goes in; pending: 0, 2.'
    page.locator('[data-bit="handlers-2"]').click()
    assert said().startswith('Interrupt 2 goes in, to vector 34; still pending: 0.')
    page.get_by_label('irq_enabled', exact=True).select_option('2')
    assert states() == ['passes'] * 4 + ['stops', 'unasked']
    page.get_by_label('look at bit 9 only').uncheck()                    # as in 2007: 2 is not 0
    assert states() == ['passes'] * 6
    page.get_by_label('EIP is in the window').check()
    assert states() == ['passes'] * 3 + ['stops'] + ['unasked'] * 2
    page.get_by_label("a real Guest's circumstances").select_option('asleep')
    assert said().endswith('It is awake now.') and states() == ['passes'] * 6
    page.get_by_label('the Guest has said LGUEST_INIT').uncheck()
    assert states() == ['passes', 'stops'] + ['unasked'] * 4 and said().endswith('It sleeps on.')
    page.locator('[data-bit="pending-0"]').focus()
    page.keyboard.press('Space')
    assert page.locator('[data-bit="pending-0"]').get_attribute('aria-pressed') == 'false'


# descriptors

def looked_over(g, a: int, b: int) -> tuple:
    "A segment descriptor after fixup_gdt_table."
    g.lg.gdt_a[20], g.lg.gdt_b[20] = a, b
    fixup_gdt_table(g.lg, 20, 21)
    return g.lg.gdt_a[20], g.lg.gdt_b[20]


@pytest.mark.parametrize('kind', ['gate', 'segment'])
def test_the_rules_in_the_page_are_what_the_host_does(show, sleeper, kind):
    dice = random.Random(11)
    rules, check = (GATE_RULES, lambda *w: set_trap(sleeper.lg, *w)) if kind == 'gate' else (SEGMENT_RULES, lambda *w: looked_over(sleeper, *w))
    words = [[dice.getrandbits(32), dice.getrandbits(32) & ~dice.choice((0, 0x200000, 0x6000)) | dice.choice((0, 0x8E00, 0x9000))] for _ in range(3000)]
    page = show((gate_bits if kind == 'gate' else segment_bits)(*words[0]))
    said = page.evaluate('''async ([text, words, rules]) => {
        const { applied } = (await import(URL.createObjectURL(new Blob([text], { type: "text/javascript" })))).default;
        return words.map((w) => { const a = applied(w, rules); return a.kills ? null : a.words; });
    }''', [module('bit_fields'), words, rules])
    kept = 0
    for pair, answer in zip(words, said):
        try: assert answer == list(check(*pair)), [hex(word) for word in pair]
        except GuestDead: assert answer is None, [hex(word) for word in pair]
        kept += answer is not None
    assert 300 < kept < 2700


def test_a_descriptor_is_put_into_words(show):
    page, dice = show(segment_bits(0, 0)), random.Random(3)
    for _ in range(20):
        a, b = dice.getrandbits(32), dice.getrandbits(32) & ~0x200000 | 0x9000
        for label, word in ('a', a), ('b', b):
            page.get_by_label(label, exact=True).fill(f'{word:x}')
            page.get_by_label(label, exact=True).press('Enter')
        mine, host = page.locator('.sentence div').all_inner_texts()
        base = segment_base(a, b)
        assert f'{base:#010x} to {base + segment_limit(a, b) & 0xFFFFFFFF:#010x}' in mine
        assert mine.startswith('code' if b & 0x800 else 'data') and f'ring {b >> 13 & 3}' in mine
        assert f'ring {b >> 13 & 3 or 1}' in host and 'not accessed' not in host


def test_a_bad_gate_has_the_last_words_of_the_host(show):
    page = show(gate_bits(0x00611234, 0xC0108500, examples={'task': (0x00611234, 0xC0108500), 'trap': (0x00611234, 0xC0108F00)}))
    assert page.locator('.sentence .new').inner_text() == 'The Guest is killed: bad IDT type 5'
    page.get_by_label('an example').select_option('trap')
    assert page.locator('.sentence .new').count() == 0 and '0x61:0xc0101234' in page.locator('.sentence').inner_text()
    page.locator('[data-bit="47"]').click()                              # not present
    assert page.locator('.sentence div').all_inner_texts()[0] == 'no handler' and page.get_by_label('an example').input_value() == ''


@pytest.fixture(scope='module')
def gates() -> tuple:
    "A Guest with a few gates, and what it handed in."
    pytest.importorskip('ziglang')
    g = Workbench('gate 3, handler, 0xF, 3\n gate 14, handler, 0xE\n gate 8, handler, 0xF\n gate 0x80, handler, 0xF, 3\n hcall LHCALL_FLUSH_ASYNC\n handler: nop')
    wrote = [[0, 0] for _ in range(256)]
    def note(frame, _): wrote[frame.f_locals['num']] = [frame.f_locals['lo'], frame.f_locals['hi']]
    with Listener({(load_guest_idt_entry, CALL): note}):
        while g.regs.eip != g.at('handler'): g.turn()
    return g, wrote


def test_three_idts_differ_where_they_should(gates):
    g, wrote = gates
    rows = idt_rows(g.lg, wrote)
    assert [n for n, mine, *_ in rows if mine != [0, 0]] == [3, 8, 14, 0x80]
    assert [n for n, _, kept, *_ in rows if kept != [0, 0]] == [3, 14, 0x80]
    assert [n for n, *_, way in rows if way == 'directly'] == [3, 0x80]
    assert {idt_address(*used) for n, _, _, used, way in rows if way == 'directly'} == {g.at('handler')}


def test_the_tables_are_shown_and_decoded(show, gates):
    g, wrote = gates
    rows = idt_rows(g.lg, wrote)
    page = show(table_picture(rows, 'idt', 'gates', at=3))
    shown = {row.get_attribute('data-entry'): row.inner_text() for row in page.locator('tr[data-entry]').all()}
    assert sum('directly' in text for text in shown.values()) == 2 and len(shown) < 30   # alike are one row
    for at in (3, 8, 14, 128):
        page.locator(f'[data-entry="{at}"] button').click()
        assert page.locator('.detail code').all_inner_texts() == [f'{a:#010x} {b:#010x}' for a, b in rows[at][1:4]]
        changed = page.locator('.detail code').evaluate_all('nodes => nodes.map(n => n.classList.contains("new"))')
        assert changed == [False, rows[at][1] != rows[at][2], rows[at][2] != rows[at][3]]


def test_a_gdt_three_times(show, gates):
    g, _ = gates
    rows = gdt_rows(g.lg, guest_words(g.lg, g.pa('gdt'), 32))
    page = show(table_picture(rows, 'gdt', 'segments'))
    marked = page.locator('tr[data-entry]:has(td.new)').evaluate_all('nodes => nodes.map(n => +n.dataset.entry)')
    assert marked == [10, 11, 12, 13, 16]
    page.locator('[data-entry="16"]').click()
    text = page.locator('.detail').inner_text()
    base = segment_base(*rows[16][3])
    assert f'system: a task state, ring 0, {base:#010x} to {base + 103:#010x}' in text.replace(', in use', '') and "the Host's own" in text


@pytest.fixture(scope='module')
def pictures(life, ring, gates) -> list:
    "One of each kind."
    g, wrote = gates
    return [run_guest_picture(life), ring_picture(ring), decision_picture({'now': circumstances(g.lg)}), gate_bits(*wrote[3]), segment_bits(0xFFFF, 0xCF9A00),
            table_picture(idt_rows(g.lg, wrote), 'idt', 'gates'), table_picture(gdt_rows(g.lg, wrote[:32]), 'gdt', 'segments')]


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_they_fit_a_phone_and_axe_finds_nothing(show, pictures, scheme):
    for picture in pictures:
        page = show(picture, width=360, scheme=scheme)
        assert page.evaluate('document.documentElement.scrollWidth') <= 360, picture
        wide = page.evaluate("""() => [...document.querySelector('.lguest-picture').shadowRoot.querySelectorAll('.picture *:not(.scroll *):not(option):not(svg *)')]
            .filter((e) => e.getBoundingClientRect().right > 361).map((e) => e.outerHTML.slice(0, 80))""")
        assert not wide, (picture, wide)
        bad = [(v['id'], v['nodes'][0]['html'][:200]) for v in Axe().run(page).response['violations'] if v['impact'] in ('serious', 'critical')]
        assert not bad, (picture, bad)
