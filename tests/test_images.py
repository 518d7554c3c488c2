"The machine code that is shipped: that it is what its sources say, and that it is laid out as everybody else assumes."
import ctypes
import importlib.util
import re
import struct

import pytest
from capstone import CS_ARCH_X86, CS_MODE_32, Cs
from elftools.elf.elffile import ELFFile

from lguest_lit.host.hypercalls import LHCALL
from lguest_lit.images import build as b

HAS_ERROR_CODE = {8, 10, 11, 12, 13, 14, 17}
needs_compiler = pytest.mark.skipif(importlib.util.find_spec('ziglang') is None, reason='ziglang is not installed')


def segments(path):
    "(virtual address, physical address, bytes, size in memory) of each loadable segment."
    with open(path, 'rb') as f:
        return [(s['p_vaddr'], s['p_paddr'], s.data(), s['p_memsz']) for s in ELFFile(f).iter_segments()
                if s['p_type'] == 'PT_LOAD']


def stubs(path, table, at=0):
    "The instructions of all 256 stubs, found through the table `table`; `at` is its segment's number."
    sym, segs = b.symbols(path), segments(path)
    vaddr, _, data, _ = segs[at]
    addresses = struct.unpack_from('<256I', data, sym[table] - vaddr)
    base, _, text, _ = segs[0]
    md = Cs(CS_ARCH_X86, CS_MODE_32)
    return addresses, [list(md.disasm_lite(text[a - base:a - base + 16], a)) for a in addresses]


# --- the same bytes from the same sources -----------------------------------------------------------------------------

@needs_compiler
@pytest.mark.parametrize('name', b.IMAGES)
def test_rebuilt_image_is_the_shipped_one(name, tmp_path, capsys):
    new = b.build(name, tmp_path/'new.elf')
    assert new.read_bytes() == b.image_path(name).read_bytes(), f'run python -m lguest_lit.images.build {name}'
    assert capsys.readouterr() == ('', ''), 'the compiler warns'


@pytest.mark.parametrize('name', [n for n, folder in b.IMAGES.items() if folder == 'switcher'])
def test_listing_is_of_the_shipped_image(name):
    assert b.listing(b.image_path(name)) == b.image_path(name, '.lst').read_text()


def test_the_parts_of_first_fit_together():
    assert b.image_path('process').read_bytes() in b.image_path('first').read_bytes()


@pytest.mark.parametrize('name', b.IMAGES)
def test_nothing_of_the_builder_remains(name):
    image = b.image_path(name).read_bytes()
    assert image[:4] == b'\x7fELF' and len(image) < 32 << 10
    assert not re.search(rb'/(home|root|tmp|usr|Users)/|clang|\.zig|\.note|\.comment|\.debug', image)


def test_without_a_compiler(monkeypatch, tmp_path):
    monkeypatch.setattr(b.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(b.BuildError, match='pip install "ziglang=='): b.build('switcher', tmp_path/'x.elf')
    assert not (tmp_path/'x.elf').exists()


@needs_compiler
def test_a_failed_build_leaves_the_old_image(tmp_path):
    source, image = tmp_path/'mine.c', tmp_path/'mine.elf'
    source.write_text('int start(void) { return nonsense; }')
    image.write_bytes(b'old')
    with pytest.raises(b.BuildError, match="(?s)mine.c did not compile.*undeclared identifier 'nonsense'"): b.build(source)
    assert image.read_bytes() == b'old'
    with pytest.raises(b.BuildError, match='does not exist'): b.build(tmp_path/'other.S')


# --- the Switcher -----------------------------------------------------------------------------------------------------

SWITCHER = b.image_path('switcher')


def test_switcher_fits_a_page():
    sym = b.symbols(SWITCHER)
    text = sym['end_switcher_text'] - sym['start_switcher_text']
    assert (text, -(-text // 4096)) == (3312, 1)
    (vaddr, _, data, _), (_, _, table, _) = segments(SWITCHER)
    assert vaddr == sym['start_switcher_text'] != 0xFFC00000 and len(data) == text and len(table) == 1024


def test_switcher_stubs():
    sym = b.symbols(SWITCHER)
    addresses, codes = stubs(SWITCHER, 'default_idt_entries', 1)
    assert list(addresses) == sorted(set(addresses)) and all(a % 4 == 0 for a in addresses)
    assert all(sym['handle_nmi'] < a < sym['end_switcher_text'] for a in addresses)
    for vector, code in enumerate(codes):
        want = [] if vector in HAS_ERROR_CODE else [('push', 0, 2)]
        want.append(('push', vector, 2 if vector < 128 else 5))
        target = 'handle_nmi' if vector == 2 else 'return_to_host' if vector < 32 or vector == 128 else 'deliver_to_host'
        want.append(('jmp', sym[target], 5))
        assert [(m, int(o, 0), size) for _, size, m, o in code[:len(want)]] == want, vector


@needs_compiler
def test_switcher_text_does_not_care_where_it_is(tmp_path):
    script = tmp_path/'high.ld'
    script.write_text(b.image_path('switcher', '.ld').read_text().replace('0x00100000', '0xFFC00000'))
    assert b.compile_elf([b.image_path('switcher', '.S')], script, tmp_path/'high.elf') == ''
    (_, _, here, _), (_, _, table, _) = segments(SWITCHER)
    (at, _, there, _), (_, _, moved, _) = segments(tmp_path/'high.elf')
    assert at == 0xFFC00000 and here == there
    assert [a + 0xFFC00000 - 0x100000 for a in struct.unpack('<256I', table)] == list(struct.unpack('<256I', moved))


@needs_compiler
def test_june_form_differs_in_two_places(tmp_path):
    june = b.listing(b.build('switcher', tmp_path/'june.elf', ('JUNE_2007',)), 'start_switcher_text', 'handle_nmi')
    fixed = b.listing(SWITCHER, 'start_switcher_text', 'handle_nmi')
    ops = [[line[34:] for line in text.splitlines() if line[8:10] == '  '] for text in (june, fixed)]
    assert len(ops[0]) == len(ops[1])
    differ = [(x, y) for x, y in zip(*ops) if x != y]
    gdt, idt = 'lgdtl   0x1020(%eax)', 'lidtl   0x1018(%eax)'
    assert differ == [(gdt, idt), (idt, gdt)] + [('subl    $0xfb8, %eax', 'andl    $0xfffff000, %eax')] * 2


class Regs(ctypes.Structure):
    _fields_ = [(n, ctypes.c_uint32) for n in 'ebx ecx edx esi edi ebp gs eax fs ds es trapnum errcode eip cs eflags '
                                              'esp ss'.split()]

class Desc(ctypes.Structure):
    _pack_, _layout_ = 1, 'ms'
    _fields_ = [('limit', ctypes.c_uint16), ('base', ctypes.c_uint32), ('pad', ctypes.c_uint16)]

class Pages(ctypes.Structure):
    _fields_ = [('spare', ctypes.c_uint8 * 4024), ('regs', Regs), ('host_cr3', ctypes.c_uint32), ('host_idt_desc', Desc),
                ('host_gdt_desc', Desc), ('host_sp', ctypes.c_uint32), ('guest_idt_desc', Desc), ('guest_gdt_desc', Desc),
                ('guest_tss', ctypes.c_uint8 * 104), ('guest_idt', ctypes.c_uint64 * 256), ('guest_gdt', ctypes.c_uint64 * 32)]


def header(path):
    "The numeric #defines of a header."
    found = re.findall(r'^#define\s+(\w+)\s+(0x[0-9A-F]+|\d+)\b', path.read_text(), re.M)
    return {name: int(value, 0) for name, value in found}


def test_switcher_offsets():
    h = header(SWITCHER.with_suffix('.h'))
    assert h['PAGES_REGS'] == Pages.regs.offset and h['PAGES_REGS_TRAPNUM'] == Pages.regs.offset + Regs.trapnum.offset
    for name in 'host_cr3 host_idt_desc host_gdt_desc host_sp guest_idt_desc guest_gdt_desc guest_gdt'.split():
        assert h['PAGES_' + name.upper()] == getattr(Pages, name).offset, name
    for which in 'IDT', 'GDT': assert h[f'PAGES_HOST_{which}_BASE'] == h[f'PAGES_HOST_{which}_DESC'] + 2
    assert (h['LGUEST_CS'], h['LGUEST_DS'], h['TSS_SELECTOR'], h['TSS_TYPE_BYTE']) == (10*8, 11*8, 16*8, 16*8 + 5)


def test_registers_are_popped_in_their_order():
    code = b.listing(SWITCHER, 'switch_to_guest', 'return_to_host')
    assert re.findall(r'popl +%(\w+)', code) == [name for name, _ in Regs._fields_[:11]]
    back = b.listing(SWITCHER, 'return_to_host', 'deliver_to_host')
    assert re.findall(r'pushl +%(\w+)', back) == [name for name, _ in Regs._fields_[10::-1]]


# --- the Host's own instructions --------------------------------------------------------------------------------------

def test_host_fits_between_page_1_and_page_3():
    (vaddr, paddr, data, size), = segments(b.image_path('host'))
    assert (vaddr, paddr) == (0xC0001000, 0x1000) and size == len(data) <= 0x2000
    sym = b.symbols(b.image_path('host'))
    assert sym['host_code_end'] <= 0xC0002000 <= sym['host_data_start']
    assert struct.unpack_from('<i', data, sym['host_oops'] - vaddr) == (-1,)


def test_host_stubs():
    path = b.image_path('host')
    sym = b.symbols(path)
    addresses, codes = stubs(path, 'host_idt_entries')
    assert len(set(addresses)) == 256
    for vector, code in enumerate(codes):
        if vector == 2 or vector >= 32:
            assert [m for _, _, m, _ in code[:2]] == ['inc', 'iretd'], vector
            assert code[0][3] == f'dword ptr ss:[{sym["host_irq_count"] + 4*vector:#x}]'
        else:
            want = [] if vector in HAS_ERROR_CODE else [('push', 0)]
            want += [('push', vector), ('jmp', sym['host_oops_handler'])]
            assert [(m, int(o, 0)) for _, _, m, o in code[:len(want)]] == want, vector


# --- the Guests -------------------------------------------------------------------------------------------------------

MARKER = b'GenuineLguest'
GUESTS = 'first', 'minimal'


@pytest.mark.parametrize('name', GUESTS)
def test_guest_is_one_that_the_launcher_takes(name):
    path = b.image_path(name)
    assert path.read_bytes().count(MARKER) == 1
    with open(path, 'rb') as f:
        elf = ELFFile(f)
        assert (elf['e_type'], elf['e_machine'], elf['e_phentsize']) == ('ET_EXEC', 'EM_386', 32)
        entry = elf['e_entry']
    segs = segments(path)
    assert {vaddr - paddr for vaddr, paddr, _, _ in segs} == {0xC0000000}
    assert all(paddr >= 0x100000 and paddr % 4096 == 0 for _, paddr, _, _ in segs)
    (vaddr, _, text, _), = [s for s in segs if MARKER in s[2]]
    assert entry == b.symbols(path)['start'] == vaddr + text.index(MARKER) + len(MARKER)
    assert b.symbols(path)['kernel_end'] >= max(vaddr + size for vaddr, _, _, size in segs)


def test_the_source_of_the_smallest_guest_fits_a_page_of_text():
    assert len(b.image_path('minimal', '.S').read_text().splitlines()) <= 50


@pytest.mark.parametrize('name', ['first', 'process'])
def test_only_instructions_of_a_386(name):
    with open(b.image_path(name), 'rb') as f:
        elf = ELFFile(f)
        text = elf.get_section_by_name('.text')
        functions = [s for s in elf.get_section_by_name('.symtab').iter_symbols() if s['st_info']['type'] == 'STT_FUNC']
        code = [(s['st_value'], text.data()[s['st_value'] - text['sh_addr']:][:s['st_size']]) for s in functions]
    md = Cs(CS_ARCH_X86, CS_MODE_32)
    used = {m.split()[-1] for at, data in code for _, _, m, _ in md.disasm_lite(data, at)}
    assert len(used) > 20
    newer = r'cmov|bswap|xadd|cmpxchg|cpuid|rdtsc|sys(enter|exit)|[a-z]*(mm|ss|sd|ps|pd)$|f[a-z]+|p(add|xor|and|or|sh)'
    assert not {m for m in used if re.match(newer, m)}


@needs_compiler
def test_lguest_data_as_the_compiler_sees_it(tmp_path):
    "June 2007: the offsets of the fact sheet, against the structure that the Guests are compiled with."
    offsets = dict(irq_enabled=0, blocked_interrupts=4, cr2=8, hcall_status=12, hcalls=76, reserve_mem=1100, guestid=1104,
                   tsc_khz=1108, noirq_start=1112, noirq_end=1116)
    dma = dict(used_len=0, addr=4, len=68)
    device = dict(type=0, features=2, status=4, num_pages=6, pfn=8)
    ring = dict(eax=0, edx=4, ebx=8, ecx=12)
    checks = [f'_Static_assert(__builtin_offsetof(struct {s}, {f}) == {at}, "{s}.{f}");'
              for s, fields in (('lguest_data', offsets), ('lguest_dma', dma), ('lguest_device_desc', device), ('hcall', ring))
              for f, at in fields.items()]
    sizes = dict(lguest_data=1120, lguest_dma=100, lguest_device_desc=12, hcall=16)
    checks += [f'_Static_assert(sizeof(struct {s}) == {n}, "size of {s}");' for s, n in sizes.items()]
    source = tmp_path/'layout.c'
    source.write_text('#include "lguest.h"\n' + '\n'.join(checks) + '\nvoid start(void) {}\n')
    b.build(source)
    h = header(b.image_path('first').with_name('lguest.h'))
    assert (h['LGUEST_DATA_IRQ_ENABLED'], h['LGUEST_DATA_STATUS'], h['LGUEST_DATA_SIZE']) == (0, 12, 1120)


def test_hypercall_numbers():
    h = header(b.image_path('first').with_name('lguest.h'))
    order = ('FLUSH_ASYNC LGUEST_INIT CRASH LOAD_GDT NEW_PGTABLE FLUSH_TLB LOAD_IDT_ENTRY SET_STACK TS SET_CLOCKEVENT HALT '
             'GET_WALLCLOCK BIND_DMA SEND_DMA SET_PTE SET_PMD LOAD_TLS').split()
    assert [h['LHCALL_' + name] for name in order] == list(range(len(order)))
    assert {n: h[n] for n in h if n.startswith('LHCALL_') and n != 'LHCALL_RING_SIZE'} == {f'LHCALL_{c.name}': c for c in LHCALL}


def test_where_the_first_guest_must_not_be_interrupted():
    path = b.image_path('first')
    sym = b.symbols(path)
    code = b.listing(path, 'noirq_start', 'noirq_end')
    ops = [line[34:] for line in code.splitlines()[1:] if line]
    assert ops == [f'movl    %eax, %ss:{sym["lguest_data"]:#x}', 'popl    %eax', 'iretl']
    vaddr, _, data, _ = next(s for s in segments(path) if s[0] <= sym['lguest_data'] < s[0] + len(s[2]))
    shared = data[sym['lguest_data'] - vaddr:][:1120]
    assert struct.unpack_from('<2I', shared, 1112) == (sym['noirq_start'], sym['noirq_end'])
    assert shared[12:76] == b'\xff' * 64 and struct.unpack_from('<2I', shared) == (0, 1)
