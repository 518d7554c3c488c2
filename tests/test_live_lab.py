"The pictures with a kernel behind them: shown in a real JupyterLab, moved by hand, and Python knows of it."
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

pytestmark = pytest.mark.browser
STORED = Path(__file__).resolve().parents[1]/'nbs/7_mastery/30_pictures.ipynb'
SLIDER = '(slider, n) => { slider.value = n; slider.dispatchEvent(new Event("input")); }'


def step_in(timeline):
    "To an event, two instructions into the stay that follows, and from there to the instruction that gave EBX its value: the machine says which."
    timeline.get_by_label('moment').evaluate(SLIDER, 640)
    timeline.get_by_text('the machine stands at switch 150').wait_for()
    for n in (1, 2):
        timeline.get_by_label('one instruction on').click()
        timeline.locator('.stay output', has_text=re.compile(f'^{n} of ')).wait_for()
    timeline.locator('.reg[data-register="ebx"] button').click()
    timeline.locator('.answer', has_text='by the Guest').wait_for()
    timeline.locator('.stay output', has_text=': Guest').wait_for()


def step_on(picture): picture.get_by_label('step forward').click()


# Of each picture: code that makes `picture`; what a hand does to it (a Playwright locator of the picture); an expression, and what it is then.
LIVE = {
    'timeline': ('from lguest_lit.watch.film import film_life\nfrom lguest_lit.pictures.timeline import Timeline\nfrom lguest_lit.watch.rewind import Moment, TimeMachine, last_change\n'
                 'machine = TimeMachine("first", mem="4M", every=50)\nfilm = film_life(machine)\npicture = Timeline(film, machine)',
                 step_in, 'machine.now == last_change(machine, "ebx", Moment(150, 2)).moment, picture.at == picture.event_of(machine.switch), picture.now["world"] > 1', '(True, True, True)'),
    'bit_fields': ('from lguest_lit.pictures.base import bit_fields\npicture = bit_fields([("all", [(0, 31)], None)], 4)',
                   lambda picture: picture.locator('[data-bit="0"]').click(), 'picture.words', '[5]'),
    'steps': ('from lguest_lit.pictures.steps import steps, table\npicture = steps({"up": [("first", table("T", ("name", "value"), {"a": 1})), ("then", table("T", ("name", "value"), {"a": 2}))]}, title="Two")',
              step_on, 'picture.at', '1'),
    'trap_microscope': ('from lguest_lit.pictures.trap_microscope import microscope, trap_microscope\nfrom lguest_lit.launcher.workbench import Workbench\n'
                        'picture = trap_microscope(microscope(Workbench("gate 6, handler\\nud2\\nhandler: nop"), 6), title="ud2")', step_on, 'picture.at', '1'),
    'switcher': ('from lguest_lit.pictures.switcher import film_switch, switcher_picture\nmachine = TimeMachine("first", mem="4M")\npicture = switcher_picture(film_switch(machine, 7))',
                 step_on, 'picture.at', '1'),
}


def notebook() -> dict:
    "A cell that was stored with its picture; and for each picture a cell that shows it, and one that asks Python."
    code = lambda n, source: dict(cell_type='code', id=f'c{n}', metadata={}, execution_count=None, outputs=[], source=source)
    cells = [code(n, source) for n, source in enumerate(s for make, _, ask, _ in LIVE.values() for s in (f'{make}\npicture', ask))]
    cells.append(next(cell for cell in json.loads(STORED.read_text())['cells'] if 'data-picture' in json.dumps(cell.get('outputs'))))
    kernel = dict(name='python3', display_name='Python 3', language='python')
    return dict(cells=cells, metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=5)


@pytest.fixture(scope='module')
def server(tmp_path_factory):
    "The address of a JupyterLab in an empty folder, with nothing of the user's in it."
    top = tmp_path_factory.mktemp('lab')
    (top/'work').mkdir()
    (top/'work'/'live.ipynb').write_text(json.dumps(notebook()))
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    own = {name: str(top/name.lower()) for name in ('JUPYTER_CONFIG_DIR', 'JUPYTER_DATA_DIR', 'JUPYTER_RUNTIME_DIR', 'JUPYTERLAB_SETTINGS_DIR', 'JUPYTERLAB_WORKSPACES_DIR', 'IPYTHONDIR')}
    options = f'--no-browser --ip=127.0.0.1 --port={port} --IdentityProvider.token= --ServerApp.root_dir={top}/work --LabApp.news_url= --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate'
    lab = subprocess.Popen([sys.executable, '-m', 'jupyterlab', *options.split(), *(['--allow-root'] if os.getuid() == 0 else [])],
                           env=os.environ | own, stdout=subprocess.DEVNULL, stderr=(top/'log').open('w'))
    address = f'http://127.0.0.1:{port}'
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f'{address}/api', timeout=5).close()
                break
            except OSError: time.sleep(0.2)
            assert lab.poll() is None, (top/'log').read_text()
        yield address
    finally:
        lab.terminate()
        lab.wait(20)


@pytest.fixture(scope='module')
def lab(browser, server):
    "The notebook, open in JupyterLab."
    page = browser.new_page(viewport=dict(width=1500, height=1000))
    page.goto(f'{server}/lab/tree/live.ipynb')
    page.locator('.jp-CodeCell').first.wait_for(timeout=60_000)
    page.get_by_text('(ipykernel) | Idle').wait_for(timeout=60_000)      # before that, a cell that is run asks for a kernel
    yield page
    page.close()


def run(page, n: int):
    "Run the n-th cell, and return it."
    cell = page.locator('.jp-CodeCell').nth(n)
    cell.locator('.cm-content').click()
    page.keyboard.press('Shift+Enter')
    return cell


def test_a_stored_picture_is_a_still_until_its_cell_is_run(lab):
    still = lab.locator('.jp-OutputArea .lguest-picture').last
    still.scroll_into_view_if_needed()
    assert still.get_by_text('This is a still').is_visible() and still.locator('td', has_text='selector').is_visible()


@pytest.mark.parametrize('name', LIVE)
def test_python_hears_of_it(lab, name):
    _, act, _, there = LIVE[name]
    n = 2 * list(LIVE).index(name)
    cell = run(lab, n)
    picture = cell.locator('.picture')
    picture.wait_for(timeout=60_000)
    assert cell.locator('.lguest-picture').count() == 0                   # the widget, not the piece of a page
    act(picture)
    answer = run(lab, n + 1).locator('.jp-OutputArea-output').last
    answer.wait_for(timeout=60_000)
    assert answer.inner_text().strip() == there
