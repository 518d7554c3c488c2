"Every sentence with which the Host can kill a Guest, said to a real Guest; and that a Guest which is dead stays dead."
import ast
import errno
import re
import struct
from pathlib import Path

import pytest

import lguest_lit
from guests import NO_CALL, dma
from lguest_lit.launcher import launcher
from lguest_lit.host.host import Host
from lguest_lit.i386.memory import OutOfMemory
from lguest_lit.host.lg import Fixes, LauncherMemory
from lguest_lit.host.lguest_user import LguestFile
from lguest_lit.launcher.workbench import OneTurn, Workbench

# The Host's kill strings of June 2007, as they stand in its source (facts 5.10).
JUNE = [
    'already have lguest_data', 'CRASH: %s', 'Bad hypercall %li\n', 'Fetching async hypercalls', 'Writing result for async hypercall',
    'hypercall %li before LGUEST_INIT', 'bad guest page %p', 'Disabling interrupts', 'Re-enabling interrupts', 'bad stack segment %i',
    'bad stack pages %u', 'bad IDT type %i', 'attempt to access switcher pages', 'failed to get page %u', 'bad page table entry',
    'bad page directory entry', 'out of memory allocating pte page', 'bad stack page %#lx', 'Removed live GDT entry %u',
    'Bad GDT descriptor %i', 'too many gdt entries %i', 'Writing cr2', 'unhandled trap %li at %#lx (%#lx)', 'bad read address %#lx',
    'bad write address %#lx', 'bad read address %#lx len %u', 'bad write address %#lx len %u', 'bad DMA entry: %u@%#lx', 'bad dma key %#lx',
    'bad sending DMA key', 'bad registered DMA buffer', 'bad address in registered DMA struct', 'bad address writing to registered DMA',
    'bad address in sending DMA', 'Error mapping DMA pages']
OURS = ['page table %#lx matches shadow %i, never allocated',    # where 2007 followed a null pointer
        'interrupts are off at %#lx']                            # where 2007 would have waited for ever

CHECKED = 'LGUEST_INIT has checked the whole of lguest_data, and memory does not shrink'
UNREACHABLE = {
    'interrupts are off at %#lx': 'no instruction outside ring 0 can switch them off; test_stops.py puts such a Guest there by hand',
    'Fetching async hypercalls': CHECKED,
    'Writing result for async hypercall': CHECKED,
    'Disabling interrupts': CHECKED,
    'Re-enabling interrupts': CHECKED,
    'Writing cr2': CHECKED,
    'bad address writing to registered DMA': 'the word was read just before, as the beginning of the struct',
    'bad address in sending DMA': 'every section has been checked, the struct itself is "bad read address ... len 100"',
    'Error mapping DMA pages': 'every section has been checked, and no page of the Launcher can be missing',
    'bad write address %#lx len %u': 'blocks are written only into DMA sections, which have been checked'}

END = 0x401000              # 4 MB of memory, and the page that describes the devices
GDT20 = 'movl $%#x, gdt + 164\n hcall LHCALL_LOAD_GDT, $gdt - PAGE_OFFSET, $32'
TEXT = '\n jmp 9f\n .balign 4\n text: .fill 200, 1, 0x61\n 9:'


def bench(text, **kw):
    "How to make a Guest: on this Host."
    return lambda host: Workbench(text, host=host, **kw)


def small_space(pgd=7, pte=0x300007, at=0x400000, then='movl %eax, 0x400000'):
    "A Guest that goes over to a page directory with one more page, at 4 MB, and writes there."
    def make(host):
        guest = Workbench('hcall LHCALL_NEW_PGTABLE, $0x200000\n' + then, host=host)
        guest.address_space(0x200000, {at: pte}, pgd)
        return guest
    return make


def more_pages(host):
    "A Launcher that has promised a page more than it has; the Guest maps that page and reads it."
    guest = Workbench('hcall LHCALL_NEW_PGTABLE, $0x200000\n movl 0x400000, %eax', host=host)
    guest.address_space(0x200000, {0x400000: END | 7})
    lg = guest.lg
    pgdir, mm = lg.pgdirs[0].cr3, lg.mm
    guest.file.close()
    guest.file = LguestFile(host, task=guest, mm=mm)
    assert guest.file.write(struct.pack('<5I', 0, END//4096 + 1, pgdir, guest.at('start'), 0xC0000000)) == 16
    guest.lg = guest.file.lg
    return guest


def full_host(host):
    "Somebody has taken all the memory that the Host had left."
    guest, mine = small_space()(host), []
    try:
        while True: mine.append(host.mem.alloc_page())
    except OutOfMemory: pass
    guest.afterwards = lambda: [host.mem.put_page(pfn) for pfn in mine]
    return guest


def bad_getdma(host):
    guest = Workbench('1: jmp 1b', host=host)
    with pytest.raises(OSError) as e: guest.file.write(struct.pack('<2I', 1, 2))
    assert e.value.errno == errno.ENOENT
    return guest


class SharedMemory(LauncherMemory):
    "Memory whose last page is a file that all Launchers have mapped."
    def shared_key(self, addr): return addr - 0x400000 if addr >= 0x400000 else None


def two_guests(receiver, sender, who):
    "The first binds a buffer under a key in the shared page, the second sends there; `who` of them dies."
    def make(host):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(launcher, 'LauncherMemory', SharedMemory)
            first = Workbench(f'hcall LHCALL_BIND_DMA, $0x400000, ${receiver[0]}, $0x101\n 1: jmp 1b', host=host)
            second = Workbench('hcall LHCALL_SEND_DMA, $0x400000, $0x200000\n 1: jmp 1b', host=host)
        first.put(0x200000, dma(*receiver[1]))
        second.put(0x200000, dma(*sender))
        first.turn()
        guest, other = (first, second) if who == 0 else (second, first)
        if who == 0: second.turn()
        assert other.dead is None
        guest.afterwards = other.close
        return guest
    return make


PIECE = ((0x300000, 8),)
UD2 = 'gate 6, handler\n handler: ud2\n'

# (the string, how to provoke it, what is said)
CASES = [
    ('already have lguest_data', bench('hcall LHCALL_LGUEST_INIT, $lguest_data - PAGE_OFFSET'), 'already have lguest_data'),
    ('already have lguest_data', bench('queue 0, LHCALL_LGUEST_INIT, $0\n hcall LHCALL_FLUSH_ASYNC'), 'already have lguest_data'),
    ('CRASH: %s', bench('crash text\n text: .asciz "Farewell"'), 'CRASH: Farewell'),
    ('CRASH: %s', bench('crash text' + TEXT), 'CRASH: ' + 'a'*127),
    ('Bad hypercall %li\n', bench(f'hcall {NO_CALL}'), f'Bad hypercall {NO_CALL}\n'),
    ('Bad hypercall %li\n', bench('hcall 0xFFFFFFFE'), 'Bad hypercall -2\n'),
    ('Bad hypercall %li\n', bench('queue 0, 0x80000000\n movl 0xC0200000, %eax'), 'Bad hypercall -2147483648\n'),
    ('hypercall %li before LGUEST_INIT', bench('hcall 2', bare=True), 'hypercall 2 before LGUEST_INIT'),
    ('hypercall %li before LGUEST_INIT', bench('hcall -3', bare=True), 'hypercall -3 before LGUEST_INIT'),
    ('bad guest page %p', bench(f'hcall LHCALL_LGUEST_INIT, ${END - 1119}', bare=True), 'bad guest page 00400ba1'),
    ('bad guest page %p', bench('hcall LHCALL_LGUEST_INIT, $0xFFFFFFF0', bare=True), 'bad guest page fffffff0'),
    ('bad stack segment %i', bench('hcall LHCALL_SET_STACK, $0x68, $stack_top, $1'), 'bad stack segment 104'),
    ('bad stack segment %i', bench('hcall LHCALL_SET_STACK, $0xFFFFFFFE, $stack_top, $1'), 'bad stack segment -2'),
    ('bad stack pages %u', bench('hcall LHCALL_SET_STACK, $0x69, $stack_top, $3'), 'bad stack pages 3'),
    ('bad stack pages %u', bench('hcall LHCALL_SET_STACK, $0x69, $stack_top, $0xFFFFFFFF'), 'bad stack pages 4294967295'),
    ('bad IDT type %i', bench('gate 6, main, 5'), 'bad IDT type 5'),
    ('bad IDT type %i', bench('gate 0x80, main, 0xC'), 'bad IDT type 12'),
    ('attempt to access switcher pages', bench('hcall LHCALL_SET_PTE, $0, $0xFFC00000, $0x63'), 'attempt to access switcher pages'),
    ('failed to get page %u', more_pages, 'failed to get page 1025'),
    ('bad page table entry', bench('hcall LHCALL_SET_PTE, $0, $0xC0100000, $0x1000E7'), 'bad page table entry'),
    ('bad page table entry', bench('hcall LHCALL_SET_PTE, $0, $0xC0100000, $0x10006F'), 'bad page table entry'),
    ('bad page table entry', bench(f'hcall LHCALL_SET_PTE, $0, $0xC0100000, ${END | 0x67}'), 'bad page table entry'),
    ('bad page table entry', small_space(pte=END | 7), 'bad page table entry'),
    ('bad page directory entry', small_space(pgd=0x87), 'bad page directory entry'),
    ('bad page directory entry', small_space(pgd=0x107), 'bad page directory entry'),
    ('out of memory allocating pte page', full_host, 'out of memory allocating pte page'),
    ('bad stack page %#lx', bench('hcall LHCALL_SET_STACK, $0x69, $0x8000, $1'), 'bad stack page 0x7fff'),
    ('bad stack page %#lx', bench('hcall LHCALL_SET_STACK, $0x69, $0x8000, $1', fixes=Fixes.seed()), 'bad stack page 0x8000'),
    ('Removed live GDT entry %u', bench('movl $0, gdt + 108\n hcall LHCALL_LOAD_GDT, $gdt - PAGE_OFFSET, $32'), 'Removed live GDT entry 13'),
    ('Removed live GDT entry %u',
        bench('xorl %eax, %eax\n movl %eax, %ds\n movl $3, %eax\n movl $gdt - PAGE_OFFSET, %edx\n movl $32, %ebx\n int $0x1f',
                                        fixes=Fixes.seed()), 'Removed live GDT entry 0'),
    ('CRASH: %s', bench(GDT20 % 0x00200C00), 'CRASH: Power down'),                        # not present: as bad as it likes
    ('Bad GDT descriptor %i', bench(GDT20 % 0x00EF9B00), 'Bad GDT descriptor 20'),        # bit 21
    ('Bad GDT descriptor %i', bench(GDT20 % 0x0000EC00), 'Bad GDT descriptor 20'),        # a call gate
    ('Bad GDT descriptor %i', bench('movl $0xEC00, gdt + 4\n hcall LHCALL_LOAD_TLS, $gdt - PAGE_OFFSET'), 'Bad GDT descriptor 6'),
    ('too many gdt entries %i', bench('hcall LHCALL_LOAD_GDT, $gdt - PAGE_OFFSET, $33'), 'too many gdt entries 33'),
    ('unhandled trap %li at %#lx (%#lx)', bench('ud2', bare=True), 'unhandled trap 6 at 0xc010000d (0x0)'),
    ('unhandled trap %li at %#lx (%#lx)', bench('movl 0x1234, %eax', bare=True), 'unhandled trap 14 at 0xc010000d (0x1234)'),
    ('unhandled trap %li at %#lx (%#lx)', bench('int $0x50', bare=True), 'unhandled trap 13 at 0xc010000d (0x282)'),
    ('unhandled trap %li at %#lx (%#lx)', bench('movl $0x7B, %eax\n movl %eax, %gs\n movl $0x00CFF800, gdt + 124\n'      # GS can't be read: the Switcher faults
                                                ' hcall LHCALL_LOAD_GDT, $gdt - PAGE_OFFSET, $32'), 'unhandled trap 256 at 0xc0100067 (0x0)'),
    ('bad read address %#lx', bench('hcall LHCALL_NEW_PGTABLE, $0xFFFFF000'), 'bad read address 0xfffffc00'),
    ('bad write address %#lx', bench(UD2.replace('handler: ', 'handler: movl $0xC0800000, %esp\n')), 'bad write address 0x7ffffc'),
    ('bad read address %#lx len %u', bench(f'hcall LHCALL_CRASH, ${END - 127}'), 'bad read address 0x400f81 len 128'),
    ('bad read address %#lx len %u', bench('hcall LHCALL_CRASH, $0xFFFFFFFF'), 'bad read address 0xffffffff len 128'),
    ('bad read address %#lx len %u', small_space(at=0xF0400000, then='movb $0xEC, 0xC0300000\n movl $0xF0400000, %eax\n jmp *%eax'),
     'bad read address 0x30400000 len 1'),
    ('bad DMA entry: %u@%#lx', two_guests((0x200000, PIECE), ((0x300FFF, 2),), 1), 'bad DMA entry: 2@0x300fff'),
    ('bad DMA entry: %u@%#lx', two_guests((0x200000, ((0xFFFFFFFF, 1),)), PIECE, 0), 'bad DMA entry: 1@0xffffffff'),
    ('bad dma key %#lx', bench('hcall LHCALL_BIND_DMA, $2, $0, $0x101'), 'bad dma key 0x2'),
    ('bad dma key %#lx', bench(f'hcall LHCALL_BIND_DMA, ${END}, $0, $0x101'), 'bad dma key 0x401000'),
    ('bad sending DMA key', bench('hcall LHCALL_SEND_DMA, $1, $0'), 'bad sending DMA key'),
    ('bad registered DMA buffer', bad_getdma, 'bad registered DMA buffer'),
    ('bad address in registered DMA struct', two_guests((END - 99, PIECE), PIECE, 0), 'bad address in registered DMA struct'),
    ('page table %#lx matches shadow %i, never allocated', bench('hcall LHCALL_NEW_PGTABLE, $0', fixes=Fixes.seed()),
     'page table 0x0 matches shadow 1, never allocated')]
REACHED = {string for string, _, _ in CASES}


@pytest.fixture
def host():
    with Host(memory=24 << 20, clock=OneTurn()) as host: yield host


def state(guest):
    "All that a running Guest could change: memory and registers, and how often it ran."
    return bytes(guest.mm.ram), bytes(guest.regs), guest.lg.stats.world_switches, sum(guest.lg.stats.traps)


def fails(number, call, *args):
    with pytest.raises(OSError) as e: call(*args)
    assert e.value.errno == number


@pytest.mark.parametrize('string, make, text', CASES, ids=[f'{n}-{re.sub("[^A-Za-z0-9]+", "_", c[2])[:40]}' for n, c in enumerate(CASES)])
def test_last_words(host, string, make, text):
    before = list(host.mem.refs)
    guest = make(host)
    if guest.dead is None: fails(errno.ENOENT, guest.file.read)     # dying is one read(), the text the next
    assert guest.dead == text
    then = state(guest)
    for size in (8, 1023): assert guest.file.read(size) == (text.encode() + b'\0')[:size]
    for request in range(5): fails(errno.ENOENT, guest.file.write, struct.pack('<5I', request, 0, 0, 0, 0))
    assert guest.file.read(1023) == text.encode() + b'\0'
    assert guest.dead == text and state(guest) == then
    lg = guest.lg
    guest.close()
    getattr(guest, 'afterwards', lambda: None)()
    assert host.mem.refs == before and lg.dead == text
    assert host.guests == [None]*16 and not host.dma_bindings and not host.clock.alarms


def test_every_string_of_june_2007_is_here():
    assert sorted(JUNE + OURS) == sorted(REACHED | set(UNREACHABLE))
    assert not REACHED & set(UNREACHABLE) and all(UNREACHABLE.values())
    for string, _, text in CASES: assert re.fullmatch(pattern_of(string), text), (string, text)


FORMATS = {'%s': '.*', '%li': r'-?\d+', '%i': r'-?\d+', '%u': r'\d+', '%p': '[0-9a-f]{8}', '%#lx': '0x[0-9a-f]+'}


def pattern_of(string):
    "A regular expression for what a C format says."
    return ''.join(FORMATS.get(part, re.escape(part)) for part in re.split('(%#?l?[a-z])', string))


def said_in_source():
    "Of each kill_guest() in the package: where, and a regular expression for the message."
    for path in sorted(Path(lguest_lit.__file__).parent.rglob('*.py')):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, 'id', getattr(node.func, 'attr', '')) == 'kill_guest':
                yield f'{path.name}:{node.lineno}', regex(node.args[1])


def regex(node):
    if isinstance(node, ast.Constant): return re.escape(node.value)
    if isinstance(node, ast.JoinedStr): return ''.join(regex(v) for v in node.values)
    if isinstance(node, ast.FormattedValue): return r'-?\w+'
    if isinstance(node, ast.BinOp): return regex(node.left) + '.*'
    raise AssertionError(f'what does this say? {ast.dump(node)}')


def test_every_message_in_the_source_is_said():
    said = list(said_in_source())
    assert len(said) > 25
    plain = {re.sub(r'%#?l?[a-z]', '0x1', string) for string in UNREACHABLE}
    missing = [(place, text) for place, text in said
               if not any(re.fullmatch(text, t, re.S) for _, _, t in CASES) and not any(re.fullmatch(text, t) for t in plain)]
    assert not missing
    assert all(any(re.fullmatch(text, t, re.S) for _, text in said) for _, _, t in CASES), 'the table expects what nobody says'
