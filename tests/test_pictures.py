"The pictures: on a page with no kernel and no network each is there, and moves as its data says."
import json
import re
from pathlib import Path

import pytest

from lguest_lit.pictures.base import HERE, bit_fields, module, packed, rule, script

ROOT = Path(__file__).resolve().parents[1]


def test_a_module_that_is_not_there_is_named():
    with pytest.raises(FileNotFoundError, match='no_such.js'): module('no_such')


def test_bits_can_be_turned(show):
    page = show(bit_fields([('low', [(0, 3)], {5: 'five'}), ('rest', [(4, 31)], None)], 4, rules=[rule(keep=[0xF], add=[0x100])]))
    rows = lambda: [row.inner_text().split('\t') for row in page.locator('tbody tr').all()]
    assert rows()[0] == ['low 0–3', '0x4', '0x4']
    page.locator('[data-bit="0"]').click()
    assert rows()[0] == ['low 0–3', '0x5 five', '0x5 five']
    page.get_by_label('value').fill('f0')
    page.get_by_label('value').press('Enter')
    assert rows() == [['low 0–3', '0x0', '0x0'], ['rest 4–31', '0xf', '0x10']]


EVIL = '<!--<script>', '</script><script>document.title = "taken"</script>', '<img src=x onerror="document.title=1">', '&lt;b&gt; ]]>'


@pytest.mark.parametrize('evil', EVIL)
def test_text_from_anywhere_stays_text(show, evil):
    "Title, label, names and meanings, in a short state (JSON) and in a long one (packed)."
    for filler in '', 'x' * 3000:
        page = show(bit_fields([(evil, [(0, 3)], {5: evil}), ('rest', [(4, 31)], {0: filler})], 5, title=evil))
        assert page.locator('tbody tr').first.inner_text().startswith(evil) and page.title() == evil


@pytest.mark.parametrize('evil', EVIL)
def test_no_state_can_end_or_hide_its_script(evil):
    for text in evil, evil * 300:
        assert '<' not in packed({'data': text, text: [text]})
        html = bit_fields([(text, [(0, 3)], {5: text})], 5, title=text).fragment()
        assert len(re.findall('(?i)<script', html)) == len(re.findall('(?i)</script', html)) == 1 and '<!--' not in html


def test_the_modules_themselves_have_nothing_of_the_kind():
    for path in HERE.glob('*.js'):
        if path.stem in ('common', 'static'): continue
        assert not re.search('(?i)<!--|</?script', script(path.stem)), path.name


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_a_picture_fits_a_phone_in_both_schemes(show, scheme):
    page = show(bit_fields([('all', [(0, 63)], None)], 0, 1), width=360, scheme=scheme)
    assert page.evaluate('document.documentElement.scrollWidth') <= 360
    assert page.locator('.picture').evaluate('e => e.classList.contains("dark")') == (scheme == 'dark')


def test_stored_pictures_are_drawn_by_the_modules_of_today():
    "A picture takes its module along into the notebook's output; whoever changes one runs the notebooks that show it."
    outputs = [(path, ''.join(out.get('data', {}).get('text/html', ''))) for path in sorted((ROOT/'nbs').rglob('*.ipynb'))
               for cell in json.loads(path.read_text())['cells'] for out in cell.get('outputs', ())]
    stored = [(path, html, match[1]) for path, html in outputs if (match := re.search(r'data-picture="(\w+)"', html))]
    stale = sorted({str(path.relative_to(ROOT)) for path, html, name in stored if script(name) not in html})
    assert len(stored) > 50 and not stale, f'make nbs NB="{" ".join(stale)}"'
