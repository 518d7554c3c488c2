"The pictures: on a page with no kernel and no network each is there, and moves as its data says."
import base64
import json
import re
import shutil
import zlib
from html import escape as html_text
from pathlib import Path

import pytest

from lguest_lit.pictures import base as base_module
from lguest_lit.pictures.base import HERE, bit_fields, module, names, packed, rule, script, source

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
    for name in names(): assert not re.search('(?i)<!--|</?script', script(name)), name


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_a_picture_fits_a_phone_in_both_schemes(show, scheme):
    page = show(bit_fields([('all', [(0, 63)], None)], 0, 1), width=360, scheme=scheme)
    assert page.evaluate('document.documentElement.scrollWidth') <= 360
    assert page.locator('.picture').evaluate('e => e.classList.contains("dark")') == (scheme == 'dark')


def shown(path) -> list:
    "All HTML that a notebook is stored with, output by output."
    return [''.join(out.get('data', {}).get('text/html', '')) for cell in json.loads(path.read_text())['cells'] for out in cell.get('outputs', ())]


def test_notebooks_are_stored_with_state_and_still_and_no_module():
    "Whoever changes a module or the styles changes no notebook."
    lines = {line.strip() for path in HERE.iterdir() if path.suffix in ('.js', '.css') for line in path.read_text().splitlines() if len(line.strip()) > 40}
    pictures = 0
    for path, html in ((path, html) for path in sorted((ROOT/'nbs').rglob('*.ipynb')) for html in shown(path)):
        assert not [line for line in lines if line in html], f'make nbs NB={path.relative_to(ROOT)}'
        if 'data-picture=' not in html: continue
        pictures += 1
        state, = re.findall(r'<script type="application/json">(.*)</script>', html)
        state = json.loads(state)
        if isinstance(state, str): state = json.loads(zlib.decompress(base64.b64decode(state)))
        assert html_text(state['title']) in html and html_text(state['label']) in html and html.count('<script') == 1
        assert '<td>' in html, f'{path.relative_to(ROOT)}: a picture of which nothing is seen where nothing runs'
    assert pictures > 50


def test_a_module_that_is_changed_changes_no_output_and_is_drawn_at_once(monkeypatch, tmp_path):
    "The widget that is made next has the new text, and so has the site; what a notebook stores is as before."
    made = lambda: bit_fields([('all', [(0, 31)], None)], 5)
    before, site = made().fragment(), script(*names())
    shutil.copytree(HERE, tmp_path/'pictures')
    for name in 'common.css', 'common.js', 'bit_fields.js':
        with (tmp_path/'pictures'/name).open('a') as f: f.write(f'/* {name} */')
    monkeypatch.setattr(base_module, 'HERE', tmp_path/'pictures')
    assert made().fragment() == before and script(*names()) != site
    assert all(f'/* {name} */' in made()._esm for name in ('common.css', 'common.js', 'bit_fields.js'))


def test_the_site_brings_each_module_once():
    text = script(*names())
    assert text.count(':host') == 1 and re.findall(r'^draw\("(\w+)"', text, re.M) == names()
    for name in names(): assert text.count(source(f'{name}.js').splitlines()[0]) == 1
