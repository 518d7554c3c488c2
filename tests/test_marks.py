"The marks of Chapter V: each has its section, its functions stand in it, and whoever refers to one links to it."
import ast
import importlib
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HOST = ROOT/'nbs'/'5_host'

# Mark: module, and what is defined under it. The names are those of 2007; find_pgdir, set_ts and others have no mark of
# their own and stand where they are needed.
MARKS = {
    'H:000': ('host', 'init fini adjust_pge'),
    'H:010': ('switcher', 'map_switcher unmap_switcher switcher_offset lguest_pages'),
    'H:030': ('core', 'run_guest run_guest_once set_ts copy_in_guest_info'),
    'H:100': ('hypercalls', 'do_hypercalls'),
    'H:110': ('hypercalls', 'clear_hcall'),
    'H:120': ('hypercalls', 'do_hcall do_async_hcalls initialize'),
    'H:130': ('emulate_insn', 'emulate_insn'),
    'H:200': ('interrupts_and_traps', 'maybe_do_interrupt clockdev_fn guest_set_clockevent init_clockdev'),
    'H:210': ('interrupts_and_traps', 'set_guest_interrupt push_guest_stack idt_address idt_type idt_present'),
    'H:220': ('interrupts_and_traps', 'has_err deliver_trap'),
    'H:230': ('interrupts_and_traps', 'load_guest_idt_entry default_idt_entry setup_default_idt_entries'),
    'H:235': ('interrupts_and_traps', 'set_trap'),
    'H:240': ('interrupts_and_traps', 'copy_traps'),
    'H:250': ('interrupts_and_traps', 'direct_trap'),
    'H:260': ('interrupts_and_traps', 'guest_set_stack'),
    'H:300': ('page_tables', ''),
    'H:310': ('page_tables', 'Gpgd Gpte Spgd Spte'),
    'H:320': ('page_tables', 'vaddr_to_pgd_index spgd_addr spte_addr gpgd_addr gpte_addr'),
    'H:330': ('page_tables', 'demand_page check_gpte check_gpgd'),
    'H:340': ('page_tables', 'gpte_to_spte'),
    'H:350': ('page_tables', 'get_pfn'),
    'H:360': ('page_tables', 'page_writable pin_page pin_stack_pages'),
    'H:400': ('page_tables', 'guest_set_pmd'),
    'H:410': ('page_tables', 'guest_set_pte'),
    'H:420': ('page_tables', 'do_set_pte'),
    'H:430': ('page_tables', 'guest_new_pagetable find_pgdir'),
    'H:435': ('page_tables', 'new_pgdir'),
    'H:440': ('page_tables', 'flush_user_mappings guest_pagetable_flush_user'),
    'H:450': ('page_tables', 'release_pgd'),
    'H:460': ('page_tables', 'release_pte'),
    'H:470': ('page_tables', 'release_all_pagetables guest_pagetable_clear_all'),
    'H:480': ('page_tables', 'map_switcher_in_guest'),
    'H:500': ('page_tables', 'init_guest_pagetable free_guest_pagetable'),
    'H:510': ('page_tables', 'init_pagetables free_pagetables free_switcher_pte_pages'),
    'H:520': ('page_tables', 'populate_switcher_pte_page'),
    'H:600': ('segments', 'desc_ok segment_present ignored_gdt check_segment_use'),
    'H:610': ('segments', 'fixup_gdt_table setup_default_gdt_entries setup_guest_gdt copy_gdt copy_gdt_tls load_guest_gdt guest_load_tls'),
}
# What the seed uses and does not show.
UNMARKED = {'lg': 'lgread lgread_u32 lgwrite lgwrite_u32 lguest_address_ok guest_pa kill_guest Lguest', 'io': 'bind_dma send_dma',
            'lguest_user': 'LguestFile', 'page_tables': 'pin_stack_pages find_pgdir'}
# pin_stack_pages belongs to H:260; it is called by the page tables, so it stands with them.
ELSEWHERE = {'pin_stack_pages': 'H:260'}

# What a mark shows: the pictures in its section, or at least in its notebook.
PICTURES = {
    'H:000': 'steps', 'H:010': 'address_space',
    'H:030': 'run_guest',
    'H:100': 'hypercall_ring', 'H:110': 'hypercall_ring', 'H:120': 'hypercall_ring',
    'H:130': 'trap_microscope steps',
    'H:200': 'interrupt_decision bit_fields', 'H:210': 'trap_microscope', 'H:220': 'trap_microscope',
    'H:230': 'bit_fields', 'H:235': 'bit_fields',
    'H:240': 'descriptor_tables trap_microscope', 'H:250': 'trap_microscope', 'H:260': 'trap_microscope',
    **dict.fromkeys('H:300 H:310 H:320 H:330 H:340 H:350 H:400 H:410 H:420 H:430 H:435 H:440 H:450 H:460 H:470'.split(), 'page_tables'),
    'H:480': 'switcher steps', **dict.fromkeys('H:500 H:510 H:520'.split(), 'page_tables address_space'),
    'H:600': 'bit_fields', 'H:610': 'descriptor_tables',
}


def in_order() -> list[Path]:
    "The Host's notebooks, as the sidebar has them: by their names."
    return sorted((ROOT/'nbs/5_host').glob('*.ipynb'))


def sections(path: Path) -> list:
    "(mark or None, kind, source) of each cell; a heading with a mark in it begins a section."
    mark, found = None, []
    for cell in json.loads(path.read_text())['cells']:
        source = ''.join(cell['source'])
        heading = re.match(r'#{1,3} (H:\d{3})\b', source) if cell['cell_type'] == 'markdown' else None
        mark = heading[1] if heading else mark
        found.append((mark, cell['cell_type'], source))
    return found


CELLS = {path: sections(path) for path in in_order()}


def defined(source: str) -> set[str]:
    "The names that a cell defines at its top level."
    names = set()
    for node in ast.parse(source).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)): names.add(node.name)
        elif isinstance(node, ast.Assign): names |= {n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name)}
    return names


def slug(heading: str) -> str:
    "The anchor that the site gives to a heading."
    words = re.sub(r'[^\w\s.-]', '', heading.lower()).split()
    return re.sub(r'^[^a-z]+', '', '-'.join(words))


def test_there_are_thirty_seven(): assert len(MARKS) == 37


def test_marks_stand_in_rustys_order():
    seen = [mark for cells in CELLS.values() for mark, kind, source in cells if kind == 'markdown' and re.match(r'#{1,3} H:\d{3}', source)]
    firsts = list(dict.fromkeys(m for m in seen if m in MARKS))
    assert firsts == list(MARKS), set(MARKS) ^ set(firsts)


@pytest.mark.parametrize('mark', MARKS)
def test_what_belongs_to_a_mark_stands_under_it(mark):
    module, names = MARKS[mark]
    here = {name for cells in CELLS.values() for m, kind, source in cells if m == mark and kind == 'code' and re.search(r'^#\|\s*export', source, re.M)
            for name in defined(source)}
    assert set(names.split()) <= here, f'not under {mark}: {set(names.split()) - here}'
    for name in names.split():
        thing = getattr(importlib.import_module(f'lguest_lit.host.{module}'), name)
        if callable(thing) and thing.__doc__ and not isinstance(thing, type) and not hasattr(thing, '__supertype__'):
            assert f'[{ELSEWHERE.get(name, mark)}' in thing.__doc__ or re.search(r'\[(H:|L:|facts)', thing.__doc__), f'{name} does not say where it comes from'


@pytest.mark.parametrize('module', UNMARKED)
def test_what_the_seed_uses_and_does_not_show_is_here(module):
    for name in UNMARKED[module].split(): assert getattr(importlib.import_module(f'lguest_lit.host.{module}'), name).__doc__


def home(mark: str) -> tuple[Path, str]:
    "The notebook and the heading of a mark."
    for path, cells in CELLS.items():
        for m, kind, source in cells:
            if m == mark and kind == 'markdown' and source.startswith('#'): return path, source.splitlines()[0].lstrip('# ')
    raise AssertionError(f'{mark} has no section')


ALL = sorted((ROOT/'nbs').rglob('*.ipynb'))
REFERENCE = re.compile(r'(\[)?\[(H:\d{3})\](\(([^)]*)\))?')


@pytest.mark.parametrize('path', [p for p in ALL if '.ipynb_checkpoints' not in p.parts], ids=lambda p: str(p.relative_to(ROOT/'nbs')))
def test_a_reference_to_a_mark_is_a_link_to_it(path):
    for cell in json.loads(path.read_text())['cells']:
        if cell['cell_type'] != 'markdown': continue
        for match in REFERENCE.finditer(''.join(cell['source'])):
            mark, link = match[2], match[4]
            assert link, f'{mark} is not linked in {path.name}: {match[0]}'
            target, heading = home(mark)
            file, _, anchor = link.partition('#')
            assert (path.parent/file).resolve() == target if file else path == target, f'{match[0]} in {path.name}'
            assert not anchor or anchor == slug(heading), f'{match[0]} in {path.name}: the heading is {heading!r}'


def test_the_index_has_a_row_for_each_mark():
    text = '\n'.join(''.join(c['source']) for c in json.loads((ROOT/'nbs'/'index.ipynb').read_text())['cells'] if c['cell_type'] == 'markdown')
    rows = re.findall(r'^\| \[(H:\d{3})\]\(([^)#]*)[^)]*\) \|', text, re.M)
    assert [mark for mark, _ in rows] == list(MARKS)
    for mark, file in rows: assert (ROOT/'nbs'/file).resolve() == home(mark)[0], mark


@pytest.mark.parametrize('path', CELLS, ids=lambda p: p.stem)
def test_a_chapter_has_its_parts(path):
    "Where we stand, a prediction, what we learnt, an exercise with hint and solution, and whom it hands over to."
    cells = CELLS[path]
    text = '\n'.join(source for _, kind, source in cells if kind == 'markdown')
    code = '\n'.join(source for _, kind, source in cells if kind == 'code')
    for part in ('*Where we stand:*', '**Before you', '## What we learnt', '## Try it', 'title="Hint"', '*Next:*'): assert part in text, part
    assert 'code-summary: "Solution"' in code and 'answer' in code


@pytest.mark.parametrize('mark', PICTURES)
def test_a_mark_has_its_pictures(mark):
    path, _ = home(mark)
    shown = [''.join(output.get('data', {}).get('text/html', '')) for cell in json.loads(path.read_text())['cells'] for output in cell.get('outputs', ())]
    seen = {name for html in shown for name in re.findall(r'data-picture="(\w+)"', html)}
    assert set(PICTURES[mark].split()) <= seen, f'not under {mark}: {set(PICTURES[mark].split()) - seen}'
