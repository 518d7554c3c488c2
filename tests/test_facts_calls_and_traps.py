"What a faithful Host does, one number after the other: hypercalls and ring, I/O and memory, traps and interrupts."
import errno
import struct
import threading

import pytest
from guests import NO_CALL

from lguest_lit.host.host import Host
from lguest_lit.host.interrupts_and_traps import has_err
from lguest_lit.host.lg import Fixes
from lguest_lit.launcher.workbench import OneTurn, Workbench

SEED, FIXED = Fixes.seed(), Fixes()
MODES = pytest.mark.parametrize('fixes', (SEED, FIXED), ids=('seed', 'fixed'))
LIMIT = 0x401000                         # pfn_limit of a Guest of 4 MB, and its page of devices, in bytes
TOP = 0xC0100000                         # where the image begins, as the Guest sees it
CALL, PF, GP, UD = 31, 14, 13, 6
ENABLE = 'movl $0x200, lguest_data\n'
DATA = '.data\n.balign 4\n'
TEXTS = ''.join(f'{name}: .asciz "{name}"\n.fill 128, 1, 0\n' for name in 'one two three four'.split())
HANDLERS = ''.join(f'to_{name}: crash {name}\n' for name in 'one two three four'.split())
STORIES = 'crash four\n' + HANDLERS + DATA + TEXTS


def last_words(g):
    "The text that a dead Guest leaves to be read."
    assert g.dead is not None
    text = g.file.read(1023)
    assert text.endswith(b'\0')
    return text[:-1].decode('latin-1')


def die(text, **kw):
    "Run to the end, and report the last words."
    with Workbench(text, **kw) as g:
        g.turns(200)
        return last_words(g)


def until(g, label):
    "Turns until the Guest has stopped at `label`: their vectors."
    story = []
    while g.regs.eip != g.at(label):
        assert g.dead is None and len(story) < 100, g.dead
        story.append(g.turn())
    return story


def status(g):
    "The ring's status bytes."
    at = g.pa('lguest_data') + 12
    return list(g.mm.ram[at:at + 64])


def gate_words(label, kind=0xE, dpl=3, selector=0x60):
    "EBX and ECX of LOAD_IDT_ENTRY, as operands; the image is smaller than 64K."
    return f'$({label} - {TOP} + {selector << 16}), ${TOP | 0x8000 | dpl << 13 | kind << 8}'


def irq(g, n): assert g.request(2, n) == 0


def woken(g):
    "A turn of a halted Guest. If it sleeps on, a signal ends that, not the patience of whoever runs the tests."
    assert g.lg.halted
    timer = threading.Timer(60, setattr, (g.host, 'signal_pending', True))
    timer.start()
    try: g.turn()
    finally: timer.cancel()
    assert not g.lg.halted, 'still asleep'


# --- hypercalls and ring ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize('call, number', (('0', '0'), ('2', '2'), ('11', '11'), (NO_CALL, str(NO_CALL)), ('0xFFFFFFFF', '-1')))
def test_01_first_call_must_be_init(call, number):
    assert die(f'hcall {call}, $0, $0, $0', bare=True) == f'hypercall {number} before LGUEST_INIT'


@MODES
@pytest.mark.parametrize('at', (0x400BA1, 0x400C00, 0x400FFF, LIMIT, 0xFFFFFFF0))
def test_02_init_outside_memory(at, fixes):
    with Workbench(f'hcall 1, ${at}', bare=True, fixes=fixes) as g:
        assert g.turns(200)[-1] == CALL
        assert last_words(g) == f'bad guest page {at:08x}'


def test_02_init_tells_the_guest():
    with Host(memory=32 << 20, clock=OneTurn()) as host:
        text = 'hcall 1, $lguest_data - PAGE_OFFSET\nhere: hcall 0'
        with Workbench(text, bare=True, host=host) as first, Workbench(text, bare=True, host=host) as second:
            for n, g in enumerate((first, second)):
                g.put(g.pa('lguest_data') + 1100, b'\xEE' * 12)
                until(g, 'here')
                assert g.word(g.pa('lguest_data') + 1100) == 0x400000
                assert g.word(g.pa('lguest_data') + 1104) & 0xFFFF == n
                assert g.regs.eax == 1 and g.dead is None


@pytest.mark.parametrize('how', ('hcall 1, $lguest_data - PAGE_OFFSET', 'queue 0, 1, $lguest_data - PAGE_OFFSET\nhcall 0'))
def test_03_second_init(how):
    assert die(how) == 'already have lguest_data'


CALLS = ('0', '3, $gdt - PAGE_OFFSET, $32', '4, $tables', '5, $0', '5, $1', '6, $6, $0, $0', '7, $KERNEL_DS, $stack_top, $1', '8, $0',
         '9, $0', '14, $tables, $0x1000, $0', '15, $tables, $0', '16, $gdt - PAGE_OFFSET + 48')


def test_04_eax_is_kept():
    with Workbench('\n'.join(f'hcall {c}\nmovl %eax, seen + {4*n}' for n, c in enumerate(CALLS))
                   + f'\nlast: hcall 0\ncrash one\n{DATA}{TEXTS}.balign 4\nseen: .fill 16, 4, 0x55\ntables = 0x300000') as g:
        g.address_space(0x300000, {})
        assert g.run(60).reason == 'CRASH: one'
        assert [g.word(g.pa('seen') + 4*n) for n in range(len(CALLS))] == [0, 3, 4, 5, 5, 6, 7, 8, 9, 14, 15, 16]


def test_04_eax_is_kept_by_halt_and_send():
    with Workbench(f'gate 32, woken\nhcall 13, $0, $buffer - PAGE_OFFSET\nsent: movl %eax, seen\nhcall 9, $5000\nhcall 10\ncrash two\n'
                   f'woken: movl %eax, seen + 4\ncrash one\n{DATA}buffer: .fill 100, 1, 0\n{TEXTS}.balign 4\nseen: .fill 2, 4, 0x55') as g:
        assert g.run(60).reason == 'CRASH: one'
        assert [g.word(g.pa('seen')), g.word(g.pa('seen') + 4)] == [13, 10]


def test_04_two_calls_answer_in_eax():
    binds = ('12, $0, $buffer, $0x103', '12, $0, $buffer, $0x120', '12, $0, $buffer, $0x100', '12, $0, $buffer, $0x100')
    text = '\n'.join(f'hcall {c}\nmovl %eax, seen + {4*n}' for n, c in enumerate(('11', *binds)))
    with Host(memory=16 << 20, clock=OneTurn(now=1_234_567_890_500_000_000)) as host, \
            Workbench(f'{text}\n crash one\n{DATA}{TEXTS}.balign 4\nseen: .fill 5, 4, 0x55\nbuffer = 0x300000', host=host) as g:
        assert g.run(60).reason == 'CRASH: one'
        assert [g.word(g.pa('seen') + 4*n) for n in range(5)] == [1234567890, 1, 0, 1, 0]


@pytest.mark.parametrize('call, number', ((NO_CALL, str(NO_CALL)), ('0x7FFFFFFF', '2147483647'), ('0x80000000', '-2147483648'), ('0xFFFFFFFF', '-1')))
@pytest.mark.parametrize('how', ('hcall {}', 'queue 0, {}\nhcall 0'), ids=('direct', 'ring'))
def test_05_unknown_call(how, call, number):
    assert die(how.format(call)) == f'Bad hypercall {number}\n'


@MODES
def test_06_crash_message_too_near_the_end(fixes):
    for at in (0x400F81, 0x400FF0):
        with Workbench(f'hcall 2, ${at}', fixes=fixes) as g:
            g.put(at, b'too near\0')
            g.turns()
            assert last_words(g) == f'bad read address {at:#x} len 128'


@pytest.mark.parametrize('size, shown', ((126, 126), (127, 127), (128, 127), (200, 127)))
def test_07_crash_message_is_cut(size, shown):
    assert die(f"crash long\n.data\nlong: .fill {size}, 1, 'x'\n.fill 200, 1, 0") == 'CRASH: ' + 'x'*shown


def load(slot, label, vector=UD): return f'queue {slot}, 6, ${vector}, {gate_words(label)}\n'
def flushes(slots): return ''.join(f'queue {n}, 0\n' for n in slots)


def test_08_ring_in_order():
    "The last to load a gate is the one that the trap finds."
    assert die(load(0, 'to_one') + load(1, 'to_two') + 'hcall 0\nud2\n' + STORIES) == 'CRASH: two'
    assert die(load(0, 'to_two') + load(1, 'to_one') + 'hcall 0\nud2\n' + STORIES) == 'CRASH: one'


def test_08_ring_before_the_direct_call():
    assert die(load(0, 'to_one') + load(1, 'to_two') + f'hcall 6, ${UD}, {gate_words("to_three")}\nud2\n' + STORIES) == 'CRASH: three'
    assert die('queue 0, 2, $one - PAGE_OFFSET\ncrash two\n' + STORIES) == 'CRASH: one'


def test_08_status_is_free_again():
    with Workbench(flushes(range(3)) + 'before: hcall 0\nafter: crash one\n' + STORIES) as g:
        until(g, 'after')
        assert status(g) == [0xFF]*64
        g.put(g.pa('lguest_data') + 12, b'\0')          # the cursor has gone on: it's at 3
        assert g.turns() == [CALL] and last_words(g) == 'CRASH: one'
        assert status(g) == [0] + [0xFF]*63


def test_08_cursor_wraps():
    text = flushes(range(62)) + 'hcall 0\n' + load(0, 'to_three') + load(1, 'to_four') + load(62, 'to_one') + load(63, 'to_two')
    assert die(text + 'hcall 0\nud2\n' + STORIES) == 'CRASH: four'
    with Workbench(text + 'hcall 0\nafter: hcall 0\n' + STORIES) as g:
        until(g, 'after')
        assert status(g) == [0xFF]*64


def test_08_full_ring_in_one_go():
    with Workbench('queue 0, 0\nhcall 0\n' + flushes(range(64)) + 'full: hcall 0\nafter: hcall 0\n' + STORIES) as g:
        until(g, 'after')
        assert status(g) == [0xFF]*64
        assert g.stats.hypercalls_async == {0: 65}
        g.put(g.pa('lguest_data') + 12 + 1, b'\0')      # once round, and back at 1
        g.turn()
        assert status(g) == [0xFF]*64


def test_09_ring_after_a_page_fault():
    "The only exit between the ring's entry and the trap is a fault that the Host mends."
    with Workbench('queue 0, 0\nhcall 0\nwarm: ' + load(1, 'to_one') + 'movl 0xC0300000, %eax\nud2\n' + STORIES) as g:
        until(g, 'warm')
        assert g.turns() == [PF, UD, CALL]
        assert last_words(g) == 'CRASH: one'


@pytest.mark.parametrize('ready', (0x00, 0x01, 0x7F, 0xFE))
def test_10_any_status_but_ff_is_ready(ready):
    with Workbench(f'queue 0, 8, $5\nmovb ${ready}, lguest_data + 12\nhcall 0\nafter: crash one\n' + STORIES) as g:
        until(g, 'after')
        assert g.lg.ts == 5 and status(g) == [0xFF]*64


def test_10_a_gap_stops():
    with Workbench('queue 0, 8, $5\nqueue 2, 8, $6\nhcall 0\ngap: queue 1, 8, $7\nhcall 0\nafter: crash one\n' + STORIES) as g:
        until(g, 'gap')
        assert g.lg.ts == 5 and status(g) == [0xFF, 0xFF, 0] + [0xFF]*61
        until(g, 'after')
        assert g.lg.ts == 6 and status(g) == [0xFF]*64


def dead_read(g):
    "The read that finds out: ENOENT, and the words with the next."
    with pytest.raises(OSError) as e: g.file.read(8)
    assert e.value.errno == errno.ENOENT
    return last_words(g)


@pytest.mark.parametrize('rest, words', (('queue 2, 2, $two - PAGE_OFFSET', 'two'), ('queue 2, 0', 'one')))
def test_11_dma_in_the_ring_stops_it(rest, words):
    with Workbench(f'queue 0, 8, $5\nqueue 1, 13, $0x300000, $0x300100\n{rest}\ncrash one\n' + STORIES) as g:
        assert g.file.read(8) == struct.pack('<2I', 0x300100, 0x300000)
        assert g.dead is None and g.lg.ts == 5
        assert status(g) == [0xFF, 0xFF, 0] + [0xFF]*61
        assert dead_read(g) == f'CRASH: {words}'
        assert status(g)[2] == (0 if words == 'two' else 0xFF)


def test_11_direct_call_waits_for_every_dma():
    "Two DMAs in the ring, and a third called directly: one a read, in order."
    sends = [(0x300000 + 4*n, 0x300100 + 0x100*n) for n in range(3)]
    ring = ''.join(f'queue {n}, 13, ${key}, ${at}\n' for n, (key, at) in enumerate(sends[:2]))
    with Workbench(ring + f'hcall 13, ${sends[2][0]}, ${sends[2][1]}\ncrash one\n' + STORIES) as g:
        for key, at in sends: assert g.file.read(8) == struct.pack('<2I', at, key)
        assert dead_read(g) == 'CRASH: one'


def test_12_direct_dma_is_not_repeated():
    with Workbench('hcall 13, $0x300000, $0x300100\nonce: hcall 13, $0x300004, $0x300200\ntwice: crash one\n' + STORIES) as g:
        assert g.file.read(8) == struct.pack('<2I', 0x300100, 0x300000)
        assert g.regs.trapnum == 255 and g.regs.eip == g.at('once') and g.regs.eax == 13
        assert g.file.read(8) == struct.pack('<2I', 0x300200, 0x300004)
        assert g.regs.trapnum == 255 and g.regs.eip == g.at('twice')
        assert dead_read(g) == 'CRASH: one'


def test_12_signal_does_not_repeat_it_either():
    with Workbench('hcall 12, $0x300000, $0x300100, $0x103\nbound: crash one\n' + STORIES) as g:
        until(g, 'bound')                                # every turn ends with a signal
        assert g.regs.eax == 1 and g.regs.trapnum == 255 and len(g.lg.dma) == 1
        assert g.turns() == [CALL] and last_words(g) == 'CRASH: one'


# --- I/O and memory ---------------------------------------------------------------------------------------------------

@MODES
def test_13_last_byte_of_memory(fixes):
    "A range that ends with memory was refused in the seed, and one that ends a byte earlier never."
    refused = fixes is SEED
    for at, ok in ((LIMIT - 128, not refused), (LIMIT - 129, True), (LIMIT - 127, False)):
        with Workbench(f'hcall 2, ${at}', fixes=fixes) as g:
            g.put(at, b'the end\0')
            g.turns()
            assert last_words(g) == ('CRASH: the end' if ok else f'bad read address {at:#x} len 128')


@MODES
def test_13_last_table_of_memory(fixes):
    words = 'CRASH: one' if fixes is FIXED else 'bad read address 0x400fe8 len 24'
    assert die('hcall 16, $0x400FE8\ncrash one\n' + STORIES, fixes=fixes) == words
    assert die('hcall 16, $0x400FE9\ncrash one\n' + STORIES, fixes=fixes) == 'bad read address 0x400fe9 len 24'


@MODES
def test_13_last_word_of_memory(fixes):
    "A frame for a trap in user mode: SS is the first to be pushed."
    text = f'hcall 6, $6, {gate_words("to_one")}\nhcall 7, $KERNEL_DS, ${{}}, $0\nuser u\nu: ud2\n' + STORIES
    assert die(text.format(0xC0401000), fixes=fixes) == ('CRASH: one' if fixes is FIXED else 'bad write address 0x400ffc')
    assert die(text.format(0xC0401001), fixes=fixes) == 'bad write address 0x400ffd'


@MODES
def test_13_init_at_the_end_of_memory(fixes):
    with Workbench('hcall 1, $0x400BA0\nhcall 0\nhere: hcall 0', bare=True, fixes=fixes) as g:
        g.put(0x400BA0 + 12, b'\xFF'*64)
        if fixes is FIXED:
            until(g, 'here')
            assert g.word(0x400BA0 + 1100) == 0x400000
        else:
            g.turns()
            assert last_words(g) == 'bad guest page 00400ba0'


@MODES
@pytest.mark.parametrize('at', (0xFFFFFF80, 0xFFFFFFC0, 0xFFFFFFFF))
def test_13_wraparound(at, fixes):
    assert die(f'hcall 2, ${at}', fixes=fixes) == f'bad read address {at:#x} len 128'


@MODES
def test_13_wraparound_of_a_word(fixes):
    text = f'hcall 6, $6, {gate_words("to_one")}\nmovl $0xC0000002, %esp\nud2\n' + STORIES
    assert die(text, fixes=fixes) == 'bad write address 0xfffffffe'


EAX = 0x12345678
IO = {                                   # instruction: its length, EAX afterwards
    'in_al_imm8': ('E450', 2, 0x1234FFFF), 'in_al_dx': ('EC', 1, 0x1234FFFF),
    'in_eax_imm8': ('E550', 2, 0xFFFFFFFF), 'in_eax_dx': ('ED', 1, 0xFFFFFFFF),
    '66_in_al_imm8': ('66E450', 3, 0xFFFF5678), '66_in_al_dx': ('66EC', 2, 0xFFFF5678),
    'in_ax_imm8': ('66E550', 3, 0xFFFFFFFF), 'in_ax_dx': ('66ED', 2, 0xFFFFFFFF),
    'out_al_imm8': ('E650', 2, EAX), 'out_al_dx': ('EE', 1, EAX), 'out_eax_imm8': ('E750', 2, EAX), 'out_eax_dx': ('EF', 1, EAX),
    '66_out_al_imm8': ('66E650', 3, EAX), '66_out_al_dx': ('66EE', 2, EAX), 'out_ax_imm8': ('66E750', 3, EAX), 'out_ax_dx': ('66EF', 2, EAX)}
INSNS = pytest.mark.parametrize('code, length, eax', IO.values(), ids=IO.keys())


def as_bytes(code): return '.byte ' + ', '.join(f'0x{b:02x}' for b in bytes.fromhex(code)) + '\n'


@MODES
@INSNS
def test_14_io(code, length, eax, fixes):
    marks = dict(eax=EAX, ecx=0x11111111, edx=0x22220050, ebx=0x33333333, esi=0x44444444, edi=0x55555555, ebp=0x66666666)
    with Workbench(as_bytes(code) + 'hcall 0', fixes=fixes, **marks) as g:
        esp = g.regs.esp
        assert g.turn() == GP
        assert g.regs.eip == g.at('main') + length and g.regs.eax == eax
        assert {name: getattr(g.regs, name) for name in marks} == marks | dict(eax=eax)
        assert g.regs.esp == esp and g.regs.cs == 0x61
        assert g.turn() == CALL and g.dead is None       # and goes on from there


def reflected(g, at, cs, errcode=0):
    "The Guest is in its handler of vector 13, `handler`, with this on its stack."
    assert g.dead is None and g.regs.eip == g.at('handler') and g.regs.cs == 0x61
    assert g.stack(3) == [errcode, at, cs]


@MODES
@INSNS
def test_15_below_page_offset(code, length, eax, fixes):
    "Ring 1, and the same page at 4 MB."
    with Workbench(f'gate 13, handler\nhcall 4, $0x300000\nmovl $0x400000, %edi\nmovl ${EAX}, %eax\nthere: jmp *%edi\nhandler: hcall 0',
                   fixes=fixes) as g:
        g.address_space(0x300000, {0x400000: 0x310007})
        # Whoever takes the address for a kernel's looks at 4 MB - 3 GB, which is outside memory; and finds nothing good there.
        g.put(0x310000, bytes.fromhex(code))
        while g.turn() != GP: pass
        reflected(g, 0x400000, 0x61)
        assert g.regs.eax == EAX


@MODES
@INSNS
def test_15_user_above_page_offset(code, length, eax, fixes):
    "In the seed the address alone decides, not who is there."
    with Workbench(f'gate 13, handler\nuser u\nu: movl ${EAX}, %eax\ni: {as_bytes(code)}\nud2\nhandler: hcall 0', fixes=fixes) as g:
        while g.turn() != GP: pass
        if fixes is FIXED:
            reflected(g, g.at('i'), 0x73)
            assert g.regs.eax == EAX
        else: assert (g.regs.eip, g.regs.eax, g.regs.cs) == (g.at('i') + length, eax, 0x73)


# A kernel page that isn't where the Host believes: the CPU runs `code`, and the Host reads IN AL, 0x50.
def liar(g, code):
    table = g.word(g.lg.pgdirs[0].cr3 + 4*(0xC0300000 >> 22)) & ~0xFFF
    g.put(table + 4*0x300, struct.pack('<I', 0x310007))
    g.put(0x300000, bytes.fromhex('E450'))
    g.put(0x310000, bytes.fromhex(code))
    while g.turn() != GP: pass


LIAR = f'gate 13, handler\nmovl ${EAX}, %eax\nmovl $0xC0300000, %edi\njmp *%edi\nhandler: hcall 0'


@MODES
@pytest.mark.parametrize('code, errcode', (('CD21', 0x10A), ('CD80', 0x402), ('CD0D', 0x6A), ('CD40', 0x202)))
def test_15_error_code_is_never_emulated(code, errcode, fixes):
    with Workbench(LIAR, fixes=fixes) as g:
        liar(g, code)
        reflected(g, 0xC0300000, 0x61, errcode)
        assert g.regs.eax == EAX


def test_15_without_an_error_code_it_would_be():
    "The same trick with HLT: proves that the Host reads the IN."
    with Workbench(LIAR) as g:
        liar(g, 'F4')
        assert g.regs.eip == 0xC0300002 and g.regs.eax == 0x1234FFFF


OTHERS = dict(insb='6C', insl='6D', outsb='6E', hlt='F4', cli='FA', sti='FB', wbinvd='0F09', rep_insb='F36C', rep_in='F3EC', two_prefixes='6666EC')
STRANGE = pytest.mark.parametrize('code', OTHERS.values(), ids=OTHERS.keys())


@STRANGE
def test_16_unknown_opcode_is_reflected(code):
    with Workbench(f'gate 13, handler\ni: {as_bytes(code)}\nhandler: hcall 0', edi=0xC0300000, esi=0xC0300000) as g:
        while g.turn() != GP: pass
        reflected(g, g.at('i'), 0x61)
        assert g.stats.emulated_insns == 0


@STRANGE
def test_16_unknown_opcode_without_handler(code):
    with Workbench(as_bytes(code), edi=0xC0300000, esi=0xC0300000) as g:
        assert g.turns() == [GP]
        assert last_words(g) == f'unhandled trap 13 at {g.at("main"):#x} (0x0)'


# --- traps and interrupts ---------------------------------------------------------------------------------------------

def test_17_vectors_with_an_error_code():
    assert [v for v in range(256) if has_err(v)] == [8, 10, 11, 12, 13, 14, 17]


@pytest.mark.parametrize('vector', (0, 1, 3, 4, 5, 6, 9, 16, 18, 19, 20, 30))
def test_17_no_error_code(vector):
    "Three words: EIP is the lowest, and points behind the INT."
    with Workbench(f'gate {vector}, handler, 0xE, 3\nint ${vector}\nafter: hcall 0\nhandler: hcall 0') as g:
        while g.turn() != vector: assert g.dead is None
        assert g.regs.eip == g.at('handler') and g.regs.esp == g.at('stack_top') - 12
        assert g.stack(2) == [g.at('after'), 0x61]


ABSENT = 'movl $0x0000FFFF, gdt + 40\nmovl $0x00CF3300, gdt + 44\nhcall 3, $gdt - PAGE_OFFSET, $32\n'   # entry 5: data, not present
FAULTS = {                               # vector: error code, how to get there
    10: (0, 'pushfl\norl $0x4000, (%esp)\npopfl\nmovl $stack_top, %esp\ni: iret'),
    11: (0x28, ABSENT + 'movl $0x29, %eax\ni: movl %eax, %ds'),
    12: (0x28, ABSENT + 'movl $0x29, %eax\ni: movl %eax, %ss'),
    13: (0x10A, 'i: int $0x21'),
    14: (2, 'i: movl %eax, 0x1000')}


@pytest.mark.parametrize('vector, errcode, text', [(v, *f) for v, f in FAULTS.items()], ids=FAULTS.keys())
def test_17_error_code_is_lowest(vector, errcode, text):
    with Workbench(f'gate {vector}, handler\n{text}\nhcall 0\nhandler: hcall 0') as g:
        until(g, 'handler')
        assert g.stats.traps[vector] >= 1 and g.regs.esp == g.at('stack_top') - 16
        assert g.stack(3) == [errcode, g.at('i'), 0x61]


@pytest.mark.parametrize('trap, vector, errcode', (('ud2', 6, []), ('movl %eax, 0x1000', 14, [6]), ('int $0x21', 13, [0x10A])))
def test_18_user_to_kernel(trap, vector, errcode):
    with Workbench(f'gate {vector}, handler\nuser u\nu: pushl $0\ni: {trap}\nhandler: hcall 0') as g:
        until(g, 'handler')
        assert g.regs.esp == g.at('stack_top') - 20 - 4*len(errcode) and (g.regs.ss, g.regs.cs) == (0x69, 0x61)
        *lowest, eip, cs, eflags, esp, ss = g.stack(5 + len(errcode))
        assert (lowest, eip, cs, esp, ss) == (errcode, g.at('i'), 0x73, g.at('user_stack_top') - 4, 0x7B)
        assert eflags & 2


@pytest.mark.parametrize('trap, vector, errcode', (('ud2', 6, []), ('movl %eax, 0x1000', 14, [2]), ('int $0x21', 13, [0x10A])))
def test_18_kernel_to_kernel(trap, vector, errcode):
    with Workbench(f'gate {vector}, handler\npushl $0x77\npushl $0x88\nstc\ni: {trap}\nhandler: hcall 0') as g:
        until(g, 'handler')
        assert g.regs.esp == g.at('stack_top') - 8 - 12 - 4*len(errcode) and (g.regs.ss, g.regs.cs) == (0x69, 0x61)
        *lowest, eip, cs, eflags, first, second = g.stack(5 + len(errcode))
        assert (lowest, eip, cs, first, second) == (errcode, g.at('i'), 0x61, 0x88, 0x77)
        assert eflags & 3 == 3


def test_18_interrupt_of_a_user():
    with Workbench(f'gate 36, handler\n{ENABLE}user u\nu: movl 0xC0300000, %eax\nv: movl 0xC0304000, %eax\nhandler: hcall 0') as g:
        until(g, 'v')
        irq(g, 4)
        g.turn()
        assert g.regs.esp == g.at('stack_top') - 20
        assert g.stack(5)[:2] == [g.at('v'), 0x73] and g.stack(5)[3:] == [g.at('user_stack_top'), 0x7B]


@pytest.mark.parametrize('kind, left', ((0xE, 0), (0xF, 0x200)), ids=('interrupt gate', 'trap gate'))
@pytest.mark.parametrize('vector, trap', ((13, 'hlt'), (14, 'movl 0x1000, %eax'), (0, 'xorl %ecx, %ecx\ndivl %ecx'), (36, 'hcall 0')))
def test_19_irq_enabled(vector, trap, kind, left):
    "Also where the CPU delivers without the Host: vector 0."
    with Workbench(f'gate {vector}, handler, {kind}\n{ENABLE}i: {trap}\nafter: hcall 0\nhcall 0\nhandler: movl lguest_data, %esi\nin: hcall 0') as g:
        if vector == 36: irq(g, 4)
        while g.regs.eip != g.at('in') + 7:
            g.turn()
            assert g.dead is None
        assert g.regs.esi == left


@pytest.mark.parametrize('selector', (0, 0x10, 0x50, 0x60, 0x69, 0x73, 0xFFFF))
def test_20_selector_of_the_gate_is_ignored(selector):
    for vector, kind, trap in ((6, 0xE, 'ud2'), (6, 0xF, 'ud2'), (13, 0xF, 'hlt')):
        gate = gate_words('handler', kind, 0, selector)
        with Workbench(f'hcall 6, ${vector}, {gate}\n{trap}\nhandler: movl %cs, %esi\nhcall 0\nhere: hcall 0') as g:
            until(g, 'here')
            assert g.regs.esi == 0x61 and g.regs.cs == 0x61


@pytest.mark.parametrize('kind', range(14))
def test_21_bad_gate_type(kind):
    hi = TOP | 0x8000 | kind << 8
    assert die(f'hcall 6, $6, $0x600000, ${hi}') == f'bad IDT type {kind}'


def test_21_bad_gate_type_elsewhere():
    assert die('queue 0, 6, $6, $0x600000, $0xC0108500\nhcall 0') == 'bad IDT type 5'
    assert die('hcall 6, $128, $0x600000, $0xC0108500') == 'bad IDT type 5'
    assert die('hcall 6, $40, $0x600000, $0xC0108500') == 'bad IDT type 5'


@pytest.mark.parametrize('kind', (0, 5, 0xE, 0xF))
def test_21_absent_gate(kind):
    "Whatever its type; and it takes the place of a good one."
    with Workbench(f'gate 6, to_one\nhcall 6, $6, $0x600000, ${TOP | 0x6000 | kind << 8}\ni: ud2\n' + STORIES) as g:
        g.turns()
        assert last_words(g) == f'unhandled trap 6 at {g.at("i"):#x} (0x0)'


def loading(vector, hi):
    "Load a gate; says whether the IDT counts as changed before the next run."
    with Workbench(f'hcall 0\nclean: hcall 6, ${vector}, $0x600000, ${hi}\nloaded: hcall 0\nalive: hcall 0') as g:
        until(g, 'clean')
        assert g.lg.changed == 0
        until(g, 'loaded')
        changed = g.lg.changed & 1
        until(g, 'alive')
        return changed


@pytest.mark.parametrize('vector, changed', [(v, 0) for v in (2, 8, 15, 31)] + [(v, 1) for v in (64, 100, 127, 129, 255, 256, 0xFFFFFFFF)])
def test_22_loads_which_are_ignored(vector, changed):
    "Type 5 would be deadly if anybody looked at it."
    assert loading(vector, 0xC0108E00) == changed
    assert loading(vector, 0xC0108500) == changed


@pytest.mark.parametrize('vector', (0, 6, 14, 30, 32, 63, 128))
def test_22_loads_which_are_not(vector):
    assert loading(vector, 0xC0108E00) == 1


def test_22_hypercalls_stay_hypercalls():
    assert die(f'hcall 6, $31, {gate_words("to_two", 0xF)}\ncrash one\n' + STORIES) == 'CRASH: one'


def test_22_system_call():
    with Workbench(f'hcall 6, $128, {gate_words("handler", 0xF)}\nuser u\nu: int $0x80\nafter: ud2\nhandler: hcall 0\nhere: hcall 0') as g:
        until(g, 'here')
        assert g.stats.traps[128] == 0 and g.stats.direct_traps == {128: 1}
        assert g.stack(2) == [g.at('after'), 0x73]


def test_22_interrupt_gate_is_no_system_call():
    with Workbench(f'gate 13, handler\nhcall 6, $128, {gate_words("to_two", 0xE)}\nuser u\nu: int $0x80\nhandler: hcall 0\n' + STORIES) as g:
        until(g, 'handler')
        assert g.stack(3) == [0x402, g.at('u'), 0x73]


def went(kind, vector, trap, before=''):
    "How often the Host and the CPU delivered `vector` through a gate of this type; and the size of the frame."
    with Workbench(f'{before}\ngate {vector}, handler, {kind}, 3\nxorl %eax, %eax\n{trap}\nhcall 0\n'
                   'handler: xorl %eax, %eax\nint $0x1F\nhere: hcall 0') as g:
        while g.regs.eip != g.at('here'):
            g.turn()
            assert g.dead is None
        return g.stats.traps[vector], g.stats.direct_traps.get(vector, 0), g.regs.esp - g.at('stack_top')


@pytest.mark.parametrize('vector, trap', ((0, 'divl %eax'), (3, 'int3'), (5, 'int $5'), (6, 'ud2'), (16, 'int $16')))
def test_23_trap_gates_go_direct(vector, trap):
    assert went(0xF, vector, trap) == (0, 1, -12)
    assert went(0xE, vector, trap) == (1, 0, -12)


def test_23_direct_frame():
    with Workbench('gate 0, handler, 0xF\nxorl %ecx, %ecx\ni: divl %ecx\n'
                   'handler: movl (%esp), %esi\nmovl 4(%esp), %edi\nhcall 0\nhere: hcall 0') as g:
        until(g, 'here')
        assert (g.regs.esi, g.regs.edi & 0xFFFF) == (g.at('i'), 0x61)
        assert g.stats.traps[0] == 0


@pytest.mark.parametrize('kind', (0xE, 0xF))
@pytest.mark.parametrize('vector, trap, size', ((7, 'fninit', 12), (13, 'hlt', 16), (14, 'movl 0x1000, %ecx', 16)))
def test_23_never_direct(vector, trap, size, kind):
    host, cpu, esp = went(kind, vector, trap, 'hcall 8, $8')
    assert host >= 1 and (cpu, esp) == (0, -size)


def test_23_interrupts_are_never_direct():
    "Not even if the Guest could reach them with an instruction."
    with Workbench('gate 13, handler\ngate 36, bad, 0xF, 3\ni: int $36\nbad: hcall 0\nhandler: hcall 0') as g:
        until(g, 'handler')
        assert g.stack(3) == [0x122, g.at('i'), 0x61] and g.stats.direct_traps == {}


def test_24_no_hypercalls_for_users():
    with Workbench('gate 13, handler\nuser u\nu: movl $2, %eax\nmovl $one - PAGE_OFFSET, %edx\ni: int $0x1F\nhandler: hcall 0\nhere:' + STORIES) as g:
        calls = None
        while g.regs.eip != g.at('handler'):
            calls = dict(g.stats.hypercalls_sync)
            trap = g.turn()
        assert trap == GP and g.dead is None
        assert g.stack(3) == [0xFA, g.at('i'), 0x73]
        assert g.stats.hypercalls_sync == calls and 2 not in calls
        assert (g.regs.eax, g.regs.cs) == (2, 0x61)


def test_24_unhandled():
    with Workbench('user u\nu: movl $2, %eax\ni: int $0x1F') as g:
        g.turns()
        assert last_words(g) == f'unhandled trap 13 at {g.at("i"):#x} (0xfa)'


QUIET = '''movl ${start}, lguest_data + 1112
movl ${end}, lguest_data + 1116
movl $stack_top, %esp
hcall 1, $lguest_data - PAGE_OFFSET
gate 36, handler
movl $0x200, lguest_data
hcall 0
x: hcall 0
y: hcall 0
handler: hcall 0
'''


@pytest.mark.parametrize('start, end, where', (('x', 'x + 1', 'y'), ('x - 5', 'x + 3', 'y'), ('x', 'y', 'y'), ('x - 1', 'x + 1', 'y'),
                                               ('main', 'y', 'y'), ('x + 1', 'y', 'x'), ('x - 5', 'x', 'x'), ('x', 'x', 'x'), ('0', '0', 'x'),
                                                 ('y', 'y + 4', 'x')))
@MODES
def test_25_quiet_range(start, end, where, fixes):
    "Stopped at x with an interrupt waiting, and then at y."
    with Workbench(QUIET.format(start=start, end=end), bare=True, fixes=fixes) as g:
        until(g, 'x')
        irq(g, 4)
        assert g.turn() == CALL
        if where == 'y':
            assert g.regs.eip == g.at('y') and g.lg.irqs_pending == 1 << 4 and g.word(g.pa('lguest_data')) == 0x200
            assert g.turn() == CALL
        assert g.lg.irqs_pending == 0 and g.stack(2) == [g.at(where), 0x61]
        assert g.word(g.pa('lguest_data')) == 0 and g.regs.eip == g.at('handler') + 7


# Handlers of all 32 interrupts, which write down who they are.
LOG = ('handlers:\n' + ''.join(f'h{n}: pushl ${n}\njmp common\n' for n in range(32))
       + f'common: popl %eax\nmovl log_at, %edi\nmovl %eax, (%edi)\naddl $4, log_at\n{ENABLE}iret\n'
       + DATA + 'log_at: .long log\nlog: .fill 64, 4, 0xEE\n' + TEXTS)
GATES = ''.join(f'gate {32 + n}, h{n}\n' for n in range(32))


def logged(g): return [g.word(g.pa('log') + 4*n) for n in range((g.word(g.pa('log_at')) - g.at('log')) // 4)]


def test_26_lowest_first():
    with Workbench(GATES + ENABLE + 'hcall 0\nready: ' + 'hcall 0\n'*40 + 'crash one\n' + LOG) as g:
        until(g, 'ready')
        for n in (31, 5, 17, 0, 30, 1): irq(g, n)
        assert g.run(60).reason == 'CRASH: one'
        assert logged(g) == [0, 1, 5, 17, 30, 31]


def test_26_blocked_ones_wait():
    with Workbench(GATES + f'movl $0x80000021, lguest_data + 4\n{ENABLE}hcall 0\nready: ' + 'hcall 0\n'*20
                   + 'blocked: hcall 0\nmovl $1, lguest_data + 4\n' + 'hcall 0\n'*20 + 'still: hcall 0\ncrash one\n' + LOG) as g:
        until(g, 'ready')
        for n in (31, 5, 17, 0): irq(g, n)
        until(g, 'blocked')
        assert logged(g) == [17] and g.lg.irqs_pending == 1 << 31 | 1 << 5 | 1
        until(g, 'still')
        assert logged(g) == [17, 5, 31] and g.lg.irqs_pending == 1


def test_26_clock_is_irq_0():
    with Workbench(GATES + ENABLE + 'hcall 9, $100000\nhcall 10\nhcall 0\ncrash one\n' + LOG) as g:
        assert g.run(60).reason == 'CRASH: one' and logged(g) == [0]


@MODES
def test_27_halted_and_interrupt(fixes):
    "A trap gate leaves irq_enabled as it is at the frame, so we can see it."
    with Workbench('gate 36, handler, 0xF\nmovl $0, lguest_data\nhcall 10\nhalted: hcall 0\nhandler: hcall 0\nhere: hcall 0', fixes=fixes) as g:
        until(g, 'halted')
        assert g.lg.halted and g.word(g.pa('lguest_data')) == 0
        irq(g, 4)
        woken(g)
        until(g, 'here')
        assert not g.lg.halted and g.word(g.pa('lguest_data')) == 0x200
        assert g.stack(2) == [g.at('halted'), 0x61] and g.stack(3)[2] & 0x200


def test_27_halted_without_a_deliverable_interrupt():
    "A blocked one does not wake it; the clock does, later."
    with Workbench('gate 36, bad\ngate 32, handler, 0xF\nmovl $0x10, lguest_data + 4\nhcall 9, $7000000\nhcall 10\nhalted: hcall 0\n'
                   'bad: hcall 0\nhandler: hcall 0\nhere: hcall 0') as g:
        until(g, 'halted')
        irq(g, 4)
        began = g.host.clock.now()
        woken(g)
        until(g, 'here')
        assert g.lg.irqs_pending == 1 << 4 and g.host.clock.now() - began > 6_000_000
        assert g.stack(1) == [g.at('halted')]


@MODES
def test_27_not_halted_stays_disabled(fixes):
    with Workbench('gate 36, bad\nmovl $0, lguest_data\nhcall 0\nready: hcall 0\nhcall 0\nhere: hcall 0\nbad: hcall 0', fixes=fixes) as g:
        until(g, 'ready')
        irq(g, 4)
        until(g, 'here')
        assert g.lg.irqs_pending == 1 << 4 and g.word(g.pa('lguest_data')) == 0


def test_28_no_gate_for_the_interrupt():
    with Workbench(f'{ENABLE}hcall 0\nready: hcall 0\nhcall 0\nhere: gate 36, handler\nloaded: hcall 0\nhandler: hcall 0') as g:
        until(g, 'ready')
        irq(g, 4)
        until(g, 'here')
        assert g.lg.irqs_pending == 1 << 4 and g.word(g.pa('lguest_data')) == 0x200
        until(g, 'loaded')
        g.turn()
        assert g.lg.irqs_pending == 0 and g.stack(2) == [g.at('loaded'), 0x61]


def test_28_halted_goes_on_without_a_gate():
    with Workbench('hcall 10\nhalted: hcall 0\nhere: hcall 0') as g:
        until(g, 'halted')
        irq(g, 4)
        woken(g)
        until(g, 'here')
        assert not g.lg.halted and g.lg.irqs_pending == 1 << 4 and g.word(g.pa('lguest_data')) == 0x200


@MODES
@pytest.mark.parametrize('enabled', (0, 0x200))
@pytest.mark.parametrize('kind', (0xE, 0xF))
@pytest.mark.parametrize('who', ('', 'user u\nu:'), ids=('kernel', 'user'))
def test_29_flag_in_the_frame(who, kind, enabled, fixes):
    "In the seed every frame says 'enabled', for the real flag is always on."
    with Workbench(f'gate 13, handler, {kind}\nmovl ${enabled}, lguest_data\n{who}\nhlt\nhandler: hcall 0', fixes=fixes) as g:
        until(g, 'handler')
        assert g.stack(4)[3] & 0x200 == (0x200 if fixes is SEED or enabled else 0)
        assert g.regs.eflags & 0x200                     # the real one, always


@pytest.mark.parametrize('fixes, delivered', ((SEED, True), (FIXED, False)), ids=('seed', 'fixed'))
def test_29_any_bit_was_enough(fixes, delivered):
    "What a Guest's iret stores into irq_enabled has bit 1 set, always."
    with Workbench('gate 36, handler\nmovl $2, lguest_data\nhcall 0\nready: hcall 0\nhcall 0\nhandler: hcall 0', fixes=fixes) as g:
        until(g, 'ready')
        irq(g, 4)
        g.turn()
        assert (g.lg.irqs_pending == 0) == delivered
        assert g.word(g.pa('lguest_data')) == (0 if delivered else 2)


def test_30_ts_off_is_absorbed():
    "The CPU's flag is still on from before: the Host clears it, and the Guest never knows."
    with Workbench('gate 7, to_one\nhcall 8, $8\nhcall 8, $0\ni: fninit\nfninit\nafter: hcall 0\ncrash two\n' + STORIES) as g:
        until(g, 'i')
        esp = g.regs.esp
        assert g.turn() == 7
        assert g.regs.eip == g.at('i') and g.regs.esp == esp
        assert g.turns() == [CALL, CALL] and last_words(g) == 'CRASH: two'


def test_30_ts_off_from_the_beginning():
    with Workbench('fninit\nfld1\ncrash one\n' + STORIES) as g:
        assert 7 not in g.turns()[1:] and last_words(g) == 'CRASH: one'


@pytest.mark.parametrize('ts', (8, 1, 0x80000000))
def test_30_ts(ts):
    "Delivered without an error code; once TS is off the instruction is done."
    with Workbench(f'gate 7, handler\nhcall 8, ${ts}\ni: fninit\nafter: crash two\nhandler: hcall 8, $0\nback: iret\n' + STORIES) as g:
        until(g, 'i')
        assert g.turn() == 7
        assert g.regs.eip == g.at('handler') and g.regs.esp == g.at('stack_top') - 12
        assert g.stack(2) == [g.at('i'), 0x61]
        g.turns()
        assert last_words(g) == 'CRASH: two'


def test_30_ts_again_and_again():
    "While TS is on each use traps, however often the Host has cleared the CPU's flag."
    with Workbench('gate 7, handler\nhcall 8, $8\nfninit\nfninit\ncrash one\nhandler: addl $2, (%esp)\niret\n' + STORIES) as g:
        assert g.turns().count(7) == 2 and last_words(g) == 'CRASH: one'


def test_30_ts_unhandled():
    with Workbench('hcall 8, $8\ni: fninit') as g:
        g.turns()
        assert last_words(g) == f'unhandled trap 7 at {g.at("i"):#x} (0x0)'
