"""Run the notebooks where they stand, and keep what they show.

    python tests/run_notebooks.py                      all of nbs/, outputs stored, clean
    python tests/run_notebooks.py nbs/2_guest/x.ipynb  only these
    python tests/run_notebooks.py --check              store nothing; name each notebook that would show something else

A cell flagged `notest`, `slow` or `eval: false` is not run and keeps the outputs it has. The same notebook gives the
same bytes at every run; one that does not is a bug in the notebook.
"""
import argparse
import difflib
import json
import os
import re
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import nbformat
from execnb.nbio import nb2str
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbdev.clean import clean_nb
from nbdev.config import get_config

ROOT = Path(__file__).resolve().parents[1]
CFG = get_config(path=ROOT)
CELL_SECONDS = 300
WIDGET_VIEW = 'application/vnd.jupyter.widget-view+json'
# What would otherwise differ between two runs: the order of sets, the date inside a saved figure, how wide a help text is.
STEADY = dict(PYTHONHASHSEED='0', SOURCE_DATE_EPOCH='0', COLUMNS='80', PYDEVD_DISABLE_FILE_VALIDATION='1')


def skipped(
    source: str,       # a code cell
    flags: list[str],  # bare directives that keep a cell from running
) -> bool:             # True if it must not be run here
    "Read a cell's `#|` lines as `nbdev_test` does."
    directives = [line[2:].strip() for line in source.splitlines() if line.startswith('#|')]
    return any(d in flags or re.fullmatch(r'eval:\s*false', d, re.I) for d in directives)


class Lessons(NotebookClient):
    "A notebook client that passes over flagged cells."
    async def async_execute_cell(self, cell, cell_index, **kw):
        if cell.cell_type == 'code' and skipped(cell.source, CFG.tst_flags.split()): return cell
        return await super().async_execute_cell(cell, cell_index, **kw)


def text_of(
    nb: nbformat.NotebookNode,  # a notebook that has been run
) -> str:                       # the text of its file
    "Clean a notebook as `nbdev_clean` does, and drop the live view of a widget that has a picture beside it."
    nb = json.loads(nbformat.writes(nb))
    for cell in nb['cells']:
        for out in cell.get('outputs', []):
            if 'text/html' in out.get('data', {}): out['data'].pop(WIDGET_VIEW, None)
    nb['metadata'].pop('widgets', None)
    clean_nb(nb, clean_ids=CFG.clean_ids)
    return nb2str(nb)


def run(
    path: Path,  # a notebook
) -> str:        # its text after the run
    "Run a notebook with its own folder as the working directory; raises what its first failing cell raised."
    nb = nbformat.read(path, as_version=4)
    env = {**os.environ, **STEADY}
    Lessons(nb, timeout=CELL_SECONDS, kernel_name='python3', store_widget_state=False, coalesce_streams=True,
            extra_arguments=['--IPKernelApp.log_level=ERROR'], record_timing=False,
            resources={'metadata': {'path': str(path.parent)}}).execute(env=env)
    return text_of(nb)


def work(
    path: Path,   # a notebook
    check: bool,  # compare instead of storing?
) -> tuple:       # path, seconds, and the trouble with it, or ''
    start, old = time.time(), path.read_text(encoding='utf-8')
    try: new = run(path)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as e: return path, time.time() - start, str(e)
    if new != old:
        if check: return path, time.time() - start, 'shows something else now:\n' + difference(old, new)
        path.write_text(new, encoding='utf-8')
    return path, time.time() - start, ''


def difference(
    old: str,  # the notebook's text as it is
    new: str,  # and as it would be
) -> str:      # the first lines that differ
    "Show where two versions of a notebook part."
    lines = list(difflib.unified_diff(old.splitlines(), new.splitlines(), 'stored', 'now', lineterm='', n=1))
    return '\n'.join(line[:200] for line in lines[:24])


def main() -> int:  # 0 if every notebook ran (and, with --check, showed the same)
    "The command line."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('notebooks', nargs='*', type=Path, help='default: all under nbs/')
    parser.add_argument('--check', action='store_true', help='store nothing; compare with the stored outputs')
    parser.add_argument('--workers', type=int, default=2, help='notebooks at a time (default 2)')
    args = parser.parse_args()
    paths = [p.resolve() for p in args.notebooks] or sorted(
        p for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
    missing = [p for p in paths if not p.is_file()]
    if missing: parser.error(f'no such notebook: {missing[0]}')
    bad = 0
    with ProcessPoolExecutor(max(1, min(args.workers, len(paths)))) as pool:
        for done in as_completed([pool.submit(work, p, args.check) for p in paths]):
            path, seconds, trouble = done.result()
            name = os.path.relpath(path)
            print(f'{"FAIL" if trouble else "ok":4} {seconds:6.1f} s  {name}', flush=True)
            if trouble:
                bad += 1
                print(trouble, file=sys.stderr, flush=True)
    print(f'{len(paths) - bad} of {len(paths)} notebooks {"show what they are stored with" if args.check else "ran"}')
    return 1 if bad else 0


if __name__ == '__main__': sys.exit(main())
