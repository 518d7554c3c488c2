"The trap microscope and the Switcher's picture: what they show is what the recorded run says, at each step, on a page by itself."
import re

import pytest

from lguest_lit.watch.film import Labels
from lguest_lit.i386.cpu import flat_machine
from lguest_lit.host.interrupts_and_traps import has_err
from lguest_lit.host.lg import LguestRoState
from lguest_lit.pictures.switcher import PARTS, film_switch, switcher_data, switcher_picture, switcher_turns
from lguest_lit.pictures.trap_microscope import chains, error_rows, microscope, microscope_bare, pushed, trap_microscope, Witness
from lguest_lit.watch.rewind import TimeMachine
from lguest_lit.launcher.workbench import Workbench, assemble

CALL = '''
        gate  5, service, {kind}, 3
        user  program
program: int  $5
        int   $0x1f
service: iret
'''


def call(kind, name): return microscope(Workbench(CALL.format(kind=kind)), 5, name)


@pytest.fixture(scope='module')
def pair(): return call('0xE', 'bounced'), call('0xF', 'direct')


def words(page, title):
    "The rows of a stack on the page: {name: (value, is it new?)}."
    rows = [[cell.inner_text() for cell in row.locator('td').all()] for row in page.get_by_role('table', name=title).first.locator('tr').all()]
    return {name.split(' ●')[0]: (value.split()[0], '●' in name) for _, _, name, value in rows}


def test_the_telling_is_what_is_in_memory():
    for kind in '0xE', '0xF':
        g = Workbench(CALL.format(kind=kind))
        trap = microscope(g, 5)
        read = {at: g.word(at - g.lg.page_offset) for at in pushed(trap)}
        assert read == pushed(trap) and len(read) == 5
        assert trap['switches'] == (kind == '0xE') and (trap['instructions'] > 50) == (kind == '0xE')


def test_a_witness_changes_nothing():
    told, plain = Workbench(CALL.format(kind='0xE')), Workbench(CALL.format(kind='0xE'))
    for _ in range(20):
        if plain.dead: break
        plain.turn()
        with Witness(told.host.cpu, told.lg): told.turn()
        assert bytes(told.lg.regs) == bytes(plain.lg.regs) and told.mm.ram == plain.mm.ram and told.host.cpu.registers() == plain.host.cpu.registers()
    assert plain.dead and told.dead == plain.dead
    assert 'deliver' not in vars(told.host.cpu)


def test_a_trap_that_does_not_come_is_named():
    with pytest.raises(ValueError, match='vector 5 has not come'): microscope(Workbench('nop'), 5)
    with pytest.raises(ValueError, match='nothing'): microscope_bare(flat_machine(b'\xf4'))


def test_a_refused_int_becomes_a_protection_fault():
    with Witness(cpu := flat_machine(b'\xcd\x21', 3)) as witness: cpu.run()
    (_, (first, second)), = chains(witness.story)
    assert (first.vector, second.vector, second.error) == (0x21, 13, 0x21 * 8 + 2)
    assert error_rows(13, second.error)[-1][3] == 'entry 33 of the IDT'


@pytest.mark.parametrize('vector', [v for v in range(32) if has_err(v)])
def test_every_error_code_is_explained(vector):
    for error in 0, 1, 2, 4, 7, 0x402:
        if vector != 14: assert error_rows(vector, error)[-1][3].endswith(('IDT', 'LDT', 'GDT', 'blame'))
        assert all(len(row) == 4 for row in error_rows(vector, error))


def test_every_step_shows_its_words(show, pair):
    page = show(trap_microscope(pair[0]))
    for n, step in enumerate(pair[0]['steps']):
        assert f'step {n + 1} of {len(pair[0]["steps"])}: {step["phase"]}' == page.locator('.stepper output').inner_text()
        assert page.locator('.what').inner_text() == f'{step["who"]}: {step["text"].replace("`", "")}'
        seen = words(page, 'The register page')
        for row in pair[0]['stacks'][0]['rows']:
            known = [value for at, value in row['history'] if at <= n]
            assert seen[row['name']][0] == (hex(known[-1]) if known else '·')
            assert seen[row['name']][1] == any(at == n for at, _ in row['history'])
        if n + 1 < len(pair[0]['steps']): page.keyboard.press('ArrowRight') if n else page.get_by_role('button', name='step forward').click()


def test_side_by_side_the_short_way_waits(show, pair):
    page = show(trap_microscope(*pair, beside=True, costs=[('world switches', '1', '0')]))
    page.get_by_role('button', name='frame by hand').click()
    assert page.locator('[aria-current]').all_inner_texts() == ['frame by hand', 'handler']
    page.get_by_role('slider').press('End')
    assert page.locator('[aria-current]').all_inner_texts() == ['in again', 'handler']
    assert 'steps ago' in page.locator('.what').nth(1).inner_text()
    frames = [table for table in page.get_by_role('table', name="The Guest kernel's stack").all()]
    left, right = ([row.locator('td').nth(3).inner_text() for row in frame.locator('tr').all()] for frame in frames)
    assert [int(a, 16) ^ int(b, 16) for a, b in zip(left, right)] == [0, 0, 0x200, 0, 0]


def test_one_of_several_is_chosen(show, pair):
    page = show(trap_microscope(*pair))
    page.get_by_role('button', name='step forward').click()
    page.get_by_role('button', name='direct', exact=True).click()
    assert page.locator('.stepper output').inner_text() == f'step 1 of {len(pair[1]["steps"])}: instruction'
    assert page.get_by_role('slider').get_attribute('max') == str(len(pair[1]['steps']) - 1)
    assert list(words(page, "The Guest kernel's stack")) == ['ss', 'esp', 'eflags', 'cs', 'eip']


def test_a_grid_leads_to_what_was_caught(show, pair):
    cells = [dict(vector=5, name='bound', how='also directly', world=2, error=False, trap=1), dict(vector=8, name='double fault', how='never', world=0, error=True, trap=None)]
    page = show(trap_microscope(*pair, grid=cells))
    assert page.locator('[data-vector="8"]').is_disabled() and 'with an error code' in page.locator('[data-vector="8"]').get_attribute('aria-label')
    page.locator('[data-vector="5"]').click()
    assert page.locator('.box h4').first.inner_text().startswith('direct')


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_microscopes_fit_a_phone(show, pair, scheme):
    page = show(trap_microscope(*pair, beside=True, costs=[('world switches', '1', '0')]), width=360, scheme=scheme)
    for key in 'Home', 'End':
        page.get_by_role('slider').press(key)
        assert page.evaluate('document.documentElement.scrollWidth') <= 360


# --- the Switcher

@pytest.fixture(scope='module')
def life():
    "A Guest with all four worlds in its eighth stay."
    image = assemble(CALL.format(kind='0xF').replace('int   $0x1f', 'ud2'))
    with TimeMachine(image, mem='4M') as machine: yield machine, Labels(image)


@pytest.fixture(scope='module')
def stay(life): return next(film for n in range(20) for film in [film_switch(life[0], n, life[1])] if {f['world'] for f in film['frames']} == {0, 1, 2, 3})


def test_the_words_at_the_end_are_those_in_memory(life, stay):
    machine, data = life[0], switcher_data(stay, PARTS)
    words = {place: list(start['words']) for place, start in data['start'].items()}
    for frame in data['frames']:
        for place, at, value in frame['writes']:
            if place in words: words[place][(at - data['start'][place]['offset']) // 4] = value
    machine.to_switch(stay['switch'])
    seen = {}
    def halted(*args, **kw):                                   # the moment at which the film ends, before the Host goes on
        why = type(machine.host.cpu).run(machine.host.cpu, *args, **kw)
        if why == 'halted' and not seen: seen.update(regs=[getattr(machine.lg.regs, name) for name in data['regs']], state=bytes(machine.host.states[0]))
        return why
    machine.host.cpu.run = halted
    try: machine.go(stay['switch'] + 1)
    finally: del machine.host.cpu.run
    assert words['register page'] == seen['regs']
    assert b''.join(word.to_bytes(4, 'little') for word in words['state page'])[:len(seen['state'])] == seen['state']
    assert words['scratch page'] == [0] * 18


def test_a_film_leaves_the_machine_where_it_was(life):
    machine = life[0]
    machine.goto(3)
    before = machine.hash()
    film_switch(machine, 2, life[1])
    assert machine.hash() == before
    with pytest.raises(ValueError, match='no stay after switch 100000'): film_switch(machine, 100000, life[1])


def rows_of(page, name): return [[cell.inner_text() for cell in row.locator('td').all()] for row in page.get_by_role('table', name=name, exact=True).locator('tbody tr').all()]


def test_the_switcher_shows_each_frame(show, stay):
    picture = switcher_picture(stay)
    page, frames, code = show(picture), picture.data['frames'], picture.data['code']
    regs, stack = {}, {}
    page.get_by_role('button', name='step forward').focus()
    for n, frame in enumerate(frames):
        regs |= frame['regs']
        for place, at, value in frame['writes']:
            if place == "Host's stack": stack[at] = value
        line = page.locator('[data-line][aria-current]')
        if frame.get('insn') is None: assert line.count() == 0
        else: assert line.locator('td').all_inner_texts()[1:] == [f'{code[frame["insn"]][0]:08x}', code[frame['insn']][2], code[frame['insn']][1]]
        if n % 9 == 4:
            assert [row[2] for row in rows_of(page, "the Host's stack")] == [hex(stack[at]) if at in stack else '·' for at, _ in picture.data['stack']]
            shown = dict(text.replace(' ●', '').split() for text in page.get_by_role('listitem').all_inner_texts())
            assert shown == {name: hex(regs[name]) for name in picture.data['registers']}
            now = ['◀' in cell for row in rows_of(page, 'what belongs to which world') for cell in row]
            assert now == [regs[name] == side for name in ('cr3', 'gdtr', 'idtr', 'tss') for side in picture.data['sides'][name]]
        if n + 1 < len(frames): page.keyboard.press('ArrowRight')


def test_the_lit_column_follows_cr3(show, stay):
    picture = switcher_picture(stay, ('register page',))
    page = show(picture)
    heads = lambda: page.get_by_role('table', name='the register page').locator('th').all_inner_texts()[2:]
    load = next(n for n, frame in enumerate(picture.data['frames']) if frame['regs'].get('cr3') == picture.data['sides']['cr3'][1])
    page.get_by_role('slider').fill(str(load - 1))
    assert ['seen' in text for text in heads()] == [True, False]
    page.get_by_role('button', name='step forward').click()
    assert ['seen' in text for text in heads()] == [False, True]
    page.get_by_role('slider').press('End')
    assert ['seen' in text for text in heads()] == [True, False]
    shown = [int(row[3], 16) for row in rows_of(page, 'the register page')][::-1]
    assert dict(zip(picture.data['regs'], shown))['trapnum'] == 6


def test_a_square_of_the_state_page_can_be_read(show, life):
    stays = [film_switch(life[0], n, life[1]) for n in range(3)]
    page = show(switcher_turns(stays))
    filled = lambda: int(re.search(r'(\d+) of 612 words', page.locator('.map').get_attribute('aria-label'))[1])
    before = filled()
    page.get_by_role('slider').press('End')
    assert filled() > before
    page.locator('[data-word="0"]').click()
    assert page.get_by_text('host_cr3 = ').inner_text() == f'0xffc02000: host_cr3 = {life[0].host.pgdir << 12:#x}'
    page.locator(f'[data-word="{LguestRoState.guest_idt.offset // 4 + 2 * 6}"]').click()
    gate = life[0].host.states[0].guest_idt[6]
    assert page.get_by_text('guest_idt[6].a = ').inner_text().endswith(hex(gate.a))


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_the_switcher_fits_a_phone(show, stay, scheme):
    page = show(switcher_picture(stay), width=360, scheme=scheme)
    for key in 'Home', 'End':
        page.get_by_role('slider').press(key)
        assert page.evaluate('document.documentElement.scrollWidth') <= 360
