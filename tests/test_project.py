"The house rules: notebooks, package, site and packaging say the same thing."
import configparser
import filecmp
import json
import re
import shutil
import subprocess
import sys
import zipfile
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import distributions
from pathlib import Path

import arrows
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from conftest import SITE_ENV

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
NOTEBOOKS = sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
PARTS = '1 Preparation,2 Guest,3 Drivers,4 Launcher,5 Host,6 Switcher,7 Mastery'.split(',')
per_notebook = pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: str(p.relative_to(ROOT)))


def cells(path: Path, kind: str) -> list:
    "The sources of a notebook's cells of one kind, in order."
    return [''.join(c['source']) for c in json.loads(path.read_text())['cells'] if c['cell_type'] == kind]


def modules_of(path: Path) -> set[str]:
    "The modules that a notebook exports to: its `default_exp`, and any that an `export` names."
    named = re.compile(r'^#\|\s*(?:default_exp|exports?)[ \t]+(\S+)', re.M)
    return {m for source in cells(path, 'code') for m in named.findall(source)}


def run(*command, cwd) -> None:
    "Run one of the virtual environment's programs; its output is shown if it fails."
    done = subprocess.run([BIN/command[0], *command[1:]], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f'{" ".join(map(str, command))} failed:\n{done.stdout}{done.stderr}'


# --- the notebooks are the source ----------------------------------------------------------------------------------------

def test_package_is_what_the_notebooks_export(tmp_path):
    "Export and clean in a copy; whatever changes there had drifted here."
    names = 'settings.ini', '_quarto.yml', 'setup.py', 'nbs', 'lguest_lit'
    for name in names:
        (shutil.copytree if (ROOT/name).is_dir() else shutil.copy)(ROOT/name, tmp_path/name)
    run('nbdev_export', cwd=tmp_path)
    run('nbdev_clean', cwd=tmp_path)
    made = {p.relative_to(tmp_path) for top in ('nbs', 'lguest_lit') for pattern in ('*.py', '*.ipynb')
            for p in (tmp_path/top).rglob(pattern) if '.ipynb_checkpoints' not in p.parts}
    drifted = sorted(str(p) for p in made if not (ROOT/p).exists() or not filecmp.cmp(ROOT/p, tmp_path/p, shallow=False))
    assert not drifted, f'run `make export`, or move the edit into the notebook: {drifted}'


def test_every_module_has_a_notebook():
    "A .py without a notebook is code that nobody explains."
    exported = {Path('lguest_lit', *m.split('.')).with_suffix('.py') for path in NOTEBOOKS for m in modules_of(path)}
    here = {p.relative_to(ROOT) for p in (ROOT/'lguest_lit').rglob('*.py') if '__pycache__' not in p.parts}
    orphans = {p for p in here - exported if p.name not in ('__init__.py', '_modidx.py')}
    assert not orphans, f'written by hand, or left over from a notebook that is gone: {sorted(map(str, orphans))}'


@per_notebook
def test_notebook_has_a_title_and_a_subtitle(path):
    assert re.match(r'# \S[^\n]*\n+> \S', cells(path, 'markdown')[0]), 'the first cell is `# Title` and `> subtitle`'


@per_notebook
def test_notebook_directives_survive_the_site(path):
    "A colon after `export` swallows the next line; a bare flag beside `key: value` loses the latter on the page."
    for source in cells(path, 'code'):
        directives = [line[2:].strip() for line in source.splitlines() if line.startswith('#|')]
        assert not any(re.match(r'exports?:', d) for d in directives), source
        assert len({':' in d for d in directives}) < 2, f'bare flags and `key: value` in one cell:\n{source}'


@per_notebook
def test_notebook_is_stored_with_what_it_shows(path):
    "No error and no live-only widget among the outputs: a page has no kernel."
    for cell in json.loads(path.read_text())['cells']:
        for out in cell.get('outputs', []):
            assert out['output_type'] != 'error', f'{out["ename"]}: {out["evalue"]}'
            data = out.get('data', {})
            assert 'application/vnd.jupyter.widget-view+json' not in data, 'a widget that is dead on the page'


# --- who may know whom ---------------------------------------------------------------------------------------------------

# What a package may know; the arrows in CONTRIBUTING.md are drawn from the imports.
KNOWS = {'i386': (), 'images': (), 'host': ('i386', 'images'), 'launcher': ('i386', 'images', 'host'),
         'watch': ('i386', 'images', 'host', 'launcher'), 'pictures': ('i386', 'images', 'host', 'launcher', 'watch'),
         'cli': ('i386', 'images', 'host', 'launcher', 'watch'), 'tools': ('images', 'pictures', 'living'),
         'living': ()}


def test_imports_follow_the_arrows():
    "No package knows one above it, and the i386 has never heard of lguest."
    assert arrows.rooms().keys() == KNOWS.keys()
    against = [f'{a} imports {b}' for a, used in arrows.rooms().items() for b in used if b not in KNOWS[a]]
    assert not against, against


def test_only_the_i386_knows_its_engine():
    knowing = [str(path) for path in (ROOT/'lguest_lit').rglob('*.py') if re.search(r'^\s*(from|import) unicorn\b', path.read_text(), re.M)]
    assert knowing and all('/i386/' in path for path in knowing), knowing


def test_contributing_draws_the_arrows_that_there_are():
    text = arrows.PAGE.read_text()
    assert text == arrows.page(text), 'run python tests/arrows.py'
    assert text.count('-->\n```mermaid') == 2


def test_imports_go_round_in_no_circle():
    try: TopologicalSorter(arrows.uses()).prepare()
    except CycleError as e: pytest.fail(f'import circle: {" -> ".join(e.args[1])}')


# --- the site ------------------------------------------------------------------------------------------------------------

def sidebar() -> list:
    "The contents of the site's sidebar."
    return yaml.safe_load((ROOT/'_quarto.yml').read_text())['website']['sidebar']['contents']


def listed() -> list[str]:
    "Every page that the sidebar names, in the order of reading."
    pages = [page for entry in sidebar() for page in ([entry['contents']] if isinstance(entry, dict) else [entry]) if isinstance(page, str)]
    return [str(path.relative_to(ROOT)) for page in pages for path in sorted(ROOT.glob(page))]


def test_sidebar_lists_every_notebook_once():
    assert sorted(p for p in listed() if p.endswith('.ipynb')) == [str(p.relative_to(ROOT)) for p in NOTEBOOKS]


def test_contents_link_every_notebook():
    text = '\n'.join(cells(ROOT/'nbs/index.ipynb', 'markdown'))
    missing = [str(p.relative_to(ROOT/'nbs')) for p in NOTEBOOKS if p.name != 'index.ipynb' and f'({p.relative_to(ROOT/"nbs")}' not in text]
    assert not missing, f'not in nbs/index.ipynb: {missing}'


def test_sidebar_has_the_parts_in_their_order():
    *sections, last = [entry for entry in sidebar() if isinstance(entry, dict)]
    assert last['section'] == 'To look things up'
    assert [entry['section'] for entry in sections] == PARTS
    for entry in sections: assert entry['contents'] == f"nbs/{entry['section'].lower().replace(' ', '_')}/*.ipynb"


@pytest.mark.slow
def test_site_renders_with_no_warning_and_no_broken_link(project_copy):
    "Two settings are for Quarto; smalldocs says that it runs no code and no filter, and that is all it may say."
    done = subprocess.run([BIN/'smalldocs', 'check', project_copy], capture_output=True, text=True, env=SITE_ENV)
    troubles = [line for line in done.stdout.splitlines() if not re.match(r'(execute.enabled|ipynb-filters) is ignored', line)]
    assert not troubles and 'page(s)' in done.stderr, '\n'.join(troubles) or done.stderr


def test_site_has_a_page_for_every_notebook(site):
    for path in NOTEBOOKS: assert (site/path.relative_to(ROOT)).with_suffix('.html').is_file()
    assert (site/'index.html').is_file()


def test_site_shows_no_directives(site):
    shown = [p.name for p in site.rglob('*.html') if re.search(r'#\|\s*(export|default_exp|include|hide)', p.read_text())]
    # These explain what an export cell looks like, and handle some.
    assert set(shown) <= {'index.html', '80_living.html', '90_reference.html', '91_docfilter.html', '92_site.html'}


def test_pages_open_without_network_or_script_error(site, page):
    for name in ['index.html', 'nbs/index.html'] + [p.replace('.ipynb', '.html') for p in listed() if '/5_host/' in p][:1]:
        page.goto((site/name).as_uri())
        assert page.locator('h1').first.is_visible()
        sidebar_links = page.locator('#quarto-sidebar a.sidebar-link').count()
        assert sidebar_links >= len(listed())


# --- packaging -----------------------------------------------------------------------------------------------------------

@pytest.mark.slow
def test_wheel_holds_the_machine_code_and_its_source(project_copy, tmp_path):
    run('python', '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '-w', tmp_path, project_copy, cwd=tmp_path)
    inside = set(zipfile.ZipFile(next(tmp_path.glob('*.whl'))).namelist())
    there = {str(p.relative_to(ROOT)) for p in (ROOT/'lguest_lit').rglob('*')
             if p.is_file() and '__pycache__' not in p.parts}
    tools = {name for name in there if name.startswith('lguest_lit/tools/')}
    assert tools and not tools & inside, 'the tools of the site are not for those who install'
    assert not there - inside - tools, f'not in the wheel: {sorted(there - inside - tools)}'


def test_settings_keep_the_pins_that_belong_together():
    ini = configparser.ConfigParser(delimiters=['='])
    ini.read(ROOT/'settings.ini')
    cfg = ini['DEFAULT']
    for pin in 'nbdev==2.4.14 fastcore>=1.12.3,<2 execnb>=0.1.12,<0.2 ghapi>=1.0.3,<2 ziglang==0.17.1'.split():
        assert pin in cfg['dev_requirements'].split()
    for extra in 'build', 'trace': assert set(cfg[f'{extra}_requirements'].split()) <= set(cfg['dev_requirements'].split())


def test_the_lock_has_what_the_tools_need():
    "A requirement that changes wants a new lock: `make lock`."
    ini = configparser.ConfigParser(delimiters=['='])
    ini.read(ROOT/'settings.ini')
    needed = [Requirement(text) for name in ('requirements', 'dev_requirements') for text in ini['DEFAULT'][name].split()]
    lines = (ROOT/'.ci/requirements-dev.lock').read_text().splitlines()
    locked = dict(line.lower().replace('_', '-').split('==') for line in lines if not line.startswith('#'))
    names = {str(r): r.name.lower().replace('_', '-') for r in needed}
    wrong = {str(r): locked.get(names[str(r)]) for r in needed if names[str(r)] not in locked or locked[names[str(r)]] not in r.specifier}
    assert not wrong, wrong


def test_the_lock_is_for_the_lowest_python_as_well():
    "A lock that was made with 3.11.7 once held a package that wanted 3.11.5; Debian 12 has 3.11.2."
    ini = configparser.ConfigParser(delimiters=['='])
    ini.read(ROOT/'settings.ini')
    lowest = f'{ini["DEFAULT"]["min_python"]}.0'
    lines = (ROOT/'.ci/requirements-dev.lock').read_text().splitlines()
    here = {f'{d.name}=={d.version}'.lower().replace('_', '-'): d.metadata['Requires-Python'] for d in distributions()}
    wanted = {line: here.get(line.lower().replace('_', '-')) for line in lines if not line.startswith('#')}
    assert any(wanted.values())
    assert not (wrong := {n: w for n, w in wanted.items() if w and lowest not in SpecifierSet(w)}), wrong


def test_version_is_the_same_everywhere():
    version = re.search(r'^version = (\S+)', (ROOT/'settings.ini').read_text(), re.M)[1]
    assert re.search(r'__version__ = "([^"]+)"', (ROOT/'lguest_lit/__init__.py').read_text())[1] == version
