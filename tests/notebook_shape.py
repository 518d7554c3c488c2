"""Measure the shape of the notebooks, and hold it against the examples we want to learn from.

    python tests/notebook_shape.py                     the table
    python tests/notebook_shape.py --check             exit code 1 if the whole is behind an example in anything that is held

A lesson cell is a code cell that is not exported. A function's length is what stands in it: lines with code, without
signature and docstring; a cell's counts a signature as one line. Prediction and exercise cells count like any other.
"""
import argparse
import ast
import json
import re
import sys
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
# name of the measure: (best of the examples, whose it is, is more better?)
EXAMPLES = {'text cells / code cells': (1.07, 'nbdev', True), 'words / line of code': (0, '', True), 'assertions / export': (2.33, 'fastcore', True),
            'exports with a lesson at once': (0.46, 'fastcore', True), 'code cells that show something': (0.68, 'pytudes', True),
            'export cell, median lines': (6, 'fastcore', False), 'function, median lines': (5, 'pytudes, nbdev', False), 'function, p90 lines': (15, 'pytudes', False)}
HELD = [name for name in EXAMPLES if EXAMPLES[name][1]]


def cells(path: Path) -> list[tuple[str, str, bool]]:
    "(kind, source, shows something?) of each cell."
    return [(c['cell_type'], ''.join(c['source']), bool(c.get('outputs'))) for c in json.loads(path.read_text())['cells']]


def exported(source: str) -> bool: return bool(re.search(r'^#\|\s*export', source, re.M))


def imports_only(source: str) -> bool:
    "An import cell, or nothing but directives."
    code = [line for line in source.splitlines() if line.strip() and not line.startswith(('#', '%'))]
    try: return all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.parse('\n'.join(code)).body)
    except SyntaxError: return False


def body_lines(node: ast.AST, source: list[str]) -> int:
    "Lines with code in a function, without its docstring."
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    if not body: return 1
    lines = source[body[0].lineno - 1:body[-1].end_lineno]
    return sum(bool(line.strip()) and not line.strip().startswith('#') for line in lines)


def code_lines(source: str) -> int:
    "Lines of a cell that hold code: no comments, docstrings, directives or blank lines; a signature is one, on however many lines it documents its parameters."
    tree = ast.parse('\n'.join('' if line.lstrip().startswith(('%', '!')) else line for line in source.splitlines()))
    quiet = {n for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)) and ast.get_docstring(node) is not None
             for n in range(node.body[0].lineno, node.body[0].end_lineno + 1)}
    quiet |= {n for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) for n in range(node.lineno + 1, node.body[0].lineno)}
    return sum(bool(line.strip()) and not line.strip().startswith('#') and n not in quiet for n, line in enumerate(source.splitlines(), 1))


def measure(path: Path) -> dict:
    "The raw numbers of one notebook."
    found, m = cells(path), dict(text=0, code=0, words=0, lines=0, exports=0, lessons=0, asserts=0, shown=0, export_lines=[], functions=[])
    work = [(kind, source, out) for kind, source, out in found if kind == 'markdown' or not imports_only(source)]
    for n, (kind, source, out) in enumerate(work):
        if kind == 'markdown':
            m['text'] += 1
            m['words'] += len(source.split())
            continue
        m['code'] += 1
        m['lines'] += code_lines(source)
        if not exported(source):
            m['asserts'] += sum(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(source)))
            m['shown'] += out
            continue
        m['exports'] += 1
        m['export_lines'].append(code_lines(source))
        following = next(((k, s) for k, s, _ in work[n + 1:n + 3] if k == 'code'), None)
        m['lessons'] += following is not None and not exported(following[1])
        m['functions'] += [body_lines(node, source.splitlines()) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    return m


def total(measured: list[dict]) -> dict:
    "The numbers of several notebooks together."
    return {key: sum((m[key] for m in measured), [] if isinstance(measured[0][key], list) else 0) for key in measured[0]}


def ratios(m: dict) -> dict:
    "Raw numbers as the measures of EXAMPLES; None where there is nothing to measure."
    share = lambda a, b: a / b if b else None
    p90 = lambda values: sorted(values)[int(len(values) * .9)] if values else None
    return {'text cells / code cells': share(m['text'], m['code']), 'words / line of code': share(m['words'], m['lines']),
            'assertions / export': share(m['asserts'], m['exports']), 'exports with a lesson at once': share(m['lessons'], m['exports']),
            'code cells that show something': share(m['shown'], m['code'] - m['exports']),
            'export cell, median lines': median(m['export_lines']) if m['export_lines'] else None,
            'function, median lines': median(m['functions']) if m['functions'] else None, 'function, p90 lines': p90(m['functions'])}


def behind(found: dict) -> list[str]:
    "The measures in which we are behind the best example."
    return [name for name in HELD if found[name] is not None
            and (found[name] < EXAMPLES[name][0] if EXAMPLES[name][2] else found[name] > EXAMPLES[name][0])]


def main() -> int:
    "The command line."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--check', action='store_true', help='fail if the whole is behind')
    parser.add_argument('notebooks', nargs='*', type=Path)
    args = parser.parse_args()
    paths = args.notebooks or sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
    measured = {p: measure(p) for p in paths}
    show = lambda v: '-' if v is None else f'{v:.2f}' if isinstance(v, float) and v != int(v) else f'{int(v)}'
    print(f'{"":42}' + ''.join(f'{name.split(",")[0][:9]:>10}' for name in EXAMPLES))
    for path, m in measured.items():
        print(f'{str(path.relative_to(ROOT) if path.is_absolute() else path)[4:]:42}' + ''.join(f'{show(v):>10}' for v in ratios(m).values()))
    whole = ratios(total(list(measured.values())))
    print()
    for name, value in whole.items():
        best, whose, more = EXAMPLES[name]
        print(f'{name:34}{show(value):>8}   {f"{whose}: {best}" if whose else ""}')
    late = behind(whole)
    if late: print(f'behind in: {", ".join(late)}')
    return 1 if args.check and late else 0


if __name__ == '__main__': sys.exit(main())
