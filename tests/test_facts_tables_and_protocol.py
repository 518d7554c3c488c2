"The facts, items 31 to 54: page tables, segments, the Switcher, and the protocol of /dev/lguest. Each test bears its number."
import errno
import struct
import threading
import time
from contextlib import ExitStack

import pytest

from guests import dma, hypercall
from lguest_lit.host import io
from lguest_lit.launcher import launcher
from lguest_lit.host.clock import VirtualClock
from lguest_lit.host.host import Host
from lguest_lit.i386.memory import OutOfMemory
from lguest_lit.host.lg import Fixes, LauncherMemory
from lguest_lit.host.lguest_user import LguestFile
from lguest_lit.launcher.workbench import OneTurn, Workbench

STOP = '\n hcall 0\n'                           # FLUSH_ASYNC: nothing but a place to stop at
A, B, C, D, E = range(0x200000, 0x250000, 0x10000)  # Guest-physical: page directories
SWITCH = ''.join(f'hcall 4, ${at:#x}\n movl 0x400000, %esi {STOP}' for at in (A, B, C, D, E))
FAULT = '\nfault: popl %edi' + STOP             # a handler for page faults: EDI is the error code


class Picks:
    "Instead of random numbers."
    def __init__(self, *picks): self.left = list(picks)

    def randrange(self, n):
        assert n == 4
        return self.left.pop(0)


@pytest.fixture
def bench():
    "Makes Workbenches whose Host evicts the shadows `picks`, and Hosts; all are closed in the end. A signal ends what hangs."
    hosts = []
    def rescue():
        for host in hosts:
            host.signal_pending = True
            host.kick()
    watchdog = threading.Timer(60, rescue)
    watchdog.daemon = True
    with ExitStack() as stack:
        stack.callback(watchdog.cancel)
        watchdog.start()
        def make(text, *picks, **kw):
            g = stack.enter_context(Workbench(text, **kw))
            hosts.append(g.host)
            if picks: g.host.rng = Picks(*picks)
            return g
        make.enter = stack.enter_context
        def host(**kw):
            hosts.append(stack.enter_context(Host(**{'memory': 24 << 20, 'clock': OneTurn()} | kw)))
            return hosts[-1]
        make.host = host
        yield make


def go(g, call=0):
    "Run until the Guest's next hypercall `call` has been done, or it is dead: the vectors on the way."
    def done(): return g.stats.hypercalls_sync.get(call, 0)
    story, before = [], done()
    while g.dead is None and done() == before:
        assert len(story) < 60, story
        story.append(g.turn())
        assert story[-1] is not None or g.dead, 'it did not come back'
    return story


def spgd(g, index, slot=None):
    "An entry of a shadow page directory; of the current one by default."
    return g.host.mem.u32[g.lg.pgdirs[g.lg.pgdidx if slot is None else slot].pgdir*1024 + index]


def filled(g, slot): return {i for i in range(1024) if spgd(g, i, slot)}


def spte(g, vaddr, slot=None):
    "(Guest page, flags) of what a shadow maps at an address; None if nothing."
    top = spgd(g, vaddr >> 22, slot)
    entry = g.host.mem.u32[(top >> 12)*1024 + (vaddr >> 12 & 1023)] if top & 1 else 0
    return ((entry >> 12) - g.mm.base_pfn, entry & 0xFFF) if entry else None


def refs(g, gpfn): return g.host.mem.refs[g.mm.base_pfn + gpfn]


def words(*numbers): return struct.pack(f'<{len(numbers)}I', *numbers)


def raw(bench, host, code=b'\xeb\xfe', page_offset=0xC0000000, init=True, task='me'):
    "A Guest made by hand: 4 MB, `code` at 1 MB, page tables at the end. Its file; INITIALIZE has been said unless not `init`."
    mm = LauncherMemory(host.mem, 1024)
    bench.enter(Closing(mm))
    mm.write(0x100000, code)
    mm.write(0x3FF000 + (page_offset >> 22)*4, words(0x3FE007))
    mm.write(0x3FE000, words(*(n << 12 | 7 for n in range(1024))))
    file = bench.enter(LguestFile(host, task, mm))
    if init: assert file.write(words(0, 1024, 0x3FF000, page_offset + 0x100000, page_offset)) == 16
    return file


class Closing:
    def __init__(self, thing): self.thing = thing
    def __enter__(self): return self.thing
    def __exit__(self, *_): self.thing.close()


def refused(number, call, *args, **kw):
    "The call fails with this errno."
    with pytest.raises(OSError) as e: call(*args, **kw)
    assert e.value.errno == number, errno.errorcode[e.value.errno]


# --- page tables ------------------------------------------------------------------------------------------------------

def test_31_read_then_write_fault(bench):
    g = bench('hcall 4, $0x200000' + STOP + 'movl 0x400000, %esi' + STOP + 'movl $0x1234, 0x400000' + STOP, 1)
    g.address_space(A, {0x400000: 0x300007})
    g.put(0x300000, words(0xABCD))
    go(g)
    assert spte(g, 0x400000) is None and g.word(A + 0x1000) == 0x300007
    assert go(g) == [14, 31] and g.regs.esi == 0xABCD
    assert spte(g, 0x400000) == (0x300, 0x25) and g.word(A + 0x1000) == 0x300027
    assert go(g) == [14, 31] and g.word(0x300000) == 0x1234
    assert spte(g, 0x400000) == (0x300, 0x67) and g.word(A + 0x1000) == 0x300067


@pytest.mark.parametrize('entry, access, shadow, after', (
    (0x300007, 'movl $1, 0x400000', 0x67, 0x300067),        # written at once
    (0x300047, 'movl 0x400000, %esi', 0x67, 0x300067),      # dirty already: writable at the first read
    (0x300005, 'movl 0x400000, %esi', 0x25, 0x300025)))
def test_31_one_fault_is_enough(bench, entry, access, shadow, after):
    g = bench('hcall 4, $0x200000' + STOP + access + STOP + access + STOP, 1)
    g.address_space(A, {0x400000: entry})
    go(g)
    assert go(g) == [14, 31]
    assert spte(g, 0x400000) == (0x300, shadow) and g.word(A + 0x1000) == after
    assert go(g) == [31]


def test_31_dirty_before_it_was_ever_written(bench):
    "The Guest's entry says dirty, so the shadow is writable from the first read on: not the zeros that all share."
    g = bench('hcall 4, $0x200000' + STOP + 'movl 0x400000, %esi' + STOP + 'movl $0x1234, 0x400000; movl 0x401000, %edi' + STOP, 1)
    g.address_space(A, {0x400000: 0x300067, 0x401000: 0x301007})
    for page in 0x300, 0x301: g.mm.touched[page] = 0
    go(g)
    assert go(g) == [14, 31] and spte(g, 0x400000) == (0x300, 0x67)
    go(g)
    assert (g.word(0x300000), g.regs.edi) == (0x1234, 0)


def test_31_a_right_that_came_without_a_word(bench):
    "The shadow has the page for the kernel only, the Guest's entry lets everybody in by now: mended, and a read is no write."
    g = bench('hcall 4, $0x200000' + STOP + 'movl 0x400000, %esi' + STOP + 'user u\nu: movl 0x400000, %edi\n int $0x1f', 1)
    g.address_space(A, {0x400000: 0x300003})
    go(g)
    assert go(g) == [14, 31] and spte(g, 0x400000) == (0x300, 0x21)
    g.put(0x300000, words(0xABCD))
    g.put(A + 0x1000, words(0x300027))
    story = g.turns(20)
    assert g.regs.edi == 0xABCD and story[-1] == 13 and story.count(14) >= 1
    assert spte(g, 0x400000) == (0x300, 0x25) and g.word(A + 0x1000) == 0x300027


@pytest.mark.parametrize('access, user, address, entry, flags, errcode, after', (
    ('movl $1, 0x400ABC', False, 0x400ABC, 0x300005, 7, 2, 0x300005),
    ('movl 0x400ABC, %eax; movl $1, 0x400ABC', False, 0x400ABC, 0x300005, 7, 3, 0x300025),
    ('movl 0x400ABC, %eax', True, 0x400ABC, 0x300003, 7, 4, 0x300003),
    ('movl $1, 0x400ABC', True, 0x400ABC, 0x300005, 7, 6, 0x300005),
    ('movl 0x400ABC, %eax', False, 0x400ABC, 0, 7, 0, 0),
    ('movl $1, 0x400ABC', True, 0x400ABC, 0x300066, 7, 6, 0x300066),
    ('movl 0x800ABC, %eax', False, 0x800ABC, 0x300007, 7, 0, 0x300007),
    ('movl $1, 0x400ABC', False, 0x400ABC, 0x300007, 5, 2, 0x300007),
    ('movl 0x400ABC, %eax', True, 0x400ABC, 0x300007, 3, 4, 0x300007)),
    ids=('write, read-only', 'write after read, read-only', 'user, supervisor', 'user write, read-only', 'no pte', 'user, no pte',
         'no pgd', 'write, read-only pgd', 'user, supervisor pgd'))
def test_32_reflected_with_cr2(bench, access, user, address, entry, flags, errcode, after):
    enter = 'user 1f\n1: ' if user else ''
    g = bench(f'gate 14, fault\n hcall 4, $0x200000\n {enter}{access}' + FAULT, 1)
    g.address_space(A, {0x400000: entry}, flags)
    go(g)
    assert g.dead is None and g.regs.edi == errcode and g.regs.eip == g.at('fault') + 8
    assert g.word(g.pa('lguest_data') + 8) == address
    assert g.word(A + 0x1000) == after and g.stats.demand_reflected == 1


def test_32_seed_ignores_the_rights_of_the_top_level(bench):
    "demand_page says it is mended, the CPU does not think so: for ever."
    g = bench('gate 14, fault\n hcall 4, $0x200000\n here: movl $1, 0x400000' + FAULT, 1, fixes=Fixes(pgd_rights=False))
    g.address_space(A, {0x400000: 0x300007}, 5)
    while g.regs.eip != g.at('here') or g.trap != 14: g.turn()
    assert [g.turn() for _ in range(9)] == [14]*9 and g.regs.eip == g.at('here') and g.stats.demand_reflected == 0


@pytest.mark.parametrize('entry, flags, last_words', (
    (0x300087, 7, 'bad page table entry'), (0x30000F, 7, 'bad page table entry'),
    (0x401007, 7, 'bad page table entry'), (0xFFFFF007, 7, 'bad page table entry'),
    (0x300007, 0x87, 'bad page directory entry'), (0x300007, 0x0F, 'bad page directory entry'),
    (0x300007, 0x17, 'bad page directory entry'), (0x300007, 0x107, 'bad page directory entry'),
    (0x300007, 0x200007, 'bad page directory entry'),
    (0x400007, 7, None), (0x300117, 7, None), (0x300E07, 7, None), (0x300007, 0x67, None)))
def test_33_bad_entries(bench, entry, flags, last_words):
    "4 MB and a page for devices: page 0x400 is the last, 0x401 the first that is not there. PCD and GLOBAL are fine in a PTE."
    g = bench('hcall 4, $0x200000\n movl 0x400000, %esi' + STOP, 1)
    g.address_space(A, {0x400000: entry}, flags & 0xFFF)
    if flags >> 12: g.put(A + 4, words(0x401007))
    go(g)
    assert g.lg.pfn_limit == 0x401 and g.dead == last_words


def test_33_bad_entry_of_set_pte(bench):
    g = bench('hcall 14, $0, $0xC0300000, $0x3000E3')
    assert g.turns() == [31] and g.dead == 'bad page table entry'


def test_34_never_global(bench):
    g = bench('hcall 4, $0x200000\n movl $1, 0x400000' + STOP + 'hcall 14, $0x200000, $0x400000, $0x301167' + STOP, 1)
    g.address_space(A, {0x400000: 0x300107})
    go(g)
    assert spte(g, 0x400000) == (0x300, 0x67) and g.word(A + 0x1000) == 0x300167
    go(g)
    assert spte(g, 0x400000) == (0x301, 0x67)


@pytest.mark.parametrize('flags', (0x01, 0x03, 0x05, 0x07, 0x21, 0x41, 0x67))
def test_34_top_level_flags_are_the_guests(bench, flags):
    "Looked at before the CPU has walked it: the CPU sets ACCESSED."
    g = bench('hcall 4, $0x200000\n movl 0x400000, %esi' + STOP, 1)
    g.address_space(A, {0x400000: 0x300007}, flags)
    for _ in range(20):
        if g.lg.pgdidx == 0 or not spgd(g, 1): g.turn()
    assert g.dead is None and spgd(g, 1) & 0xFFF == flags
    go(g)
    assert g.dead is None and spgd(g, 1) & 0xFFF == flags | 0x20


def two_spaces(bench, text, **kw):
    "Shadows 0 (the Launcher's), 1 (A) and 2 (B, the current one); A and B map 0x400000, with pages 0x300 and 0x301 behind it."
    g = bench(f'hcall 4, ${A}\n movl 0x400000, %esi\n hcall 4, ${B}\n movl 0x400000, %esi' + STOP + text, 1, 2, **kw)
    g.address_space(A, {0x400000: 0x300007})
    g.address_space(B, {0x400000: 0x301007})
    go(g)
    assert g.lg.pgdidx == 2 and [filled(g, slot) for slot in range(3)] == [{0x300, 1023}] + [{1, 0x300, 1023}]*2
    return g


def test_35_set_pte_of_users(bench):
    g = two_spaces(bench, f'hcall 14, ${A}, $0x400000, $0x302067' + STOP + 'hcall 14, $0x999000, $0x400000, $0x303067' + STOP +
                   'hcall 14, $0, $0x400000, $0x303067' + STOP + f'movl 0x400000, %esi; hcall 4, ${A}; movl 0x400000, %edi' + STOP +
                   f'hcall 14, ${A}, $0x400000, $0x302007' + STOP)
    g.put(0x301000, words(0xB)), g.put(0x302000, words(0xA))
    go(g)
    assert spte(g, 0x400000, 1) == (0x302, 0x67) and spte(g, 0x400000, 2) == (0x301, 0x25)
    assert (refs(g, 0x300), refs(g, 0x301), refs(g, 0x302)) == (1, 2, 2)
    for _ in range(2):
        go(g)
        assert spte(g, 0x400000, 1) == (0x302, 0x67) and spte(g, 0x400000, 2) == (0x301, 0x25), 'nobody has this directory'
    go(g)
    assert (g.regs.esi, g.regs.edi) == (0xB, 0xA)
    go(g)
    assert spte(g, 0x400000, 1) is None and refs(g, 0x302) == 1, 'not accessed: nothing to map yet'


def test_35_set_pte_of_the_kernel(bench):
    g = two_spaces(bench, 'hcall 14, $0x999000, $0xC0310000, $0x302063' + STOP + f'hcall 14, ${A}, $0xC0310000, $0x303023' + STOP +
                   'hcall 14, $0, $0xC0310000, $0x302003' + STOP + 'hcall 14, $0, $0xC0800000, $0x999FFF' + STOP)
    for expected in ((0x302, 0x63), (0x303, 0x23), None):       # even accessed only, it is writable
        go(g)
        assert [spte(g, 0xC0310000, slot) for slot in range(3)] == [expected]*3
    go(g)
    assert g.dead is None and g.lg.pgdirs[3].pgdir is None and not spgd(g, 0x302), 'no table there: nothing is looked at'


def test_35_the_border_is_page_offset(bench):
    "At or above page_offset any directory will do, below it must be the right one."
    code = hypercall(1, 0x110000) + b'\xa1' + words(0x7FFFF000)     # mov eax, [0x7FFFF000]
    for vaddr in (0x80310000, 0x80000000, 0x7FFFF000): code += hypercall(14, 0x999000, vaddr, 0x302063)
    file = raw(bench, bench.host(), code + hypercall(99), page_offset=0x80000000)
    file.mm.write(0x110000 + 12, b'\xff'*64)
    file.mm.write(0x3FF000 + 0x1FF*4, words(0x3FD007))
    file.mm.write(0x3FD000 + 0x3FF*4, words(0x304007))
    refused(errno.ENOENT, file.read)
    assert file.lg.dead == 'Bad hypercall 99\n'
    assert [spte(file, vaddr) for vaddr in (0x80310000, 0x80000000, 0x7FFFF000)] == [(0x302, 0x63)]*2 + [(0x304, 0x25)]


@pytest.mark.parametrize('call', ('hcall 14, $0, $0xFFC00000, $0', 'hcall 14, $0, $0xFFFFF000, $0x302067'))
def test_36_set_pte_of_the_switcher(bench, call):
    g = bench(call)
    assert g.turns() == [31] and g.dead == 'attempt to access switcher pages'


def test_36_set_pte_just_below_the_switcher(bench):
    g = bench('hcall 14, $0, $0xFFBFF000, $0x302067' + STOP)
    assert go(g) and g.dead is None


def test_36_set_pmd(bench):
    g = two_spaces(bench, ''.join(f'hcall 15, ${at}, ${index}' + STOP for at, index in (
        (B, 1023), (B, 1024), (B, 0xFFFFFFFF), (0x999000, 1), (B, 1), (A, 0x300))))
    for _ in range(4):
        go(g)
        assert g.dead is None and [filled(g, slot) for slot in range(3)] == [{0x300, 1023}] + [{1, 0x300, 1023}]*2
    go(g)
    assert [filled(g, slot) for slot in range(3)] == [{0x300, 1023}, {1, 0x300, 1023}, {0x300, 1023}]
    assert (refs(g, 0x300), refs(g, 0x301)) == (2, 1)
    go(g)
    assert [filled(g, slot) for slot in range(3)] == [{0x300, 1023}, {1, 1023}, {0x300, 1023}], 'a kernel entry too: of one slot only'


def five_spaces(bench, *picks, text=SWITCH):
    g = bench(text, *picks)
    for n, at in enumerate((A, B, C, D, E)): g.address_space(at, {0x400000: 0x300007 + n*0x1000})
    return g


def test_37_the_fifth_directory_evicts(bench):
    g = five_spaces(bench, 1, 2, 3, 2, text=SWITCH + f'hcall 4, ${A}' + STOP)
    for _ in range(3): go(g)
    assert [p.cr3 for p in g.lg.pgdirs[1:]] == [A, B, C] and refs(g, 0x301) == 2
    kernel = spgd(g, 0x300, 2)
    go(g, 4)
    assert g.lg.pgdirs[2].cr3 == D and g.lg.pgdidx == 2 and refs(g, 0x301) == 1
    assert filled(g, 2) == {0x300, 1023} and spgd(g, 0x300, 2) == kernel
    assert filled(g, 1) == filled(g, 3) == {1, 0x300, 1023}, 'the others are as they were'
    assert go(g) == [14, 31], 'the kernel need not be mapped again'
    assert spte(g, 0x400000) == (0x303, 0x25)
    g.host.rng = Picks(3)
    go(g), go(g)
    assert g.lg.pgdidx == 1 and g.host.rng.left == [] and [p.cr3 for p in g.lg.pgdirs[1:]] == [A, D, E], 'A is known: no draw'


def test_37_the_current_one_may_be_the_victim(bench):
    g = five_spaces(bench, 1, 1, 1)
    for n, at in enumerate((A, B, C)):
        go(g)
        assert g.lg.pgdidx == 1 and g.lg.pgdirs[1].cr3 == at and spte(g, 0x400000) == (0x300 + n, 0x25)
    assert [refs(g, 0x300 + n) for n in range(3)] == [1, 1, 2] and g.lg.pgdirs[2].pgdir is None


def test_37_the_choice_is_seeded(bench):
    at = range(0x200000, 0x210000, 0x1000)
    def slots(seed):
        g = bench(''.join(f'hcall 4, ${pgdir:#x}\n' for pgdir in at), host=bench.host(seed=seed))
        for pgdir in at: g.address_space(pgdir, {})
        chosen = []
        for _ in at:
            go(g, 4)
            chosen.append(g.lg.pgdidx)
        assert g.dead is None
        g.close()
        return tuple(chosen)
    one = slots(1)
    assert one == slots(1) and len({slots(seed) for seed in range(4)}) == 4 and set(one) == {0, 1, 2, 3}


@pytest.mark.parametrize('pages', (1, 2))
def test_38_blank_slot_has_the_stack(bench, pages):
    g = bench(f'hcall 7, $KERNEL_DS, $stack_top, ${pages}\n hcall 4, $0x200000' + STOP, 1)
    g.address_space(A, {})
    go(g, 4)
    top = g.at('stack_top')
    mapped = {n for n in range(1024) if spte(g, 0xC0000000 + n*4096)}
    assert filled(g, 1) == {0x300} and mapped == {(top >> 12 & 1023) - n for n in range(1, pages + 1)}
    assert spte(g, top - 4096) == ((top >> 12 & 1023) - 1, 0x67), 'writable, before it was ever used'


def test_38_a_known_slot_is_left_alone(bench):
    "Back to a table that has its shadow: the stack announced meanwhile is not pinned there."
    g = bench('hcall 4, $0x200000' + STOP + 'hcall 7, $KERNEL_DS, $other + 4096, $1\n hcall 4, $0x3FF000' + STOP +
              '.data\n.balign 4096\nother: .fill 4096, 1, 0', 1)
    g.address_space(A, {})
    assert g.lg.pgdirs[0].cr3 == 0x3FF000                    # the Launcher's
    go(g)
    go(g, 4)
    assert (g.lg.pgdidx, g.dead) == (0, None) and spte(g, g.at('other')) is None


def test_38_seed_pins_the_page_above(bench):
    g = bench('hcall 4, $0x200000' + STOP, 1, fixes=Fixes(stack_pin=False))
    g.address_space(A, {})
    go(g, 4)
    top = g.at('stack_top')
    assert spte(g, top) == (top >> 12 & 1023, 0x67) and spte(g, top - 4096) is None


@pytest.mark.parametrize('entry', (0, 5, 6))
@pytest.mark.parametrize('fixed', (True, False))
def test_38_missing_stack_page(bench, entry, fixed):
    "Not there, or read-only."
    g = bench('hcall 4, $0x200000', 1, fixes=Fixes(stack_pin=fixed))
    g.address_space(A, {})
    at = g.at('stack_top') - (1 if fixed else 0)
    table = g.word(A + 0xC00) & ~0xFFF
    g.put(0x201000, bytes(g.mm.ram[table:table + 4096]))
    g.put(A + 0xC00, words(0x201007))
    g.put(0x201000 + (at >> 12 & 1023)*4, words(g.word(0x201000 + (at >> 12 & 1023)*4) & ~7 | entry))
    assert g.turns() == [31] and g.dead == f'bad stack page {at:#x}'


def test_39_flush_user(bench):
    g = two_spaces(bench, 'hcall 5, $0' + STOP + f'hcall 4, ${A}' + STOP)
    kernel, switcher = spgd(g, 0x300), spgd(g, 1023)
    go(g, 5)
    assert [filled(g, slot) for slot in range(3)] == [{0x300, 1023}, {1, 0x300, 1023}, {0x300, 1023}]
    assert (refs(g, 0x300), refs(g, 0x301)) == (2, 1) and spgd(g, 0x300) == kernel
    assert go(g) == [31] and spgd(g, 1023) == switcher


def test_39_flush_all(bench):
    g = two_spaces(bench, 'hcall 5, $1' + STOP)
    switcher = spgd(g, 1023)
    go(g, 5)
    assert [filled(g, slot) for slot in range(3)] == [{1023}, {1023}, {0x300, 1023}]
    assert [n for n in range(1024) if spte(g, 0xC0000000 + n*4096)] == [(g.at('stack_top') >> 12 & 1023) - 1], 'the stack'
    assert (refs(g, 0x300), refs(g, 0x301)) == (1, 1)
    assert 14 in go(g) and g.dead is None
    assert spgd(g, 1023) == switcher and switcher & 0xFFF in (0x63, 0x43)


def test_39_user_part_ends_at_page_offset(bench):
    "A Guest at 0x80000000 has 512 user entries; a flush leaves the 513th alone."
    code = hypercall(1, 0x110000) + b'\xa1' + words(0x7FFFF000) + hypercall(5, 0) + hypercall(99)
    file = raw(bench, bench.host(), code, page_offset=0x80000000)
    file.mm.write(0x110000 + 12, b'\xff'*64)
    file.mm.write(0x3FF000 + 0x1FF*4, words(0x3FD007))
    file.mm.write(0x3FD000 + 0x3FF*4, words(0x304007))
    refused(errno.ENOENT, file.read)
    assert file.lg.dead == 'Bad hypercall 99\n' and filled(file, 0) == {0x200, 1023}
    assert file.lg.stats.demand_fixed == 3, 'our code (again after LGUEST_INIT) and 0x7FFFF000; the flush cost nothing'


@pytest.mark.parametrize('page_offset, ok', ((0xFFC00000, False), (0xFFFFF000, False), (0xFFC01000, False), (0xFFBFF000, True),
                                             (0, True)))
def test_40_page_offset_in_the_switcher(bench, page_offset, ok):
    host = bench.host()
    file = raw(bench, host, init=False)
    before, request = list(host.mem.refs), words(0, 1024, 0x3FF000, page_offset + 0x1000 & 0xFFFFFFFF, page_offset)
    if ok: assert file.write(request) == 16
    else:
        refused(errno.EINVAL, file.write, request)
        assert host.mem.refs == before and host.guests == [None]*16 and file.write(request[:16] + words(0xC0000000)) == 16


def lives(bench, host):
    "The Host is well: a new Guest runs on it to its end."
    g = bench('movl $5, %esi', host=host)
    g.turns()
    fine = g.dead == 'CRASH: Power down' and g.regs.esi == 5
    g.close()
    return fine


@pytest.mark.parametrize('fixed, last_words', ((True, 'bad stack page '), (False, 'page table 0x0 matches shadow 1, never allocated')))
def test_41_new_pgtable_0(bench, fixed, last_words):
    "There is no page table at 0 but the boot parameters. In the seed 0 matches a slot without a page."
    host = bench.host()
    before = list(host.mem.refs)
    g = bench('hcall 4, $0', 1, host=host, fixes=Fixes(find_pgdir=fixed))
    assert g.turns() == [31] and g.dead.startswith(last_words)
    assert lives(bench, host) and g.file.read(1000).startswith(last_words.encode())
    g.close()
    assert host.mem.refs == before and host.guests == [None]*16


def test_41_a_real_table_at_0(bench):
    g = bench('hcall 4, $0\n movl 0x400000, %esi', 1)
    g.put(0x300000, words(0xABCD))
    g.put(0x301000, words(0x300007))
    g.put(0xC00, words(g.word(g.lg.pgdirs[0].cr3 + 0xC00)))
    g.put(4, words(0x301007))
    g.turns()
    assert g.dead == 'CRASH: Power down' and g.regs.esi == 0xABCD and g.lg.pgdidx == 1 and g.lg.pgdirs[1].cr3 == 0


def test_42_regs_page_and_state_page(bench):
    "Registers as of the last switch, in the Guest's own page; the Host's CR3, and our own kernel stack, in the other."
    g = bench('movl $0x51515151, %esi; movl $0xD1D1D1D1, 0xFFC01000' + STOP + 'movl 0xFFC01FC4, %edi; movl 0xFFC01000, %ebp' + STOP +
              'movl 0xFFC02000, %edi; movl 0xFFC02034, %ebp' + STOP)
    go(g)
    page = g.lg.regs_page << 12
    assert g.host.mem.read(page, 4) == words(0xD1D1D1D1) and g.host.mem.read(page + 0xFB8 + 12, 4) == words(0x51515151)
    assert go(g) == [31] and (g.regs.edi, g.regs.ebp) == (0x51515151, 0xD1D1D1D1)
    assert go(g) == [31] and (g.regs.edi, g.regs.ebp) == (g.host.cpu.registers()['cr3'], g.at('stack_top'))


@pytest.mark.parametrize('cpu', (0, 1))
def test_42_pages_of_other_cpus(bench, cpu):
    "On two CPUs: ours are there, the others' are not. The registers of CPU 1 are at 0xFFC03FB8."
    ours, theirs = (0xFFC01FB8, 0xFFC03FB8)[::-1 if cpu else 1]
    probes = (ours, ours + 0x48, theirs, theirs + 0x48)
    g = bench('gate 14, fault\n' + ''.join(f'p{n}: movl {at:#x}, %eax' + STOP for n, at in enumerate(probes)) + FAULT,
              host=bench.host(nr_cpus=2))
    g.host.current_cpu = cpu
    go(g), go(g)
    assert g.stats.demand_reflected == 0
    for n in (2, 3):
        g.regs.eip = g.at(f'p{n}')
        go(g)
        assert g.stats.demand_reflected == n - 1 and g.regs.edi == 0 and g.word(g.pa('lguest_data') + 8) == probes[n]


@pytest.mark.parametrize('access, user, errcode', (
    ('movl $1, 0xFFC02000', False, 3), ('movl $1, 0xFFC00000', False, 3), ('movl $1, 0xFFC02890', False, 3),
    ('movl $1, 0xFFC03FB8', False, 2), ('movl 0xFFC03FB8, %eax', False, 0), ('movl 0xFFC01FB8, %eax', True, 5),
    ('movl $1, 0xFFC01FB8', True, 7), ('movl 0xFFC02000, %eax', True, 5), ('movl 0xFFC00000, %eax', True, 5)))
def test_42_what_is_forbidden(bench, access, user, errcode):
    enter = 'user 1f\n1: ' if user else ''
    g = bench(f'gate 14, fault\n {enter}{access}' + FAULT)
    state = bytes(g.host.states[0].guest_idt)
    go(g)
    assert g.dead is None and g.regs.edi == errcode and bytes(g.host.states[0].guest_idt) == state
    assert hex(g.word(g.pa('lguest_data') + 8))[2:].upper() in access.upper()


def test_42_own_tables_up_there(bench):
    "A Guest that maps the top 4 MB itself is killed at the first fault there."
    g = bench('hcall 4, $0x200000\n movl 0xFFC05000, %eax', 1)
    g.address_space(A, {0xFFC05000: 0x300007})
    g.turns()
    assert g.dead == 'attempt to access switcher pages'


# --- segments and the Switcher ----------------------------------------------------------------------------------------

FLAT = {12: 0x00CF9B000000FFFF, 13: 0x00CF93000000FFFF, 14: 0x00CFFB000000FFFF, 15: 0x00CFF3000000FFFF}
LOAD_GDT = 'hcall 3, $gdt - PAGE_OFFSET, $32'


def with_gdt(g, changes):
    "Write these descriptors into the Guest's own table, for the next LOAD_GDT."
    for n, entry in changes.items(): g.put(g.pa('gdt') + 8*n, struct.pack('<Q', entry))
    return g


@pytest.mark.parametrize('entry, as_loaded', (
    (0x00CF92000000FFFF, 0x00CFB300), (0x00CF9A000000FFFF, 0x00CFBB00), (0x00CFB2000000FFFF, 0x00CFB300),
    (0x00CFD2000000FFFF, 0x00CFD300), (0x00CFF2000000FFFF, 0x00CFF300), (0x00DF92000000FFFF, 0x00DFB300)))
def test_43_as_the_guest_sees_it(bench, entry, as_loaded):
    "The table that the CPU uses is in the state page: the Guest itself may read it."
    g = with_gdt(bench(LOAD_GDT + '\n movl 0xFFC02890 + 8*5, %esi; movl 0xFFC02890 + 8*5 + 4, %edi' + STOP), {5: entry})
    go(g)
    assert (g.regs.esi, g.regs.edi) == (0x0000FFFF, as_loaded)


def test_43_entries_that_are_ours(bench):
    "Whatever the Guest has there, be it nonsense. The TSS is busy while the Guest looks, and at 0xFFC02028."
    ours = 10, 11, 16, 31
    g = with_gdt(bench(LOAD_GDT + ''.join(f'\n movl 0xFFC02890 + 8*{n}, %esi; movl 0xFFC02890 + 8*{n} + 4, %edi' + STOP for n in ours)),
                 dict.fromkeys(ours, 0x00EF72345678FFFF))
    seen = []
    for _ in ours:
        go(g)
        seen.append((g.regs.esi, g.regs.edi))
    assert g.dead is None and seen == [(0xFFFF, 0x00CF9B00), (0xFFFF, 0x00CF9300), (0x20280067, 0xFF008BC0), (0, 0)]


@pytest.mark.parametrize('n, entry', ((5, 0x00EF92000000FFFF), (31 - 1, 0x00EF92000000FFFF), (1, 0x00CF82000000FFFF), (7, 0x0000E20000000000)))
def test_43_bad_descriptor(bench, n, entry):
    "Bit 21, and descriptors that are not of memory."
    g = with_gdt(bench(LOAD_GDT), {n: entry})
    assert g.turns() == [31] and g.dead == f'Bad GDT descriptor {n}'


@pytest.mark.parametrize('register', ('gs', 'fs', 'es'))
def test_44_removed_entry_in_use(bench, register):
    g = with_gdt(bench(LOAD_GDT + f'\n movl $0x13, %eax; movw %ax, %{register}' + STOP + LOAD_GDT + STOP), {2: 0x00CFF3000000FFFF})
    go(g)
    assert getattr(g.regs, register) == 0x13
    with_gdt(g, {2: 0})
    go(g)
    assert g.dead is None and getattr(g.regs, register) == 0
    assert {name: getattr(g.regs, name) for name in ('cs', 'ss', 'ds')} == {'cs': 0x61, 'ss': 0x69, 'ds': 0x69}


@pytest.mark.parametrize('use, entry', (
    ('movw %ax, %ss', 0x00CF93000000FFFF), ('movw %ax, %ds', 0x00CF93000000FFFF), ('ljmp $0x11, $1f\n1:', 0x00CF9B000000FFFF)),
    ids=('ss', 'ds', 'cs'))
def test_44_removed_entry_kills(bench, use, entry):
    g = with_gdt(bench(LOAD_GDT + f'\n movl $0x11, %eax; {use}' + STOP + LOAD_GDT + STOP), {2: entry})
    go(g)
    with_gdt(g, {2: 0})
    assert go(g) == [31] and g.dead == 'Removed live GDT entry 2'


def test_44_tls(bench):
    "Only entries 6 to 8 are read, checked and marked; GS goes if it used one."
    g = with_gdt(bench('hcall 16, $gdt - PAGE_OFFSET' + STOP + 'movl $0x33, %eax; movw %ax, %gs; hcall 16, $gdt - PAGE_OFFSET' + STOP +
                       LOAD_GDT), dict.fromkeys((0, 1, 2), 0x00CFF2000000FFFF))
    go(g, 16)
    assert g.lg.changed == 4 and g.lg.gdt_b[6:9] == [0x00CFF300]*3 and g.lg.gdt_b[9] == g.lg.gdt_b[5] == 0
    go(g)
    with_gdt(g, {0: 0})
    go(g, 16)
    assert g.regs.gs == 0 and g.lg.changed == 4 and g.lg.gdt_b[6:9] == [0, 0x00CFF300, 0x00CFF300]
    go(g, 3)
    assert g.lg.changed == 2, 'the GDT: all of it'


def test_44_tls_each_in_its_place(bench):
    "Three bases that the Guest can tell apart, through the three selectors."
    text = ''.join(f'movl $TLS_{n}, %eax; movw %ax, %gs; movl %gs:0xC0300000, %{into}\n'.replace(f'TLS_{n}', hex(0x33 + 8*n))
                   for n, into in enumerate(('esi', 'edi', 'ebp')))
    g = with_gdt(bench(LOAD_GDT + STOP + 'hcall 16, $gdt - PAGE_OFFSET\n' + text + STOP), {})
    go(g)
    with_gdt(g, {n: 0x00CFF2000000FFFF | 0x40*(n + 1) << 16 for n in range(3)})
    for n in range(3): g.put(0x300040 + 0x40*n, bytes([n + 1])*4)
    go(g)
    assert (g.regs.esi, g.regs.edi, g.regs.ebp) == (0x01010101, 0x02020202, 0x03030303)


@pytest.mark.parametrize('fixed, last_words', ((True, None), (False, 'Removed live GDT entry 0')))
def test_44_null_ds(bench, fixed, last_words):
    "Entry 0 is never present, and a null DS selects it: deadly in the seed."
    g = bench('xorl %eax, %eax; movw %ax, %ds; ' + LOAD_GDT + STOP, fixes=Fixes(gdt_checks=fixed))
    go(g)
    assert g.dead == last_words


@pytest.mark.parametrize('number, shown', ((33, '33'), (0x10000, '65536'), (0x7FFFFFFF, '2147483647'), (0xFFFFFFFF, '-1')))
def test_45_too_many_entries(bench, number, shown):
    host = bench.host()
    g = bench(f'hcall 3, $gdt - PAGE_OFFSET, ${number:#x}', host=host)
    kept = list(g.lg.gdt_a), list(g.lg.gdt_b), list(g.lg.idt_a), list(g.lg.idt_b)
    assert g.turns() == [31] and g.dead == f'too many gdt entries {shown}'
    assert (g.lg.gdt_a, g.lg.gdt_b, g.lg.idt_a, g.lg.idt_b) == kept and len(kept[0]) == 32
    assert lives(bench, host)


def test_45_fewer_leave_the_rest(bench):
    g = with_gdt(bench(LOAD_GDT + STOP + 'hcall 3, $gdt - PAGE_OFFSET, $21' + STOP), {20: 0x00CFF3000000FFFF, 21: 0x00CFF3000000FFFF})
    go(g)
    with_gdt(g, {20: 0, 21: 0})
    go(g, 3)
    assert g.lg.gdt_b[20:22] == [0, 0x00CFF300]


def test_46_round_trip(bench):
    "The Guest sees its own TSS busy; afterwards it is free, the Host's is busy, and the Host has its registers back."
    g = bench('movl 0xFFC02890 + 8*16 + 4, %esi; movl $0xB9B9B9B9, %ebp; stc; std' + STOP)
    host = g.host
    def tss_type(gdt): return host.mem.read(gdt + 8*16 + 5, 1)[0]
    host_gdt, guest_gdt = host.gdt - 0xC0000000, (host.switcher_pages[-1] << 12) + 0x890
    host.cpu.state[host.cpu.f.EBP] = 0x0EB90EB9
    host.cpu.engine.store()
    names = 'cs ss ds es fs gs esp ebp eflags cr0 cr3 cr4'.split()
    before = {name: host.cpu.registers()[name] for name in names}
    assert (tss_type(host_gdt), tss_type(guest_gdt)) == (0x8B, 0x89) and before['ebp'] == 0x0EB90EB9
    go(g)
    assert g.regs.esi == 0xFF008BC0 and (tss_type(host_gdt), tss_type(guest_gdt)) == (0x8B, 0x89)
    assert {name: host.cpu.registers()[name] for name in names} == before
    assert g.regs.ebp == 0xB9B9B9B9 and g.regs.eflags & 0x401 == 0x401


@pytest.mark.parametrize('vector', (0x20, 0x55, 0x7F, 0x81, 0xFF))
def test_47_interrupt_of_the_host(bench, vector):
    "Waiting as the Guest begins, it comes before the first instruction. Its handler runs once; the Guest knows nothing."
    g = bench('gate 32, ours; movl $0x200, lguest_data' + STOP + 'main2: movl $1, %esi' + STOP + 'ours: hcall 2, $0')
    go(g)
    def served():
        counts = struct.unpack('<256I', g.host.mem.read(g.host.symbols['host_irq_count'] - 0xC0000000, 1024))
        return {n: count for n, count in enumerate(counts) if count}
    g.host.cpu.raise_irq(vector)
    assert g.turn() == vector and g.regs.eip == g.at('main2') and served() == {vector: 1}
    assert go(g) == [31] and g.regs.esi == 1 and served() == {vector: 1} and g.dead is None


def test_47_nmi(bench):
    "Straight back: not even a world switch."
    g = bench('movl $0x51515151, %esi' + STOP)
    switches = g.stats.world_switches
    g.host.cpu.raise_nmi()
    assert go(g) == [31] and g.stats.world_switches == switches + 1 and not g.host.cpu.nmi
    assert g.regs.esi == 0x51515151 and g.dead is None


def spoilt(g):
    "Damage the CPU's copies at places that nobody uses; ask again to see which were copied since."
    state = g.host.states[g.host.current_cpu]
    places = {'idt': state.guest_idt[5], 'gdt': state.guest_gdt[20], 'tls': state.guest_gdt[7]}
    copied = {name for name, place in places.items() if place.a != 0xBAD}
    for place in places.values(): place.a = 0xBAD
    return copied


GATE = 'hcall 6, $3, $0x610000, $0x8F00'


def test_48_copied_is_what_changed(bench):
    "Vector 2 is ignored; one of 64 to 127 has no room, but is a change."
    calls = (('', set()), (GATE, {'idt'}), (LOAD_GDT, {'gdt', 'tls'}), ('hcall 16, $gdt - PAGE_OFFSET', {'tls'}), ('hcall 5, $1', set()),
             (GATE + '\n' + LOAD_GDT, {'idt', 'gdt', 'tls'}), ('hcall 6, $2, $0x610000, $0x8F00', set()), ('hcall 6, $100, $0, $0', {'idt'}))
    g = bench(STOP + STOP.join(call for call, _ in calls) + STOP)
    go(g)
    spoilt(g)
    for call, expected in calls:
        go(g)
        assert spoilt(g) == expected, call


def test_48_two_guests_or_two_cpus(bench):
    host = bench.host(nr_cpus=2)
    one, other = (bench(STOP*9, host=host) for _ in range(2))
    go(one)
    for g in (other, one, other):
        spoilt(g)
        go(g)
        assert spoilt(g) == {'idt', 'gdt', 'tls'}
    go(other)
    assert spoilt(other) == set()
    for cpu in (1, 0):
        host.current_cpu = cpu
        spoilt(other)
        go(other)
        assert spoilt(other) == {'idt', 'gdt', 'tls'}, f'new to CPU {cpu}'


# --- the protocol -----------------------------------------------------------------------------------------------------

INIT = words(0, 1024, 0x3FF000, 0xC0100000, 0xC0000000)


def test_49_initialize(bench):
    file = raw(bench, bench.host(), init=False)
    for data in (b'', b'\0\0\0', INIT[:4], INIT[:19]): refused(errno.EFAULT, file.write, data)
    for data in (words(1, 0), words(2, 1), words(3, 0), words(3, 1), words(4), words(0xFFFFFFFF)): refused(errno.EINVAL, file.write, data)
    refused(errno.EINVAL, file.read)
    assert file.write(INIT) == 16
    refused(errno.EBUSY, file.write, INIT)
    regs = {name: getattr(file.lg.regs, name) for name, _ in file.lg.regs._fields_ if getattr(file.lg.regs, name)}
    assert regs == dict(ds=0x69, es=0x69, ss=0x69, cs=0x61, eflags=0x202, eip=0xC0100000)


def test_49_sixteen_guests(bench):
    host = bench.host(memory=96 << 20)
    files = [raw(bench, host) for _ in range(16)]
    assert [file.lg.guestid for file in files] == list(range(16))
    last = raw(bench, host, init=False)
    refused(errno.ENOSPC, last.write, INIT)
    files[5].close()
    assert last.write(INIT) == 16 and last.lg.guestid == 5


@pytest.mark.parametrize('left', (0, 1))
def test_49_no_memory(bench, left):
    "For the registers' page, or for the shadow page directory."
    host = bench.host()
    file, pages = raw(bench, host, init=False), []
    with pytest.raises(OutOfMemory):
        while True: pages.append(host.mem.alloc_page())
    for _ in range(left): host.mem.put_page(pages.pop())
    before = list(host.mem.refs)
    refused(errno.ENOMEM, file.write, INIT)
    assert host.mem.refs == before and host.guests == [None]*16
    for _ in range(3): host.mem.put_page(pages.pop())
    assert file.write(INIT) == 16
    while pages: host.mem.put_page(pages.pop())


def test_49_irq(bench):
    file = raw(bench, bench.host())
    refused(errno.EINVAL, file.write, words(2, 32))
    refused(errno.EFAULT, file.write, words(2))
    refused(errno.EINVAL, file.write, words(4, 0))
    assert file.write(words(2, 31)) == file.write(words(2, 0)) == 0 and file.lg.irqs_pending == 0x80000001


def test_49_only_the_owner(bench):
    file = raw(bench, bench.host())
    for data in (words(1, 0), words(2, 1), words(4)): refused(errno.EPERM, file.write, data, 'somebody')
    refused(errno.EPERM, file.read, 8, 'somebody')
    assert file.write(words(3, 0), 'somebody') == 0 and file.lg.irqs_pending == 0


def test_49_only_the_owner_may_initialise_again(bench):
    "Who asks is looked at before what is asked."
    refused(errno.EPERM, raw(bench, bench.host()).write, INIT, 'somebody')


def test_49_last_words(bench):
    "ENOENT once, then the text, as often as one likes; its NUL is counted."
    file = raw(bench, bench.host(), hypercall(99))
    text = b'hypercall 99 before LGUEST_INIT'
    refused(errno.ENOENT, file.read)
    for size, expected in ((1000, text + b'\0'), (32, text + b'\0'), (31, text), (9, b'hypercall'), (0, b''), (1000, text + b'\0')):
        assert file.read(size) == expected
    for data in (INIT, words(1, 0), words(2, 1), words(3, 0), words(3, 1), words(9)): refused(errno.ENOENT, file.write, data)
    refused(errno.ENOENT, file.write, words(2, 1), 'somebody')
    refused(errno.EPERM, file.read, 8, 'somebody')


def test_50_break(bench):
    "Somebody interrupts a Guest that would run for ever, and waits until he is let go."
    file, answer = raw(bench, bench.host(clock=VirtualClock())), []
    waker = threading.Thread(target=lambda: answer.append(file.write(words(3, 1), 'waker')), daemon=True)
    threading.Timer(0.05, waker.start).start()
    for _ in range(3): refused(errno.EAGAIN, file.read)
    time.sleep(0.12)
    assert waker.is_alive() and answer == []
    assert file.write(words(3, 0)) == 0
    waker.join(60)
    assert answer == [0]


def test_50_break_wakes_a_sleeper_and_a_signal_ends_the_wait(bench):
    code = hypercall(1, 0x110000) + hypercall(10) + hypercall(99)
    file = raw(bench, bench.host(clock=VirtualClock()), code)
    file.mm.write(0x110000 + 12, b'\xff'*64)
    answer = []
    waker = threading.Thread(target=lambda: answer.append(file.write(words(3, 1), 'waker')), daemon=True)
    threading.Timer(0.05, waker.start).start()
    refused(errno.EAGAIN, file.read)
    assert file.lg.halted and answer == []
    file.write(words(3, 0))
    waker.join(60)
    assert answer == [0]
    file.host.signal_pending = True
    rescue = threading.Timer(60, file.write, (words(3, 0),))
    rescue.start()
    refused(errno.EINTR, file.write, words(3, 1), 'waker')
    rescue.cancel()
    refused(errno.EINTR, file.read)
    refused(errno.EFAULT, file.write, words(3))


KEY, DMAS = 0x300000, 0x310000          # Guest-physical: a key, an array of struct lguest_dma


def bind(n, irq, key=KEY, at=DMAS): return f'hcall 12, ${key:#x}, ${at:#x}, ${n << 8 | irq:#x}\n'


def test_51_getdma(bench):
    g = bench(bind(3, 5) + STOP)
    ask = lambda key=KEY: g.file.write(words(1, key))
    g.put(DMAS, dma((0x320000, 9))*3)
    refused(errno.ENOENT, ask)
    go(g)
    refused(errno.ENOENT, ask, KEY + 4)
    assert [ask() for _ in range(3)] == [DMAS, DMAS + 100, DMAS + 200], 'asking marks it as used'
    assert [g.word(DMAS + 100*n) for n in range(3)] == [5]*3
    g.put(DMAS + 200, words(77))
    assert ask() == DMAS + 200 and g.word(DMAS + 200) == 5, 'all are busy: the last one, again'
    g.put(DMAS + 100, words(0))
    assert ask() == DMAS + 100


def test_51_nothing_there(bench):
    "An array of none; another Guest's; after it was unbound."
    host = bench.host()
    g, other = bench(bind(0, 5) + STOP + bind(1, 5, KEY + 8) + STOP + bind(1, 0, KEY + 8) + STOP, host=host), bench(STOP, host=host)
    go(g)
    refused(errno.ENOENT, g.file.write, words(1, KEY))
    go(g)
    refused(errno.ENOENT, other.file.write, words(1, KEY + 8))
    assert g.file.write(words(1, KEY + 8)) == DMAS
    go(g)
    refused(errno.ENOENT, g.file.write, words(1, KEY + 8))
    refused(errno.EFAULT, g.file.write, words(1))
    assert g.dead is None


@pytest.mark.parametrize('key', (KEY + 1, KEY + 2, 0x401000, 0xFFFFFFFC))
def test_51_bad_key_kills(bench, key):
    g = bench(STOP)
    refused(errno.ENOENT, g.file.write, words(1, key))
    assert g.file.read(100) == b'bad registered DMA buffer\0'


def answers(g, n):
    "EAX after each of the next `n` BIND_DMAs."
    given = []
    for _ in range(n):
        go(g, 12)
        given.append(g.regs.eax)
    return given


def test_52_bind_and_unbind(bench):
    g = bench(bind(1, 32) + bind(1, 255) + bind(1, 32, KEY + 1) + bind(1, 0) + bind(1, 31) + bind(1, 0, at=DMAS + 4) +
              bind(1, 0, key=KEY + 4) + bind(1, 0) + bind(1, 0))
    assert answers(g, 9) == [0, 0, 0, 0, 1, 0, 0, 1, 0] and g.dead is None


def test_52_thirty_three(bench):
    "The same binding 32 times is 32 bindings, and the first to go makes room for one."
    g = bench(bind(1, 1)*33 + bind(1, 0) + bind(1, 1)*2 + bind(1, 0)*33)
    assert answers(g, 69) == [1]*32 + [0] + [1] + [1, 0] + [1]*32 + [0]
    assert not g.host.dma_bindings


def test_52_numbers_in_ecx(bench):
    "The low byte is the irq, the next 16 bits the number of buffers: 0x010001 of them are 1."
    g = bench('hcall 12, $0x300000, $0x310000, $0x01000107' + STOP)
    g.put(DMAS, dma()*2)
    go(g)
    assert [g.file.write(words(1, KEY)) for _ in range(2)] == [DMAS, DMAS] and g.word(DMAS) == 7 and g.word(DMAS + 100) == 0


def test_52_bad_key_kills(bench):
    g = bench(bind(1, 1, KEY + 2))
    assert g.turns() == [31] and g.dead == 'bad dma key 0x300002'


class Shared(LauncherMemory):
    "The page of KEY is one that every Guest shares, as if it were mapped from the same file."
    def shared_key(self, addr): return ('file', addr & 0xFFF) if addr >> 12 == KEY >> 12 else None


HANDLER = 'gate 37, got; movl $0x200, lguest_data\n'
GOT = '\ngot: incl %edi\n movl $0x200, lguest_data\n' + STOP + 'iret'


@pytest.fixture
def pair(bench, monkeypatch):
    "Makes a receiver that has bound its buffers (irq 5), and a sender with something to send."
    monkeypatch.setattr(launcher, 'LauncherMemory', Shared)
    def make(buffers, *messages, number=None, then='jmp .'):
        host = bench.host()
        receiver = bench(HANDLER + bind(len(buffers) if number is None else number, 5) + STOP + then + GOT, host=host)
        sender = bench(f'again: hcall 13, ${KEY:#x}, ${DMAS:#x}' + STOP + 'jmp again', host=host)
        receiver.put(DMAS, b''.join(buffers))
        go(receiver)
        assert receiver.regs.eax == 0 and len(host.dma_bindings) == 1 and receiver.host is sender.host
        sender.put(DMAS, dma(*((0x320000 + 0x1000*n, len(text)) for n, text in enumerate(messages))))
        for n, text in enumerate(messages): sender.put(0x320000 + 0x1000*n, text)
        return receiver, sender
    return make


def test_53_between_guests(pair):
    receiver, sender = pair([dma((0x330000, 8)), dma((0x331000, 8))], b'hello')
    for n in range(2):
        sender.put(DMAS, words(0))
        go(sender)
        assert sender.word(DMAS) == 5 and receiver.word(DMAS + 100*n) == 5, 'both know how much it was'
        assert bytes(receiver.mm.ram[0x330000 + 0x1000*n:][:8]) == b'hello\0\0\0'
        assert receiver.lg.irqs_pending == 1 << 5 and sender.lg.irqs_pending == 0
        go(receiver)
        assert receiver.regs.edi == n + 1 and receiver.lg.irqs_pending == 0
    assert not sender.written and sender.stats.hypercalls_sync[13] == 2, 'the Launcher has seen nothing'


def test_51_shared_key(pair):
    "Even under a shared key the Launcher gets buffers of its own Guest only."
    receiver, sender = pair([dma((0x330000, 8))], b'hello')
    refused(errno.ENOENT, sender.file.write, words(1, KEY))
    assert receiver.file.write(words(1, KEY)) == DMAS


@pytest.mark.parametrize('buffer, messages, count, expected', (
    (((0x330000, 4), (0x330010, 4)), (b'abcdef',), 6, b'abcd' + bytes(12) + b'ef'),
    (((0x330000, 8),), (b'abc', b'def'), 6, b'abcdef'),
    (((0x330000, 2), (0x330010, 2)), (b'abc', b'def'), 4, b'ab' + bytes(14) + b'cd'),
    (((0x330000, 8),), (), 0, bytes(8))))
def test_53_pieces(pair, buffer, messages, count, expected):
    "However it is cut; what does not fit is not sent."
    receiver, sender = pair([dma(*buffer)], *messages)
    go(sender)
    assert (sender.word(DMAS), receiver.word(DMAS)) == (count, count) and receiver.lg.irqs_pending == 1 << 5
    assert bytes(receiver.mm.ram[0x330000:0x330000 + 32]) == expected.ljust(32, b'\0')


def tries(monkeypatch, between=lambda: None):
    "What dma_transfer answers each time; `between` happens after each."
    given, real = [], io.dma_transfer
    def spy(*args):
        given.append(real(*args))
        between()
        return given[-1]
    monkeypatch.setattr(io, 'dma_transfer', spy)
    return given


@pytest.mark.parametrize('number', (1, 0))
def test_53_no_buffer(pair, monkeypatch, number):
    "The irq all the same, and one more try; `number` of buffers, all busy."
    receiver, sender = pair([dma((0x330000, 8))], b'hello', number=number)
    receiver.put(DMAS, words(1))
    given = tries(monkeypatch)
    go(sender)
    assert given == [False, False] and receiver.lg.irqs_pending == 1 << 5
    assert (sender.word(DMAS), receiver.word(DMAS)) == (0, 1) and not any(receiver.mm.ram[0x330000:0x330008])
    assert sender.dead is None and receiver.dead is None


def test_53_the_second_try_counts(pair, monkeypatch):
    "The receiver empties its buffer in the meantime."
    receiver, sender = pair([dma((0x330000, 8))], b'hello')
    receiver.put(DMAS, words(1))
    given = tries(monkeypatch, lambda: receiver.put(DMAS, words(0)) if len(given) == 1 else None)
    go(sender)
    assert given == [False, True] and (sender.word(DMAS), receiver.word(DMAS)) == (5, 5)
    assert bytes(receiver.mm.ram[0x330000:0x330005]) == b'hello'


def test_53_not_to_oneself_nor_to_another_key(pair):
    "Nobody takes it, nothing happens at all: the Launcher isn't told either."
    receiver, sender = pair([dma((0x330000, 8))], b'hello', then=f'hcall 13, ${KEY:#x}, ${0x311000:#x}' + STOP)
    receiver.put(0x311000, dma((0x320000, 5)))
    go(receiver)
    assert receiver.word(0x311000) == receiver.word(DMAS) == 0 and receiver.lg.irqs_pending == 0 and not receiver.written
    assert receiver.dead is None and sender.word(DMAS) == 0


def test_53_a_sleeper_is_woken(pair):
    receiver, sender = pair([dma((0x330000, 8))], b'hello', then='movl $0, lguest_data; hcall 10\n incl %edi; jmp .')
    go(receiver, 10)
    assert receiver.lg.halted
    go(sender)
    go(receiver)
    assert receiver.regs.edi == 1 and not receiver.lg.halted and receiver.regs.eip != receiver.at('main')


@pytest.mark.parametrize('who', ('receiver', 'sender'))
def test_53_a_bad_list_kills_its_owner(pair, who):
    "A section that crosses a page. The other one lives, and gets no interrupt."
    receiver, sender = pair([dma((0x330000, 8))], b'hello')
    guilty, innocent = (receiver, sender) if who == 'receiver' else (sender, receiver)
    guilty.put(DMAS, dma((0x330FFE, 8)))
    go(sender)
    assert guilty.dead == 'bad DMA entry: 8@0x330ffe' and innocent.dead is None
    assert receiver.lg.irqs_pending == 0 and innocent.word(DMAS) == 0


TICK = '\ntick: incl %edi\n hcall 11\n movl %eax, %ebp' + STOP + 'iret'
SECOND = 1_000_000_000


def test_54_clockevent(bench):
    "Three seconds, asleep: interrupt 0, once, though interrupts were off."
    g = bench('gate 32, tick\n hcall 11\n movl %eax, %esi\n hcall 9, $3000000000\n hcall 10\n spin: jmp spin' + TICK)
    go(g, 10)
    assert g.lg.halted and g.data.irq_enabled == 0
    before = g.host.clock.now()
    go(g)
    assert g.regs.edi == 1 and g.regs.ebp - g.regs.esi == 3 and g.host.clock.now() - before < 3*SECOND + 1_000_000
    assert not g.lg.halted and g.stats.interrupts == {0: 1}
    g.host.clock.time += 100*SECOND
    g.host.kick()
    assert g.turn() == 32 and g.regs.edi == 1 and g.lg.irqs_pending == 0 and g.stats.interrupts == {0: 1}


def test_54_cancelled(bench):
    g = bench('gate 32, tick\n movl $0x200, lguest_data\n hcall 9, $1000000\n hcall 9, $0' + STOP + STOP + 'spin: jmp spin' + TICK)
    go(g)
    g.host.clock.time += 10*SECOND
    go(g)
    assert g.regs.edi == 0 and g.lg.irqs_pending == 0 and g.stats.interrupts == {}


def test_54_not_before_its_time_and_while_running(bench):
    "Set again before it rang: only the second time counts."
    g = bench('gate 32, tick\n movl $0x200, lguest_data\n hcall 9, $1000000000\n hcall 9, $2000000000' + STOP + STOP +
              'spin: jmp spin' + TICK)
    go(g)
    g.host.clock.time += SECOND + SECOND//2
    go(g)
    assert g.regs.edi == 0 and g.stats.interrupts == {}
    g.host.clock.time += SECOND//2
    go(g)
    assert g.regs.edi == 1 and g.stats.interrupts == {0: 1}


def test_54_blocked_goes_on_sleeping(bench):
    "A masked clock rings in vain; the interrupt waits."
    g = bench('gate 32, tick\n movl $1, lguest_data + 4\n hcall 9, $1000000\n hcall 10\n spin: jmp spin' + TICK)
    go(g, 10)
    naps, sleep = [], g.host.clock.sleep
    def nap(host):
        naps.append(sleep(host))
        if len(naps) == 5: host.signal_pending = True
    g.host.clock.sleep = nap
    assert g.turn() is None and g.lg.halted and g.lg.irqs_pending == 1
    g.data.blocked_interrupts = 0
    go(g)
    assert g.regs.edi == 1 and not g.lg.halted
