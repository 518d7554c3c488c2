"""Break the Host on purpose, one small thing at a time, and count how many of the breakages the tests notice.

    python tests/mutants.py                          all mutants of the three modules (long)
    python tests/mutants.py --sample 100 --seed 1    so many of them, chosen at random
    python tests/mutants.py segments --show          one module; list the survivors with their lines

Each mutant lives in a forked process of its own, in which the module's functions are replaced and the tests below are
run until the first failure. One that takes much longer than the sound Host counts as noticed: it hangs, and that is
seen.
"""
import argparse
import ast
import importlib
import os
import random
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from lguest_lit.living import enact

ROOT = Path(__file__).resolve().parents[1]
MODULES = 'page_tables', 'segments', 'interrupts_and_traps'
TESTS = ('test_facts_calls_and_traps', 'test_facts_tables_and_protocol', 'test_kill_strings', 'test_several_guests', 'test_round_trip',
         'test_differential', 'test_invariants', 'test_trace')
SWAPS = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.In: ast.NotIn,
         ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.Add: ast.Sub, ast.Sub: ast.Add, ast.BitAnd: ast.BitOr,
         ast.BitOr: ast.BitAnd, ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.And: ast.Or, ast.Or: ast.And}


def quiet(node: ast.AST) -> bool:
    "A docstring, or another constant that is a statement of its own: nothing to break."
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def changes(node: ast.AST) -> list:
    "The ways to break a node: functions that change it in place, with a word for each."
    found = []
    if isinstance(node, ast.Compare): found += [(f'{type(op).__name__} -> {SWAPS[type(op)].__name__}', lambda n, i=i: n.ops.__setitem__(i, SWAPS[type(n.ops[i])]())) for i, op in enumerate(node.ops)]
    if isinstance(node, (ast.BinOp, ast.BoolOp, ast.AugAssign)) and type(node.op) in SWAPS:
        found.append((f'{type(node.op).__name__} -> {SWAPS[type(node.op)].__name__}', lambda n: setattr(n, 'op', SWAPS[type(n.op)]())))
    if isinstance(node, ast.Constant) and isinstance(node.value, bool): found.append((f'{node.value} -> {not node.value}', lambda n: setattr(n, 'value', not n.value)))
    elif isinstance(node, ast.Constant) and isinstance(node.value, int): found.append((f'{node.value} -> {node.value + 1}', lambda n: setattr(n, 'value', n.value + 1)))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.Invert)): found.append((f'without {type(node.op).__name__}', lambda n: setattr(n, 'op', ast.UAdd())))
    if isinstance(node, (ast.Expr, ast.AugAssign)) and not quiet(node): found.append(('deleted', 'delete'))
    if isinstance(node, ast.If): found.append(('if always', lambda n: setattr(n, 'test', ast.Constant(True))))
    return found


def mutants(source: str) -> list:
    "(line, what, tree) of every mutant of a module's functions."
    tree, found = ast.parse(source), []
    for function in (n for n in tree.body if isinstance(n, ast.FunctionDef)):
        for index, node in enumerate(list(ast.walk(function))):
            if not hasattr(node, 'lineno') or node.lineno < function.body[0].lineno: continue
            for what, change in changes(node): found.append((function.name, node.lineno, what, function.lineno, index, change))
    return found


def broken(source: str, at: int, index: int, change) -> ast.Module:
    "The module with one change made."
    tree = ast.parse(source)
    function = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.lineno == at)
    node = list(ast.walk(function))[index]
    if change == 'delete':
        for parent in ast.walk(function):
            for field in ('body', 'orelse', 'finalbody'):
                block = getattr(parent, field, None)
                if isinstance(block, list) and node in block: block[block.index(node)] = ast.Pass()
    else: change(node)
    return ast.fix_missing_locations(tree)


def install(name: str, tree: ast.Module) -> None:
    "Put the broken functions in the place of the sound ones, wherever they are held."
    module = importlib.import_module(f'lguest_lit.host.{name}')
    enact(module, ast.unparse(tree), module.__file__)


def noticed(name: str, tree: ast.Module, tests: list, seconds: int = 0) -> str:
    "'failed' or 'hung' if the tests notice, 'survived' if not."
    pid = os.fork()
    if not pid:
        code = 3
        try:
            out = os.open(os.devnull, os.O_WRONLY)
            os.dup2(out, 1); os.dup2(out, 2)
            signal.alarm(seconds)
            os.environ['LGUEST_LIT_EXAMPLES'] = '300'
            try: install(name, tree)
            except Exception: os._exit(1)
            code = int(pytest.main(['-x', '-q', '-p', 'no:cacheprovider', *tests]))
        finally: os._exit(code)
    status = os.waitpid(pid, 0)[1]
    return 'hung' if os.WIFSIGNALED(status) else 'failed' if os.WEXITSTATUS(status) == 1 else 'survived' if not os.WEXITSTATUS(status) else 'error'


def main() -> int:
    "The command line."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('modules', nargs='*', default=MODULES)
    parser.add_argument('--sample', type=int, help='how many mutants, of all')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--workers', type=int, default=2)
    parser.add_argument('--show', action='store_true', help='list the survivors')
    parser.add_argument('--at-least', type=float, default=0, help='exit code 1 if a smaller share is noticed')
    args = parser.parse_args()
    sources = {m: (ROOT/'lguest_lit/host'/f'{m}.py').read_text() for m in args.modules}
    todo = [(m, *mutant) for m, source in sources.items() for mutant in mutants(source)]
    if args.sample and args.sample < len(todo): todo = random.Random(args.seed).sample(todo, args.sample)
    tests = [str(ROOT/'tests'/f'{t}.py') for t in TESTS if (ROOT/'tests'/f'{t}.py').exists()]
    for name in ('hypothesis', 'lguest_lit.launcher.workbench', 'lguest_lit.cli'): importlib.import_module(name)
    began, tally = time.time(), {m: {} for m in args.modules}
    if noticed(args.modules[0], ast.parse(sources[args.modules[0]]), tests) != 'survived': parser.error('the tests fail on the unbroken Host')
    limit = 60 + int(1.5 * args.workers * (time.time() - began))
    def judge(job):
        module, function, line, what, at, index, change = job
        return job, noticed(module, broken(sources[module], at, index, change), tests, limit)
    with ThreadPoolExecutor(args.workers) as pool:
        for (module, function, line, what, *_), verdict in pool.map(judge, todo):
            tally[module][verdict] = tally[module].get(verdict, 0) + 1
            print(f'{sum(sum(t.values()) for t in tally.values())} of {len(todo)}', end='\r', file=sys.stderr, flush=True)
            if verdict in ('survived', 'error') and args.show: print(f'{verdict}: {module}.py:{line} {function}: {what}   {sources[module].splitlines()[line - 1].strip()}', flush=True)
    killed = lambda counts: counts.get('failed', 0) + counts.get('hung', 0)
    for module, counts in tally.items():
        n = sum(counts.values())
        if n: print(f'{module:24}{killed(counts):4} of {n:4} mutants noticed: {killed(counts) / n:.0%}')
    share = sum(map(killed, tally.values())) / max(1, len(todo))
    print(f'{"together":24}{sum(map(killed, tally.values())):4} of {len(todo):4} mutants noticed: {share:.0%}   ({time.time() - began:.0f} s)')
    return 1 if share < args.at_least else 0


if __name__ == '__main__': sys.exit(main())
