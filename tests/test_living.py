"The notebooks are alive: a cell that is changed and run is what the lessons below it run, exported or not."
import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import ModuleType

import living
import pytest
import run_notebooks
from nbclient.exceptions import CellExecutionError
from nbdev.test import test_nb as nbdev_runs

from lguest_lit.living import Living, enact

# Whose break no lesson notices, and why: at most one in fifty.
UNSEEN = {('10_build', 'images'): 'writes into the package; test_images.py builds all of them again, elsewhere'}
DEMAND_PAGE = living.ROOT/'nbs'/'5_host'/'H330_demand_page.ipynb'
WALK = living.ROOT/'nbs'/'1_preparation'/'20_paging.ipynb'


@pytest.fixture(scope='module')
def elsewhere():
    "A function that calls another in a process of its own, a fresh one each time: what a broken cell leaves behind is nobody else's."
    with ProcessPoolExecutor(os.cpu_count(), max_tasks_per_child=1, mp_context=multiprocessing.get_context('spawn')) as pool:
        yield pool.submit


@pytest.fixture
def blind(tmp_path) -> Path:
    "The chapter of the page fault, with a demand_page that mends nothing."
    nb = json.loads(DEMAND_PAGE.read_text())
    for cell in nb['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'code' and living.exported(source) and (node := living.functions(source).get('demand_page')):
            cell['source'] = living.broken(source, node, 'return False')
    (tmp_path/DEMAND_PAGE.name).write_text(json.dumps(nb))
    return tmp_path/DEMAND_PAGE.name


def test_exporting_notebooks_begin_with_it():
    for path in sorted((living.ROOT/'nbs').rglob('*.ipynb')):
        if '.ipynb_checkpoints' in path.parts: continue
        code = [''.join(c['source']) for c in json.loads(path.read_text())['cells'] if c['cell_type'] == 'code']
        if any(map(living.exported, code)): assert code[0] == '#| include: false\n%load_ext lguest_lit.living', path


def test_a_break_is_at_the_top():
    source = 'class A:\n    def f(self):\n        "What it does."\n        return 1\n\n    def g(self): return 2\n\ndef h(): "Nothing."'
    found = living.functions(source)
    assert list(found) == ['A.f', 'A.g', 'h']
    assert living.broken(source, found['A.f'], 'raise X').splitlines()[2:4] == ['        "What it does."', '        raise X']
    assert living.broken(source, found['A.g'], 'raise X').splitlines()[5] == '    def g(self): raise X'
    assert living.broken(source, found['h'], 'raise X').splitlines()[-1] == 'def h(): raise X'


def test_a_changed_cell_in_a_kernel(blind):
    "JupyterLab has the same kernel. The lesson that fails is the one below demand_page, which has imported nothing of it."
    with pytest.raises(CellExecutionError, match='AssertionError'): run_notebooks.run(blind)


def test_a_changed_cell_in_nbdev_test(elsewhere, blind):
    assert not elsewhere(nbdev_runs, blind, run_notebooks.CFG.tst_flags.split(), showerr=False).result()[0]


def test_a_broken_function(elsewhere):
    assert elsewhere(living.trial, WALK, ('walk',)).result() == (1, [])


def test_a_page_fault_that_is_not_mended(elsewhere):
    assert elsewhere(living.trial, DEMAND_PAGE, ('demand_page',), 'return False').result() == (1, [])


@pytest.fixture(scope='module')
def trials(elsewhere) -> dict:
    "Of each notebook, when it is done: how many functions have been broken, and those that no lesson noticed."
    return {p: elsewhere(living.trial, p) for p in living.notebooks()}


@pytest.mark.slow
@pytest.mark.parametrize('path', living.notebooks(), ids=lambda path: path.stem)
def test_each_function_is_run_before_the_next_export(trials, path):
    "A lesson cell that runs it belongs below it; what cannot be run there is named in UNSEEN, with the reason."
    assert trials[path].result()[1] == [name for stem, name in UNSEEN if stem == path.stem]


@pytest.mark.slow
def test_few_are_not(trials):
    tried = sum(work.result()[0] for work in trials.values())
    assert tried > 400 and len(UNSEEN) <= 0.02 * tried


# --- each kind of thing that a cell can define ----------------------------------------------------------------------------

TOY = '''
from contextlib import contextmanager
from enum import IntEnum
from functools import lru_cache, wraps
from typing import NamedTuple

def louder(f):
    @wraps(f)
    def g(*args): return f(*args) + '!'
    return g

SIZE = 1
def plain(n=1): return f'plain {n}'
def counting():
    yield 1
@lru_cache
def cached(n): return n
@contextmanager
def held(): yield 1
@louder
def shouted(): return 'one'
class Base:
    def name(self): return 'base'
class Thing(Base):
    kind = 1
    def name(self): return super().name() + ' 1'
    @property
    def size(self): return 1
    @staticmethod
    def made(): return 1
    @classmethod
    def of(cls): return cls.kind
class Slotted:
    __slots__ = ('a',)
class Colour(IntEnum):
    RED = 1
    def shade(self): return 1
class Pair(NamedTuple):
    a: int
    def total(self): return self.a
'''
CHANGES = [('def plain(n=2): return f"new {n}"', 'plain()', 'plain 1', 'new 2'),
           ('def counting():\n    yield 2', 'list(counting())', [1], [2]),
           ('@lru_cache\ndef cached(n): return 2 * n', 'cached(4)', 4, 8),
           ('@contextmanager\ndef held(): yield 2', 'held().__enter__()', 1, 2),
           ('@louder\ndef shouted(): return "two"', 'shouted()', 'one!', 'two!'),
           ('def plain(n=3): return helper(n)\ndef helper(n): return 10 * n', 'plain()', 'plain 1', 30),
           ('SIZE = 2', 'SIZE', 1, 2),
           ('class Thing(Base):\n    kind = 2\n    def name(self): return super().name() + " 2"', '(thing.name(), thing.kind)', ('base 1', 1), ('base 2', 2)),
           ('class Thing(Base):\n    @property\n    def size(self): return 2', 'thing.size', 1, 2),
           ('class Thing(Base):\n    @staticmethod\n    def made(): return 2', 'thing.made()', 1, 2),
           ('class Thing(Base):\n    kind = 2\n    @classmethod\n    def of(cls): return -cls.kind', 'thing.of()', 1, -2),
           ('class Slotted:\n    __slots__ = ("a", "b")', 'Slotted.__slots__', ('a',), ('a', 'b')),
           ('class Colour(IntEnum):\n    RED = 1\n    def shade(self): return 2', '(Colour.RED is red, red.shade())', (True, 1), (True, 2)),
           ('class Colour(IntEnum):\n    RED, BLUE = 1, 2', 'list(map(int, Colour))', [1], [1, 2]),
           ('class Pair(NamedTuple):\n    a: int\n    def total(self): return -self.a', 'pair.total()', 3, -3)]


@pytest.mark.parametrize('cell, asked, before, after', CHANGES, ids=[c.replace('\n', ' ')[:40] for c, *_ in CHANGES])
def test_another_module_sees_the_change(monkeypatch, cell, asked, before, after):
    "Another module has imported the names, and made objects, before the cell is run."
    toy, user = ModuleType('toy.things'), ModuleType('toy.user')
    exec(TOY, vars(toy))
    vars(user).update({name: value for name, value in vars(toy).items() if not name.startswith('_')})
    for module in toy, user: monkeypatch.setitem(sys.modules, module.__name__, module)
    exec('thing, red, pair = Thing(), Colour.RED, Pair(3)', vars(user))
    assert eval(asked, vars(user)) == before
    enact(toy, cell)
    assert eval(asked, vars(user)) == after
    enact(toy, TOY)
    assert eval(asked, vars(user)) == before


def test_a_cell_that_is_what_the_module_was_made_from_changes_nothing(elsewhere):
    assert elsewhere(untouched, WALK).result() == set()


def untouched(path: Path) -> set:
    "Run a notebook as it is; which modules have been touched?"
    living.trial(path)
    return Living.touched
