"The trap microscope and the Switcher's picture: what they show is what the recorded run says, at each step, on a page by itself."
import pytest

from lguest_lit.i386.cpu import flat_machine
from lguest_lit.interrupts_and_traps import has_err
from lguest_lit.pictures.trap_microscope import chains, error_rows, microscope, microscope_bare, pushed, trap_microscope, Witness
from lguest_lit.workbench import Workbench

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
    "The rows of a stack on the page: {name: (value, note)}."
    rows = [[cell.inner_text() for cell in row.locator('td').all()] for row in page.get_by_role('table', name=title).first.locator('tr').all()]
    return {name: (value, note) for _, name, value, note in rows}


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
            assert ('●' in seen[row['name']][1]) == any(at == n for at, _ in row['history'])
        if n + 1 < len(pair[0]['steps']): page.keyboard.press('ArrowRight') if n else page.get_by_role('button', name='step forward').click()


def test_side_by_side_the_short_way_waits(show, pair):
    page = show(trap_microscope(*pair, beside=True, costs=[('world switches', '1', '0')]))
    page.get_by_role('button', name='frame by hand').click()
    assert page.locator('[aria-current]').all_inner_texts() == ['frame by hand', 'handler']
    page.get_by_role('slider').press('End')
    assert page.locator('[aria-current]').all_inner_texts() == ['in again', 'handler']
    assert 'steps ago' in page.locator('.what').nth(1).inner_text()
    frames = [table for table in page.get_by_role('table', name="The Guest kernel's stack").all()]
    left, right = ([row.locator('td').nth(2).inner_text() for row in frame.locator('tr').all()] for frame in frames)
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
