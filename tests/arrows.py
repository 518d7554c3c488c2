"Who imports whom, drawn: `python tests/arrows.py` puts the picture into CONTRIBUTING.md. An arrow points to what is used; what follows from others is left out."
import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT/'CONTRIBUTING.md'
BETWEEN = re.compile(r'(<!-- arrows: (\w+) -->\n).*?(<!-- end -->)', re.S)


def uses() -> dict[str, set[str]]:
    "Each module of the package, by its name inside it, and the modules of the package that it imports."
    found = {}
    for path in sorted((ROOT/'lguest_lit').rglob('*.py')):
        package = path.relative_to(ROOT).parent.parts
        name, used = '.'.join([*package[1:], path.stem]), set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import): used |= {a.name for a in node.names}
            elif isinstance(node, ast.ImportFrom):
                base = [*package[:len(package) + 1 - node.level]] if node.level else []
                module = '.'.join(base + ([node.module] if node.module else []))
                used |= {module} | {f'{module}.{a.name}' for a in node.names}
        found[name] = {u.removeprefix('lguest_lit.') for u in used if u.startswith('lguest_lit.')} - {name}
    return {name: used & found.keys() for name, used in found.items()}


def rooms() -> dict[str, set[str]]:
    "Each package (and the command line, which is a module), and the packages that its modules use."
    found = {}
    for name, used in uses().items():
        room = name.split('.')[0]
        if not room.startswith('_'): found.setdefault(room, set()).update(u.split('.')[0] for u in used if not u.startswith('_'))
    return {room: used - {room} for room, used in found.items()}


def inside(room: str) -> dict[str, set[str]]:
    "The modules of one package, and those of the same package that they use."
    mine = {n.removeprefix(f'{room}.'): used for n, used in uses().items() if n.startswith(f'{room}.') and not n.endswith('__')}
    return {n: {u.removeprefix(f'{room}.') for u in used if u.startswith(f'{room}.')} & mine.keys() for n, used in mine.items()}


def reach(graph: dict, start: str) -> set[str]:
    "All that can be reached from a node, in any number of steps."
    found, todo = set(), [start]
    while todo:
        for node in graph[todo.pop()] - found:
            found.add(node)
            todo.append(node)
    return found


def drawn(graph: dict) -> str:
    "A graph for GitHub to draw, without the arrows that follow from others."
    lines = ['```mermaid', 'flowchart TD']
    for a in sorted(graph):
        for b in sorted(graph[a]):
            if not any(b in reach(graph, other) for other in graph[a] - {b}): lines.append(f'  {a} --> {b}')
    return '\n'.join([*lines, '```']) + '\n'


def page(text: str) -> str:
    "CONTRIBUTING with today's pictures."
    graph = lambda which: rooms() if which == 'rooms' else inside(which)
    return BETWEEN.sub(lambda m: m[1] + drawn(graph(m[2])) + m[3], text)


if __name__ == '__main__': PAGE.write_text(page(PAGE.read_text()))
