"The timeline: whatever it shows is what Python finds in the same recording, and a click goes where Python says."
import random
import re
import time

import numpy as np
import pytest

from lguest_lit.watch.film import film_life, registers_at as frame_registers
from lguest_lit.pictures.timeline import Timeline, column, view
from lguest_lit.watch.rewind import Moment, TimeMachine
from lguest_lit.watch.trace import REGISTERS, WHAT, TraceError, record, registers_at, shadow_at, thrown_away, to_bytes, write_file

LONG = dict(args='ticks=8000 quiet hz=1000', mem='4M')


@pytest.fixture(scope='module')
def machine():
    with TimeMachine('first', args='ticks=60', mem='4M', every=50) as machine: yield machine


@pytest.fixture(scope='module')
def film(machine): return film_life(machine, stays=[100, 165])


@pytest.fixture(scope='module')
def long():
    "A recording of more than 100,000 events."
    recording = record('first', **LONG)
    assert len(recording) >= 100_000
    return recording


@pytest.fixture
def page(show, film): return show(Timeline(film), width=1280)


def move(page, event: int):
    "The slider, as a hand would move it."
    page.get_by_label('moment').evaluate('(e, n) => { e.value = n; e.dispatchEvent(new Event("input")); }', event)


def where(page) -> int: return int(page.get_by_label('moment').input_value())


def shown_registers(page) -> dict:
    return page.locator('.reg').evaluate_all('all => Object.fromEntries(all.map((e) => [e.dataset.register, parseInt(e.querySelector("button").textContent, 16)]))')


def moments(film, n=12):
    dice = random.Random(3)
    return dice.sample(range(len(film.recording)), n)


def test_registers_and_console_as_the_recording_has_them(page, film):
    for event in [0, len(film.recording) - 1, *moments(film)]:
        move(page, event)
        assert shown_registers(page) == registers_at(film.recording, event)
        said = ''.join(film.recording.text(n) for n in film.recording.of_kind('console') if n <= event)
        assert page.locator('.body.console').text_content() == said
        changed = {place for what, place, *_ in film.recording.changes_of(event) if what == 'register'}
        assert set(page.locator('.reg.new').evaluate_all('all => all.map((e) => e.dataset.register)')) == changed


def test_page_tables_as_the_recording_has_them(page, film):
    for event in moments(film):
        move(page, event)
        upper, lower = shadow_at(film.recording, event)
        for slot in range(4):
            said = page.locator(f'details[data-slot="{slot}"] summary').text_content()
            tables, pages = sum(s == slot for s, _ in upper), sum(s == slot for s, _ in lower)
            assert (f', {tables} tables, {pages} pages' in said) if tables else 'tables' not in said


def test_code_is_that_at_the_instruction_pointer(page, film):
    for event in film.recording.of_kind('leave')[40:160:30].tolist():
        move(page, event)
        line = page.locator('.listing .now').inner_text()
        assert f"{registers_at(film.recording, event)['eip']:08x}" in line


def test_stack_words_are_those_in_the_machines_memory(page, film, machine):
    for switch in (120, 200, 260):
        enter = next(n for n in film.recording.at(switch) if film.recording.kind(n) == 'enter')
        machine.goto(switch)
        regs = registers_at(film.recording, enter)
        if regs['esp'] < film.recording.meta['page_offset']: continue
        at = regs['esp'] - film.recording.meta['page_offset'] & ~3
        real = np.frombuffer(machine.lg.mm.ram, np.uint32)[at >> 2:(at >> 2) + 10].tolist()
        move(page, enter)
        assert [int(text, 16) for text in page.locator('.body.stack button').all_text_contents()] == real


def test_next_and_previous_of_a_kind(page, film):
    kinds = {'hypercalls': ('hypercall', 'ring hypercall'), 'direct traps': ('direct trap',), 'page tables': ('set_pte', 'set_pmd', 'new_pgdir', 'new_pagetable', 'flush')}
    for title, names in kinds.items():
        events = film.recording.of_kind(*names)
        page.get_by_label('kind of event').select_option(label=f'{title} ({len(events):,})')
        move(page, 700)
        page.get_by_label('the next of this kind').click()
        assert where(page) == events[events > 700][0]
        page.get_by_label('the one before of this kind').click()
        page.get_by_label('the one before of this kind').click()
        assert where(page) == events[events < events[events > 700][0]][-2 if 700 in events else -1 - (events[events <= 700][-1] != 700)]


def test_search_finds_addresses_names_and_text(page, film):
    recording, box = film.recording, page.get_by_label(re.compile('^search: '))
    move(page, 0)
    box.fill('NEW_PGTABLE')
    box.press('Enter')
    calls = [n for n in recording.of_kind('hypercall', 'ring hypercall') if recording.events['code'][n] == 4]
    assert where(page) == calls[0] and f'1 of {len(calls)}' in page.locator('.answer').text_content()
    page.get_by_label('search', exact=True).click()
    assert where(page) == calls[1]
    value = 0x10F000
    events, changes = recording.events, recording.changes
    hits = {n for n in range(len(recording)) if value in [int(events[f][n]) for f in 'abcd']}
    hits |= {int(n) for n in recording.owner[(changes['new'] == value) | (changes['where'] == value) & (changes['what'] != WHAT['register'])]}
    move(page, 0)
    box.fill(hex(value))
    box.press('Enter')
    assert where(page) == min(hits - {0}) and f'of {len(hits)} for' in page.locator('.answer').text_content()
    box.fill('no such thing')
    box.press('Enter')
    assert 'nowhere' in page.locator('.answer').text_content()


def test_who_changed_this_register(page, film):
    recording = film.recording
    for event, name in ((700, 'eax'), (900, 'esp'), (1200, 'trapnum'), (650, 'edi')):
        mine = np.flatnonzero((recording.changes['what'] == WHAT['register']) & (recording.changes['where'] == REGISTERS.index(name)))
        changed = np.unique(recording.owner[mine])
        earlier = changed[changed < event][-1]
        move(page, event)
        page.locator(f'.reg[data-register="{name}"] button').click()
        assert where(page) == earlier and name in page.locator('.answer').text_content()
        page.get_by_label('back to where you were').click()
        assert where(page) == event


def test_who_wrote_this_word_of_the_stack(page, film):
    recording = film.recording
    event = next(n for n in recording.of_kind('reflect').tolist() if n > 600)
    move(page, event + 1)
    row = page.locator('.body.stack tr').nth(2)
    at = int(row.locator('td').first.text_content(), 16) - recording.meta['page_offset']
    writers = recording.owner[(recording.changes['what'] == WHAT['memory']) & (recording.changes['where'] == at)]
    row.locator('button').click()
    assert where(page) == writers[writers <= event + 1][-1]


def test_when_was_this_entry_thrown_away(page, film):
    event = film.recording.of_kind('direct trap')[5]
    move(page, int(event))
    chip = page.locator('.chips button').first
    vaddr, slot = int(chip.text_content().split()[0], 16), int(page.locator('details[open]').get_attribute('data-slot'))
    deaths = [n for n in thrown_away(film.recording, vaddr, slot) if n > event]
    chip.click()
    if deaths: assert where(page) == deaths[0] and 'thrown away here' in page.locator('.answer').text_content()
    else: assert 'never thrown away' in page.locator('.answer').text_content()


def test_a_filmed_stay_by_the_instruction(page, film):
    stay = film.stays[1]
    enter = next(n for n in film.recording.at(165) if film.recording.kind(n) == 'enter')
    move(page, enter)
    for n in (1, 18, 40, len(stay['frames']) - 2):
        page.get_by_label('instruction of the stay').evaluate('(e, n) => { e.value = n; e.dispatchEvent(new Event("input")); }', n)
        assert shown_registers(page) == frame_registers(stay, n)
        assert f"{stay['code'][stay['frames'][n]['insn']][0]:08x}" in page.locator('.listing .now').inner_text()
    page.get_by_label('one instruction back').click()
    assert shown_registers(page) == frame_registers(stay, len(stay['frames']) - 3)
    page.locator('.reg[data-register="cr3"] button').click()               # who loaded CR3? On the way out, the Switcher
    k = max(k for k, frame in enumerate(stay['frames'][:-2]) if 'cr3' in frame['regs'])
    assert page.get_by_label('instruction of the stay').input_value() == str(k)
    move(page, enter + 3)
    assert shown_registers(page) == registers_at(film.recording, enter + 3)


def test_keys_and_zoom(page, film):
    move(page, 500)
    page.get_by_label('moment').focus()
    for key, there in (('ArrowRight', 501), ('ArrowLeft', 500), ('End', len(film.recording) - 1), ('Home', 0)):
        page.keyboard.press(key)
        assert where(page) == there
    page.keyboard.press(']')
    assert where(page) == film.recording.of_kind('hypercall', 'ring hypercall')[0]
    move(page, 500)
    before = page.locator('.strip').evaluate('e => e.toDataURL()')
    page.get_by_label('show less of it, larger').click()
    assert page.locator('.strip').evaluate('e => e.toDataURL()') != before
    box = page.locator('.strip').bounding_box()
    page.mouse.click(box['x'] + box['width']/2, box['y'] + 5)
    assert abs(where(page) - 500) < len(film.recording)/4


@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('width', [360, 820])
def test_it_fits_a_phone_and_a_page(show, film, width, scheme):
    page = show(Timeline(film, at=642), width=width, scheme=scheme)
    assert page.evaluate('document.documentElement.scrollWidth') <= width
    boxes = page.locator('.panel').evaluate_all('all => all.map((e) => { const b = e.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom]; })')
    for i, a in enumerate(boxes):
        for b in boxes[:i]: assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], 'two panels overlap'


def test_columns_come_back_as_they_were():
    import base64, zlib
    for kind in 'u1', 'u2', 'u4':
        numbers = np.random.default_rng(1).integers(0, 1 << 8*int(kind[1]), 1000).astype(kind)
        for these in numbers, np.sort(numbers):
            made = column(these)
            raw = np.frombuffer(zlib.decompress(base64.b64decode(made['packed'])), np.uint8).reshape(these.itemsize, -1).T.copy().view(kind)[:, 0]
            assert ((np.cumsum(raw, dtype=kind) if made['delta'] else raw) == these).all()


@pytest.mark.slow
def test_a_long_recording_by_itself(show, long):
    "A bare recording of 100,000 events: it draws, and a jump is a matter of milliseconds. (The bound says only that nothing hangs.)"
    page = show(Timeline(long), width=1280)
    event = len(long) // 2
    move(page, event)
    assert shown_registers(page) == registers_at(long, event)
    jumps = '''() => { const root = document.querySelector(".lguest-picture").shadowRoot, slider = root.querySelector(".stepper input"), times = [];
        let x = 7;
        for (let k = 0; k < 200; k++) {
            x = (x * 1103515245 + 12345) % 2147483648;
            const began = performance.now();
            slider.value = x % (+slider.max + 1); slider.dispatchEvent(new Event("input"));
            root.querySelector(".picture").getBoundingClientRect();          // waits for the layout
            times.push(performance.now() - began);
        }
        return times.sort((a, b) => a - b); }'''
    times = page.evaluate(jumps)
    print(f'{len(long):,} events, 200 jumps in the page: median {times[100]:.1f} ms, 95 % within {times[190]:.1f} ms, longest {times[-1]:.1f} ms')
    assert times[100] <= 1000


@pytest.mark.slow
def test_a_live_jump(long):
    "The same life, live: from anywhere to anywhere in a small part of the time that the life took."
    with TimeMachine('first', every=1000, **LONG) as machine:
        began = time.process_time()
        machine.run_to(1 << 30)
        life = time.process_time() - began
        picture = Timeline(long, machine)
        dice, times = random.Random(1), []
        for _ in range(12):
            event, began = dice.randrange(len(long)), time.process_time()
            picture.at = event
            times.append(time.process_time() - began)
            assert machine.now == Moment(int(long.events['switch'][event])) and picture.now['at'] == event
    times.sort()
    print(f'{len(long):,} events, live: median {times[6]*1000:.0f} ms, longest {times[-1]*1000:.0f} ms; the life took {life*1000:.0f} ms')
    assert times[6] < life / 3


def test_live_answers_are_exact(machine, film):
    picture, said = Timeline(film, machine), []
    picture.send = said.append
    picture.answer(dict(ask='register', name='ebx', at=picture.event_of(110), insn=0))
    event, insn = said[0]['go']
    machine.goto(int(film.recording.events['switch'][event]), insn)
    before = machine.registers()['ebx']
    machine.step()
    after = machine.registers()['ebx']
    assert before != after and f'{before:#x} → {after:#x}' in said[0]['say']
    picture.answer(dict(step=1, at=event, insn=insn))
    assert (picture.at, picture.insn) == (event, insn + 1) and picture.now['regs']['ebx'] == after
    picture.answer(dict(step=-1, at=event, insn=insn + 1))
    assert picture.now['regs']['ebx'] == before


def test_a_saved_recording_becomes_a_page(film, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr('webbrowser.open', opened.append)
    write_file(tmp_path/'a.lgt', to_bytes(film.recording))
    page = view(tmp_path/'a.lgt')
    assert page == tmp_path/'a.html' and opened == [page.as_uri()]
    assert view(tmp_path/'a.lgt', tmp_path/'b.html', show=False).read_text() == page.read_text() and len(opened) == 1
    for bad in (tmp_path/'a.html', tmp_path/'none.lgt'):
        with pytest.raises(TraceError, match=re.escape(str(bad))): view(bad, tmp_path/'c.html', show=False)
    with pytest.raises(TraceError, match='the recording itself'): view(tmp_path/'a.lgt', tmp_path/'a.lgt', show=False)
    with pytest.raises(TraceError, match='cannot write'): view(tmp_path/'a.lgt', tmp_path/'no'/'c.html', show=False)
    assert not (tmp_path/'c.html').exists()


def test_the_start_page_moves(browser, served):
    page = browser.new_page(viewport=dict(width=1280, height=900))
    page.goto(served + 'index.html')
    page.locator('.lguest-picture .picture').wait_for()
    move(page, 300)
    assert page.locator('.stepper output').text_content().startswith('301 of')
    took, bytes_ = page.evaluate('[performance.now(), performance.getEntriesByType("navigation")[0].encodedBodySize]')
    top = page.locator('.strip').bounding_box()
    print(f'start page: {bytes_:,} bytes, interactive after {took:.0f} ms')
    assert bytes_ <= 2_000_000 and top['y'] + top['height'] < 900
    page.close()
