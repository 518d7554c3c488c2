"""Break each exported function at its top, and see whether the lesson below notices.

    python tests/living.py nbs/5_host/H330_demand_page.ipynb      one notebook: the functions whose break nobody noticed
    python tests/living.py                                         all of parts 1, 5 and 6

Nothing is exported: the broken cell is run in its notebook, and the cells up to the next one that exports; one of them has to
fail. Each trial is a fork of the notebook as it stands there, so that nothing is run twice to get there."""
import argparse
import ast
import json
import os
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from execnb.shell import CaptureShell
from lguest_lit.living import destination
from run_notebooks import CFG, ROOT, skipped

PARTS = '1_preparation', '5_host', '6_switcher'
BREAK = "raise AssertionError('broken')"
PATIENCE = 60           # seconds; a trial that takes longer hangs, and nobody has noticed


def notebooks() -> list[Path]:
    "Those whose functions are broken."
    return [p for part in PARTS for p in sorted((ROOT/'nbs'/part).glob('*.ipynb'))]


def exported(source: str) -> bool: return destination(source, 'here') is not None


def functions(source: str) -> dict[str, ast.FunctionDef]:
    "The functions of a cell, and the methods of its classes, by name."
    found = {}
    for node in ast.parse(source).body:
        for n in node.body if isinstance(node, ast.ClassDef) else [node]:
            if isinstance(n, ast.FunctionDef): found[n.name if n is node else f'{node.name}.{n.name}'] = n
    return found


def broken(source: str, node: ast.FunctionDef, how: str = BREAK) -> str:
    "A cell with one function broken: at its top, behind what it says it does."
    body = node.body[1:] if ast.get_docstring(node) is not None and len(node.body) > 1 else node.body
    lines = source.splitlines()
    first = body[0].lineno - 1
    before = lines[first].encode()[:body[0].col_offset].decode()
    lines[first:body[-1].end_lineno] = [f'{before}{how}']
    return '\n'.join(lines)


def noticed(shell: CaptureShell, cells: list[str]) -> bool:
    "Run these cells in a copy of this process; does one of them fail?"
    sys.stdout.flush()
    if not (child := os.fork()):
        signal.alarm(PATIENCE)
        shell.showtraceback = lambda *args, **kw: None       # it takes longer than all the rest
        code = 2
        try: code = int(any(shell.run_cell(cell).exception is not None for cell in cells))
        finally: os._exit(code)
    status = os.waitpid(child, 0)[1]
    return os.WIFEXITED(status) and os.WEXITSTATUS(status) == 1


def trial(path: Path, only: tuple[str, ...] = (), how: str = BREAK) -> tuple[int, list[str]]:
    "How many functions of a notebook have been broken (all, or some), and those that no lesson noticed."
    cells = [''.join(c['source']) for c in json.loads(path.read_text())['cells'] if c['cell_type'] == 'code']
    cells = [c for c in cells if not skipped(c, CFG.tst_flags.split())]
    stops = [n for n, c in enumerate(cells) if exported(c)] + [len(cells)]
    os.chdir(path.parent)
    os.environ['IN_TEST'] = '1'
    shell, tried, missed = CaptureShell(path), 0, []
    for n, cell in enumerate(cells):
        found = {name: node for name, node in functions(cell).items() if not only or name in only} if n in stops else {}
        lesson = cells[n + 1:next((s for s in stops if s > n), n + 1)]
        if found and noticed(shell, [cell, *lesson]): raise AssertionError(f'{path.name}, cell {n}: fails unbroken')
        tried += len(found)
        missed += [name for name, node in found.items() if not noticed(shell, [broken(cell, node, how), *lesson])]
        if only and tried == len(only): break
        if error := shell.run_cell(cell).exception: raise error
    return tried, missed


def main() -> None:
    "The command line."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('notebooks', nargs='*', type=Path, help='default: all of parts 1, 5 and 6')
    parser.add_argument('--workers', type=int, default=2)
    args = parser.parse_args()
    paths, all_tried, all_missed = [p.resolve() for p in args.notebooks] or notebooks(), 0, 0
    with ProcessPoolExecutor(args.workers, max_tasks_per_child=1) as pool:
        for path, done in [(p, pool.submit(timed, p)) for p in paths]:
            try: (tried, missed), seconds = done.result()
            except AssertionError as e:
                print(f'{path.stem:32} {e}', flush=True)
                continue
            all_tried, all_missed = all_tried + tried, all_missed + len(missed)
            print(f'{path.stem:32} {seconds:5.1f} s {len(missed):3} of {tried:3}  {" ".join(missed)}', flush=True)
    print(f'{all_missed} of {all_tried} not noticed')


def timed(path: Path) -> tuple:
    start = time.time()
    return trial(path), time.time() - start


if __name__ == '__main__': main()
