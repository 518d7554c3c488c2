"What the tests share: the project's root, the rendered site, and a real browser where there is one."
import functools
import http.server
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = 'chromium', 'chromium-browser', 'google-chrome'
BROWSER_FLAGS = ('--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking '
                 '--disable-component-update --disable-sync').split()
# No name leads anywhere: what a page would fetch from elsewhere fails here, as it would on a train.
BROWSER_FLAGS.append('--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost')
BIN = Path(sys.executable).parent
# The site's description calls `python -m lguest_lit.…` before and after rendering; it must be this Python.
SITE_ENV = {**os.environ, 'PATH': f'{BIN}{os.pathsep}{os.environ.get("PATH", "")}'}


# A shell that runs us in its background has us ignore Ctrl-C, and so would every program that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN: signal.signal(signal.SIGINT, signal.default_int_handler)

if os.environ.get('LGUEST_LIT_COPIES'):                  # as on a system that shows nobody the engine's live state
    from lguest_lit.i386 import engine
    engine.live_address = lambda uc, f: None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Mark what asks for a browser or for the site, and say which tests belong into one process: those of a file, which share its
    fixtures, and all those that look at the site, so that it is rendered once. Where there are several processes, one begins with
    the site, which takes longest."""
    def group(item): return 'site' if {'site', 'project_copy'} & set(item.fixturenames) else item.path.stem
    for item in items:
        for name in {'browser', 'site'} & set(item.fixturenames): item.add_marker(name)
        item.add_marker(pytest.mark.xdist_group(group(item)))
    if hasattr(config, 'workerinput'): items.sort(key=lambda item: group(item) != 'site')


@pytest.fixture(scope='session')
def root() -> Path:
    "The top of the project."
    return ROOT


@pytest.fixture(scope='session')
def project_copy(tmp_path_factory) -> Path:
    "A copy of the project's own files that a test may change."
    top = tmp_path_factory.mktemp('copy')/'project'
    skip = shutil.ignore_patterns('.*', '_docs', '_proc', '__pycache__', '*.egg-info', 'build', 'dist')
    shutil.copytree(ROOT, top, ignore=skip)
    return top


@pytest.fixture(scope='session')
def site(project_copy) -> Path:
    "The rendered site, made from a copy, so that `_docs/` is left alone."
    done = subprocess.run([BIN/'smalldocs', 'render', '--quiet', project_copy], capture_output=True, text=True, env=SITE_ENV)
    assert done.returncode == 0, done.stderr
    return project_copy/'_docs'


@pytest.fixture(scope='session')
def served(site):
    "The address at which the rendered site is served, as a site would be."
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}/'
    server.shutdown()
    server.server_close()


@pytest.fixture(scope='session')
def browser():
    "A headless Chromium, driven by Playwright; a test that asks for it is skipped where none is installed."
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None: pytest.skip(f'no browser: none of {", ".join(BROWSERS)} is installed')
    if subprocess.run([BIN/'playwright', '--version'], capture_output=True).returncode:
        pytest.skip('no browser: the driver of Playwright does not start; on Debian it wants libatomic1')
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=BROWSER_FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser):
    "A fresh page that reaches nothing but files, and whose script errors fail the test."
    context = browser.new_context(offline=True, viewport={'width': 1280, 'height': 900})
    page, errors = context.new_page(), []
    page.on('pageerror', lambda error: errors.append(error))
    yield page
    context.close()
    assert not errors, f'script errors on the page: {errors}'


@pytest.fixture
def show(browser, tmp_path):
    "A function that opens a picture as a page of its own, and fails the test if the page complains or asks the network for something."
    pages, trouble = [], []
    def open_page(picture, width=1000, scheme='light'):
        path = tmp_path/f'{len(pages)}.html'
        path.write_text(picture.page(), encoding='utf-8')
        page = browser.new_page(viewport=dict(width=width, height=900), color_scheme=scheme)
        page.on('console', lambda m: trouble.append(m.text) if m.type == 'error' else None)
        page.on('pageerror', lambda e: trouble.append(str(e)))
        page.on('request', lambda r: trouble.append(r.url) if not r.url.startswith(('file:', 'blob:', 'data:')) else None)
        page.goto(path.as_uri())
        page.locator('.lguest-picture .picture').wait_for()
        pages.append(page)
        return page
    yield open_page
    for page in pages: page.close()
    assert not trouble
