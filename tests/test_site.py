"The rendered site: opened page by page in a real browser with the network cut off, on a phone and on a desk, light and dark."
import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
from axe_playwright_python.sync_playwright import Axe

from lguest_lit.tools.reference import modules
from lguest_lit.tools.site import terms_of
from test_marks import ELSEWHERE, MARKS, home

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
PHONE, DESK = dict(width=390, height=844), dict(width=1280, height=900)
MAX_BYTES = 2_000_000
CHAPTER = 'nbs/5_host/H330_demand_page.html'
KINDS = 'index.html', 'nbs/index.html', CHAPTER, 'nbs/glossary.html', 'nbs/reference/host.clock.html'

# Everything that is asked of a page, in one go.
LOOK = '''() => ({
  ids: Array.from(document.querySelectorAll('[id]:not(svg *)'), e => e.id), lang: document.documentElement.lang,
  links: Array.from(document.querySelectorAll('a[href]'), a => a.href), h1: document.querySelectorAll('h1').length,
  noAlt: Array.from(document.querySelectorAll('img:not([alt])'), i => i.outerHTML.slice(0, 200)),
  skip: document.body.firstElementChild.getAttribute('href'), main: !!document.querySelector('main#quarto-document-content'),
  width: document.documentElement.scrollWidth,
  previous: document.querySelector('.nav-page-previous a')?.href, next: document.querySelector('.nav-page-next a')?.href,
  sidebar: Array.from(document.querySelectorAll('#quarto-sidebar a.sidebar-link[href]'), a => a.href),
  terms: Array.from(document.querySelectorAll('a.term'), a => [a.href, a.title, !!a.closest('.cell, pre, code, h1, h2, h3, h4') || !!a.parentElement.closest('a')]),
  notes: document.querySelectorAll('.note textarea').length,
  bytes: performance.getEntriesByType('navigation').concat(performance.getEntriesByType('resource')).reduce((sum, e) => sum + e.encodedBodySize, 0),
})'''


@pytest.fixture
def open_page(browser, served):
    "A function that opens a page of the site in a new, empty browser; errors on the console and requests to elsewhere fail the test."
    contexts, troubles = [], []

    def opened(name, viewport=DESK, scheme='light', script=None):
        context = browser.new_context(viewport=viewport, color_scheme=scheme, reduced_motion='reduce')
        contexts.append(context)
        if script: context.add_init_script(script)
        page = context.new_page()
        watch(page, served, troubles)
        page.goto(served + name)
        return page
    yield opened
    for context in contexts: context.close()
    assert not troubles


def watch(page, served, troubles):
    "Note what goes wrong on a page, and what it asks of others."
    page.on('pageerror', lambda error: troubles.append(f'{page.url}: {error}'))
    page.on('console', lambda m: troubles.append(f'{page.url}: {m.text}') if m.type == 'error' else None)
    page.on('request', lambda r: troubles.append(f'{page.url} asks {r.url}') if not r.url.startswith((served, 'data:', 'blob:')) else None)


@pytest.fixture(scope='session')
def tour(browser, served, site):
    "(troubles, what LOOK found on each page): every page of the site, on a phone."
    context, troubles, found = browser.new_context(viewport=PHONE), [], {}
    page = context.new_page()
    watch(page, served, troubles)
    for path in sorted(site.rglob('*.html')):
        name = path.relative_to(site).as_posix()
        page.goto(served + name)
        found[name] = page.evaluate(LOOK)
    context.close()
    return troubles, found


# --- every page ----------------------------------------------------------------------------------------------------------

def test_pages_run_without_error_and_ask_nobody(tour): assert tour[0] == []


def test_there_is_a_page_for_everything(tour):
    expected = {p.relative_to(ROOT).with_suffix('.html').as_posix() for p in NOTEBOOKS}
    expected |= {'index.html', 'nbs/glossary.html', 'nbs/reference/index.html'} | {f'nbs/reference/{m.name}.html' for m in modules(ROOT)}
    assert set(tour[1]) == expected


def test_links_and_anchors_lead_somewhere(tour, served, site):
    broken = []
    for name, page in tour[1].items():
        for link in page['links']:
            if not link.startswith(served): continue
            target, anchor = urldefrag(unquote(link.removeprefix(served)))
            if not (site/target).is_file(): broken.append(f'{name}: {target}')
            elif anchor and target in tour[1] and anchor not in tour[1][target]['ids']: broken.append(f'{name}: {target}#{anchor}')
    assert broken == []


def test_ids_are_unique(tour):
    twice = {name: sorted({i for i in page['ids'] if page['ids'].count(i) > 1}) for name, page in tour[1].items() if len(set(page['ids'])) < len(page['ids'])}
    assert twice == {}


def test_pages_have_what_a_screen_reader_looks_for(tour):
    bad = [(name, page['h1'], page['lang'], page['skip'], page['noAlt']) for name, page in tour[1].items()
           if (page['h1'], page['lang'], page['skip'], page['main'], page['noAlt']) != (1, 'en-GB', '#quarto-document-content', True, [])]
    assert bad == []


def test_no_page_is_wider_than_a_phone(tour): assert {n: p['width'] for n, p in tour[1].items() if p['width'] > PHONE['width']} == {}


def test_pages_are_light(tour): assert {n: p['bytes'] for n, p in tour[1].items() if p['bytes'] > MAX_BYTES} == {}


def test_previous_and_next_follow_the_sidebar(tour, served):
    order = list(dict.fromkeys(urldefrag(link)[0] for link in tour[1]['index.html']['sidebar']))
    assert [link.removeprefix(served) for link in order] == list(dict.fromkeys(x.removeprefix(served) for x in order)) and len(order) == len(tour[1])
    chapters = [page for link in order if re.match(r'nbs/\d_', page := link.removeprefix(served))]
    assert chapters == sorted(chapters) and len(chapters) == len(NOTEBOOKS) - 1, 'the folders and file names give the order'
    for before, here, after in zip([None, *order], order, [*order[1:], None]):
        page = tour[1][here.removeprefix(served)]
        assert (page['previous'], page['next']) == (before, after), here


# --- words and names -----------------------------------------------------------------------------------------------------

def test_a_term_is_linked_once_a_page_and_where_it_may_be(tour, served):
    terms = terms_of((ROOT/'nbs/glossary.qmd').read_text(encoding='utf-8'))
    shorts = {f'{served}nbs/glossary.html#{t.anchor}': t.short for t in terms}
    used = set()
    for name, page in tour[1].items():
        links = [link for link, *_ in page['terms']]
        assert len(links) == len(set(links)), name
        for link, title, misplaced in page['terms']: assert title == shorts[link] and not misplaced, (name, link)
        used |= set(links)
    assert tour[1]['nbs/glossary.html']['terms'] == []
    assert len(used) > .8 * len(shorts), f'in the glossary, and linked from nowhere: {set(shorts) - used}'


def test_every_public_name_has_its_entry(tour):
    missing = [f'{m.name}.{name}' for m in modules(ROOT) for name in m.public if name not in tour[1][f'nbs/reference/{m.name}.html']['ids']]
    assert missing == []


def moved(picture) -> bool:
    "Move a picture's slider to its other end, or press what it has instead: is it another picture now?"
    before, slider = picture.evaluate('e => e.innerHTML'), picture.locator('input[type="range"]').first
    if slider.count():
        slider.evaluate("e => { e.value = +e.value === +e.max ? e.min : e.max; e.dispatchEvent(new Event('input')) }")
        return picture.evaluate('e => e.innerHTML') != before
    for button in picture.locator('button:enabled').all()[:8]:
        button.evaluate('e => e.click()')
        if picture.evaluate('e => e.innerHTML') != before: return True
    return False


def test_every_picture_moves_on_its_page(open_page, served, site):
    page, still = open_page('index.html'), []
    counts = {p.relative_to(site).as_posix(): p.read_text().count('<div class="lguest-picture"') for p in sorted(site.rglob('*.html'))}
    counts = {name: n for name, n in counts.items() if n}
    assert 'index.html' in counts and len(counts) > 25
    for name, expected in counts.items():
        page.goto(served + name)
        page.wait_for_function('n => document.querySelectorAll(".lguest-picture[data-mounted]").length === n', arg=expected)
        pictures = page.locator('.lguest-picture .picture')
        pictures.nth(expected - 1).wait_for(state='attached')          # one may be in a solution that is folded away
        still += [f'{name}, picture {n}' for n in range(expected) if not moved(pictures.nth(n))]
    assert still == []


def test_where_no_script_may_run_there_is_a_still(browser, served):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(served + CHAPTER)
    still = page.locator('.lguest-picture').first
    assert still.locator('table').first.is_visible() and still.locator('td').count() > 4 and 'This is a still' in still.inner_text()
    context.close()


def test_a_page_from_a_disk_moves_too(page, site):
    page.goto((site/CHAPTER).as_uri())
    picture = page.locator('.lguest-picture .picture').first
    picture.wait_for()
    assert moved(picture) and page.locator('.lguest-picture table:visible').count() > 0


@pytest.mark.parametrize('mark', [m for m, (_, names) in MARKS.items() if names])
def test_a_mark_leads_to_its_functions_and_back(site, mark):
    module, names = MARKS[mark]
    for name in names.split():
        notebook = home(ELSEWHERE.get(name, mark) if name in ELSEWHERE else mark)[0].relative_to(ROOT).with_suffix('')
        chapter = (site/f'{notebook}.html').read_text(encoding='utf-8')
        reference = (site/f'nbs/reference/host.{module}.html').read_text(encoding='utf-8')
        back = set(re.findall(r'href="\.\./5_host/([\w.]+)#(cell-\d+)"', reference))
        told = {cell for page, cell in back if f'id="{cell}"' in (text := (site/'nbs/5_host'/page).read_text(encoding='utf-8'))
                and re.search(rf'id="{name}"|\b{name}\b', re.split(r'<div id="cell-', text.split(f'<div id="{cell}"')[1])[0])}
        assert told, f'{name}: the entry does not lead to a cell that defines it'
        line = rf'reference/host\.{module}\.html#{name}"><code>{name}</code></a>'
        assert any(re.search(line, p.read_text(encoding='utf-8')) for p in (site/'nbs/5_host').glob('*.html')), f'no heading shows {name}'
        assert chapter and 'class="defined-here"' in chapter


def test_source_links_show_the_line(site):
    for page in (site/'nbs/5_host').glob('*.html'):
        for file, line, name in re.findall(r'/blob/main/(lguest_lit/[\w./]+)#L(\d+)" aria-label="(\w+) on GitHub"', page.read_text(encoding='utf-8')):
            assert re.match(rf'(def|class) {name}\b|@', (ROOT/file).read_text(encoding='utf-8').splitlines()[int(line) - 1]), f'{file}:{line} is not {name}'


def test_search_finds_a_function(open_page):
    page = open_page('index.html')
    page.get_by_role('searchbox', name='Search', exact=True).fill('demand_page')
    entry = page.locator('.search-result[href$="page_tables.html#demand_page"]')
    entry.wait_for()
    entry.click()
    page.wait_for_url('**/host.page_tables.html#demand_page')
    assert page.locator('#demand_page').is_visible()


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_a_term_says_what_it_means(open_page, scheme):
    page = open_page(CHAPTER, scheme=scheme)
    term = page.locator('a.term').first
    said = term.get_attribute('title')
    term.focus()
    tip = page.locator('.tooltip')
    tip.wait_for()
    assert tip.inner_text() == said
    colours = page.evaluate('e => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor]', tip.locator('.tooltip-inner').element_handle())
    assert ratio(*map(luminance, colours)) >= 4.5
    page.keyboard.press('Escape')
    tip.wait_for(state='detached')


# --- the notebooks behind the pages --------------------------------------------------------------------------------------

@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_outputs_are_on_the_page_as_they_are(site, path):
    "What is inserted is inserted around them: pictures come with data that must stay whole."
    text = (site/path.relative_to(ROOT).with_suffix('.html')).read_text(encoding='utf-8')
    for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
        if any(re.match(r'#\|\s*(include|output): false', line) for line in cell['source']): continue
        for out in cell.get('outputs', []):
            assert ''.join(out.get('data', {}).get('text/html', [])).rstrip('\n') in text


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_a_page_says_where_its_notebook_runs(site, path):
    text, name = (site/path.relative_to(ROOT).with_suffix('.html')).read_text(encoding='utf-8'), path.relative_to(ROOT).as_posix()
    for link in f'mybinder.org/v2/gh/lguest-lit/lguest_lit/main?urlpath=lab/tree/{name}"', f'colab.research.google.com/github/lguest-lit/lguest_lit/blob/main/{name}"':
        assert text.count(link) == 1
    assert 'pip install git+https://github.com/lguest-lit/lguest_lit ziglang==' in text


def test_binder_installs_the_package_with_its_tools():
    assert (ROOT/'.binder/requirements.txt').read_text().split() == ['-e', '.[dev]']
    major, minor = re.fullmatch(r'python-(\d+)\.(\d+)\n', (ROOT/'.binder/runtime.txt').read_text()).groups()
    assert (int(major), int(minor)) >= (3, 11)


def test_the_filter_for_quarto_drops_directives_and_nothing_else():
    for path in NOTEBOOKS[::9]:
        done = subprocess.run([sys.executable, '-m', 'lguest_lit.tools.docfilter'], input=path.read_text(encoding='utf-8'), capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        was, now = json.loads(path.read_text(encoding='utf-8')), json.loads(done.stdout)
        hidden = re.compile(r'#\|\s*include:\s*false')
        lines = lambda nb: [line for c in nb['cells'] if not hidden.match(''.join(c['source'])) for line in ''.join(c['source']).splitlines()]
        gone = [line for line in lines(was) if line.startswith('#|')]
        assert not any(re.match(r'#\|\s*(export|default_exp|hide|notest)', line) for line in lines(now))
        assert len(lines(now)) >= len(lines(was)) - len(gone) and now['metadata'] == was['metadata'], path.name


# --- the reader ----------------------------------------------------------------------------------------------------------

def test_progress_is_kept(open_page, served):
    page = open_page(CHAPTER)
    total = page.locator('#quarto-sidebar progress').get_attribute('max')
    assert page.locator('#quarto-sidebar .count').inner_text() == f'0 of {total} chapters read'
    page.get_by_label('I have read this chapter').focus()
    page.keyboard.press('Space')                                   # no mouse needed
    page.reload()
    assert page.get_by_label('I have read this chapter').is_checked()
    assert page.locator('#quarto-sidebar .count').inner_text() == f'1 of {total} chapters read'
    assert page.locator('#quarto-sidebar a.read').inner_text().startswith('H:330')
    page.goto(served + 'nbs/index.html')
    assert page.locator('main .journey .next a').get_attribute('href').endswith('00_memory.html')
    page.on('dialog', lambda dialog: dialog.accept())
    page.get_by_role('button', name='Forget').click()
    assert page.locator('main .journey .count').inner_text().startswith('0 of')


def test_the_end_of_a_chapter_counts_as_read_unless_denied(open_page):
    page = open_page('nbs/4_launcher/20_command_line.html')
    box = page.get_by_label('I have read this chapter')
    page.wait_for_timeout(300)
    assert not box.is_checked()
    box.scroll_into_view_if_needed()
    page.wait_for_function('document.querySelector(".chapter-read input").checked')
    box.uncheck()
    page.reload()
    box.scroll_into_view_if_needed()
    page.wait_for_timeout(2300)
    assert not box.is_checked()


def test_notes_are_kept(open_page):
    page = open_page(CHAPTER)
    predictions, answers = page.get_by_label('Your prediction'), page.get_by_label('Your answer')
    assert (predictions.count(), answers.count()) == (1, 2)
    predictions.fill('pwu··, </textarea><b>surely</b>')
    answers.nth(1).fill('the shadow')
    page.reload()
    assert predictions.input_value() == 'pwu··, </textarea><b>surely</b>'
    assert [answers.nth(n).input_value() for n in range(2)] == ['', 'the shadow']


def test_every_prediction_and_exercise_has_a_place_for_it(tour):
    for path in NOTEBOOKS:
        text = [''.join(c['source']) for c in json.loads(path.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'markdown']
        expected = sum(len(re.findall(r'^(?:> )?\*\*(?:Before you|Ask yourself)', t, re.M)) + bool(re.match(r'### Exercise \d', t)) for t in text)
        assert tour[1][path.relative_to(ROOT).with_suffix('.html').as_posix()]['notes'] == expected, path.name


@pytest.mark.parametrize('broken', ['get localStorage() { throw new DOMException("no", "SecurityError"); }',
                                    'get localStorage() { return { getItem() { return "{not JSON"; }, setItem() { throw new DOMException("full", "QuotaExceededError"); } }; }'])
def test_pages_work_where_nothing_can_be_stored(open_page, broken):
    page = open_page(CHAPTER, script=f'Object.defineProperties(window, Object.getOwnPropertyDescriptors({{ {broken} }}));')
    note = page.get_by_label('Your prediction')
    note.fill('pwu··')
    assert note.input_value() == 'pwu··'
    assert 'keeps nothing' in page.locator('.note [role=status]').first.inner_text()
    page.get_by_label('I have read this chapter').check()
    assert page.locator('#quarto-sidebar .count').inner_text().startswith('1 of')


def test_a_solution_hides_what_it_shows_until_opened(open_page):
    page = open_page(CHAPTER)
    cell = page.locator('.cell.solution').first
    assert not cell.locator('.cell-output').is_visible()
    cell.locator('summary').click()
    assert cell.locator('.cell-output').is_visible()


def test_the_keyboard_reaches_the_text_first_and_folds_the_sidebar(open_page):
    page = open_page(CHAPTER)
    page.keyboard.press('Tab')
    assert page.evaluate('document.activeElement.className') == 'skip-link'
    assert page.locator('.skip-link').bounding_box()['y'] >= 0
    fold = page.get_by_role('button', name='Fold 5 Host')
    fold.focus()
    page.keyboard.press('Enter')
    page.wait_for_function('!document.querySelector("#quarto-sidebar a.active").checkVisibility()')


def test_the_sidebar_opens_on_a_phone_and_reaches_its_end(open_page):
    page = open_page('nbs/index.html', PHONE)
    page.get_by_role('button', name='Toggle sidebar').click()
    box = page.locator('#quarto-sidebar').bounding_box()
    header = page.locator('#quarto-header').bounding_box()
    assert box['y'] >= header['height'] - 1 and box['y'] + box['height'] <= PHONE['height'] + 1
    assert page.locator('#quarto-sidebar .count').is_visible()
    page.locator('#quarto-sidebar a[href$="glossary.html"]').click()
    page.wait_for_url('**/glossary.html')


# --- colours -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('viewport, scheme', [(DESK, 'light'), (PHONE, 'dark')], ids=['desk-light', 'phone-dark'])
def test_pages_are_accessible(open_page, served, viewport, scheme):
    "axe's rules, of which contrast is one: 4.5 to 1 for text and code."
    page = open_page('index.html', viewport, scheme)
    for name in KINDS:
        page.goto(served + name)
        found = Axe().run(page, options={'resultTypes': ['violations', 'passes']}).response
        bad = [(v['id'], v['nodes'][0]['html'][:200]) for v in found['violations'] if v['impact'] in ('serious', 'critical')]
        assert bad == [], name
        contrast = [n for p in found['passes'] if p['id'] == 'color-contrast' for n in p['nodes']]
        assert any('<p' in n['html'] for n in contrast), 'the contrast of the text has not been measured'


def luminance(colour: str) -> float:
    "Relative luminance as WCAG defines it, of `rgb(r, g, b)`."
    linear = lambda c: c / 12.92 if c <= .04045 else ((c + .055) / 1.055) ** 2.4
    return sum(w * linear(int(c) / 255) for w, c in zip((.2126, .7152, .0722), re.findall(r'\d+', colour)[:3]))


def ratio(a: float, b: float) -> float: return (max(a, b) + .05) / (min(a, b) + .05)


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_text_and_code_stand_out(open_page, scheme):
    "Computed here once more, against the page's own background."
    page = open_page(CHAPTER, scheme=scheme)
    back, *colours = page.evaluate('''() => [getComputedStyle(document.body).backgroundColor,
      ...Array.from(document.querySelectorAll('main p, main li, main pre code, main pre code span'), e => getComputedStyle(e).color)]''')
    ground = luminance(back)
    assert (ground < .1) == (scheme == 'dark')
    worst = min(ratio(luminance(c), ground) for c in set(colours))
    assert worst >= 4.5
