"What belongs to one Guest: its FPU, its flags, the processor it is told about, its time, and its share of the Host's memory."
import ctypes, random

import pytest
from lguest_lit.images.build import HERE, build
from lguest_lit.host.clock import VirtualClock
from lguest_lit.host.host import Host
from lguest_lit.i386 import engine
from lguest_lit.i386.cpu import CPU, flat_machine, trapped
from lguest_lit.i386.cpuid import FEATURES, cpuid
from lguest_lit.host.kernel import CR0, CR4, CR4_PGE
from lguest_lit.i386.memory import PhysicalMemory
from lguest_lit.launcher.launcher import Launcher
from lguest_lit.host.lg import Fixes
from lguest_lit.watch.rewind import TimeMachine
from lguest_lit.watch.trace import Recorder, Recording, develop, record, live_again
from lguest_lit.launcher.workbench import OneTurn, Workbench, assemble

DATA = '''
        .data
        .balign 16
{}
        .section .head, "ax"'''
VALUE = DATA.format('value: .long 0')
ONE, PI, EMPTY = 0x3F800000, 0x40490FDB, 0xFFC00000


def host_for(n: int, nr_cpus: int = 1) -> Host:
    "A Host with room for `n` small Guests."
    return Host(memory=(8 + 8 * n) << 20, nr_cpus=nr_cpus, clock=OneTurn())


def to_call(g):
    "Up to the next hypercall, which has not been done yet."
    while g.turn() != 31: assert g.dead is None, g.dead


# the FPU

def test_each_guest_has_an_fpu_of_its_own():
    with host_for(3) as host:
        a = Workbench('fninit\n fld1\n hcall LHCALL_FLUSH_ASYNC\n fsts value' + VALUE, host=host)
        b = Workbench('fninit\n fldpi\n hcall LHCALL_FLUSH_ASYNC\n fsts value' + VALUE, host=host)
        for g in a, b: to_call(g)
        for g in a, b: g.turns()
        assert [g.word(g.pa('value')) for g in (a, b)] == [ONE, PI]
        newcomer = Workbench('fnstsw %ax\n movzwl %ax, %esi\n fnstcw value + 4\n stmxcsr value + 8\n fsts value'
                             + DATA.format('value: .long 0, 0, 0'), host=host)
        newcomer.turns()
        at = newcomer.pa('value')
        assert newcomer.dead == 'CRASH: Power down' and newcomer.regs.esi == 0
        assert [newcomer.word(at + 4 * i) for i in range(3)] == [EMPTY, 0x37F, 0x1F80]


EVERYTHING = '''
        movl  $8, %ecx
        fninit
1:      fildl seed                          # eight numbers, each its own
        incl  seed
        loop  1b
        fstp  %st(0)                        # and one place empty
        fldcw control
        ldmxcsr mxcsr
        movl  seed, %eax
''' + ''.join(f'''
        movd  %eax, %xmm{n}
        pshufd $0, %xmm{n}, %xmm{n}
        addl  $0x01010101, %eax
''' for n in range(8)) + '''
        fxsave before
2:      hcall LHCALL_FLUSH_ASYNC
        fxsave after
        incl  %esi
        cmpl  $12, %esi
        jb    2b''' + DATA.format('''
before: .fill 512, 1, 0
after:  .fill 512, 1, 0
control: .long {control:#x}
mxcsr:  .long {mxcsr:#x}
seed:   .long {seed:#x}''')


@pytest.mark.parametrize('nr_cpus', (1, 2))
def test_the_whole_fpu_survives_neighbours_and_moves(nr_cpus):
    "x87 registers with their tags, control and status words, SSE registers and MXCSR."
    rng = random.Random(nr_cpus)
    with host_for(3, nr_cpus) as host:
        guests = [Workbench(EVERYTHING.replace('{control:#x}', hex(0x37F - n)).replace('{mxcsr:#x}', hex(0x1F80 | n << 13))
                            .replace('{seed:#x}', hex(0x11223344 * (n + 1))), host=host, mem='2M') for n in range(3)]
        while alive := [g for g in guests if g.dead is None]:
            host.use_cpu(rng.randrange(nr_cpus))
            rng.choice(alive).turn()
        images = []
        for g in guests:
            assert g.dead == 'CRASH: Power down' and g.regs.esi == 12
            before, after = (bytes(g.mm.ram[g.pa(name):g.pa(name) + 512]) for name in ('before', 'after'))
            assert before == after
            images.append(before)
        assert len(set(images)) == 3 and all(image[4] == 0x7F << 1 for image in images)        # seven registers in use
        assert sum(g.stats.traps[7] for g in guests) > 6


def test_a_guest_that_leaves_the_fpu_alone_never_traps():
    with host_for(2) as host:
        a, b = (Workbench('1: hcall LHCALL_FLUSH_ASYNC\n jmp 1b', host=host) for _ in range(2))
        for _ in range(20):
            for g in a, b: g.turn()
        assert a.stats.traps[7] == b.stats.traps[7] == 0 and host.fpu_owner == [None] and a.lg.fpu is None


def test_registers_that_nobody_wanted_are_not_loaded_again():
    "TS was asked for, and the answer finds the registers where they were: an old image must not replace them."
    with host_for(2) as host:
        a = Workbench('''
            gate  7, 7f
            fninit
            hcall LHCALL_FLUSH_ASYNC                # the other one comes, and our image is made
            fld1
            hcall LHCALL_TS, $8
            fsts  value
            crash power_down
        7:  hcall LHCALL_TS, $0
            iret''' + VALUE, host=host)
        b = Workbench('fninit\n fldpi', host=host)
        to_call(a); b.turns(); a.turns()
        assert a.word(a.pa('value')) == ONE and a.dead == 'CRASH: Power down'


def test_the_fpu_goes_back_in_time_too():
    image = assemble('fninit\n fld1\n 1: fadd %st(0), %st(0)\n fsts value\n hcall LHCALL_FLUSH_ASYNC\n incl %esi\n cmpl $40, %esi\n jb 1b' + VALUE)
    with TimeMachine(image, mem='4M', every=5) as machine:
        def values():
            seen = []
            for moment in range(6, 40, 4):
                machine.goto(moment)
                seen.append(machine.hash())
            return seen
        there = values()
        machine.goto(100)
        end, machine.insn = machine.hash(), 0
        assert values() == there and len(set(there)) == len(there)
        assert machine.goto(100) and machine.hash() == end
        machine.goto(7, 40), machine.goto(3), machine.goto(100)
        assert machine.hash() == end


# the processor as the Host kernel has set it up

def test_control_registers_are_those_of_the_time():
    with Workbench('smsw %eax\n movzwl %ax, %esi') as g:
        g.turns()
        now = g.host.cpu.registers()
        assert now['cr0'] | 8 == CR0 | 8 == 0x8005003B and now['cr4'] == CR4 & ~CR4_PGE == 0x610
        assert g.regs.esi == 0x3B                           # TS is on: it has not used the FPU


@pytest.mark.parametrize('text, end', (
    ('fninit\n pushl $0x37B\n fldcw (%esp)\n fldz\n fld1\n fdivp\n fwait', 'unhandled trap 16 at'),      # the error, unmasked
    ('hcall LHCALL_TS, $8\n fwait', 'unhandled trap 7 at'),
    ('hcall LHCALL_TS, $8\n fninit', 'unhandled trap 7 at'),
    ('hcall LHCALL_TS, $8\n xorps %xmm0, %xmm0', 'unhandled trap 7 at'),
    ('hcall LHCALL_TS, $8\n pxor %mm0, %mm0', 'unhandled trap 7 at'),
    ('xorps %xmm0, %xmm0', 'CRASH: Power down'),
    ('pxor %mm0, %mm0\n emms', 'CRASH: Power down'),
    ('movdqa %xmm0, %xmm1', 'CRASH: Power down'),
    ('fxsave stack_top - 1024', 'CRASH: Power down')))
def test_fpu_errors_and_sse_are_as_on_a_686(text, end):
    with Workbench(text) as g:
        g.turns(50)
        assert g.dead.startswith(end)


def test_an_fpu_error_in_ring_3_reaches_the_guests_handler():
    with Workbench('''
        gate  16, 9f
        user  1f
    1:  fninit
        pushl $0x37B
        fldcw (%esp)
        fldz
        fld1
        fdivp
    2:  fwait
        ud2
    9:  popl  %esi
        crash power_down''') as g:
        g.turns(50)
        assert g.dead == 'CRASH: Power down' and g.stats.traps[16] == 1


# flags on the way into a handler

BODY = '''
        gate {vector}, 9f, {kind}, {dpl}
        user 1f
1:      pushf
        orl  ${flag:#x}, (%esp)
        popf
        {insn}
        ud2
9:      pushf
        popl %eax
        andl ${flag:#x}, %eax
        movl %eax, %ss:out
        movl $KERNEL_DS, %eax
        movl %eax, %ds
        {then}
        crash power_down''' + DATA.format('out: .long 0x55')
TF, NT = 0x100, 0x4000
RETURNS = 'addl $4, %esp\n movl $2f, (%esp)\n iret\n2: ud2'


@pytest.mark.parametrize('vector, kind, dpl, flag, insn, then, end', (
    (14, '0xE', 0, NT, 'movl 4, %eax', '', 'CRASH: Power down'),
    (14, '0xF', 0, NT, 'movl 4, %eax', '', 'CRASH: Power down'),
    (14, '0xE', 0, NT, 'movl 4, %eax', RETURNS, 'unhandled trap 6 at'),     # back in the program, which then has its own
    (14, '0xE', 0, TF, 'movl 4, %eax', '', 'CRASH: Power down'),
    (13, '0xE', 0, TF | NT, 'hlt', '', 'CRASH: Power down'),
    (6, '0xE', 0, TF | NT, 'ud2', '', 'CRASH: Power down'),
    (128, '0xF', 3, NT, 'int $0x80', '', 'CRASH: Power down'),              # direct: by the processor
    (1, '0xE', 0, TF, 'nop', '', 'CRASH: Power down'),
    (1, '0xF', 0, TF, 'nop', '', 'CRASH: Power down')))
def test_a_handler_does_not_inherit_flags(vector, kind, dpl, flag, insn, then, end):
    # a program that traces itself gets as far as the instruction in question only if trap 1 does nothing
    steps = '' if vector == 1 or not flag & TF else 'gate 1, 1f\n jmp 2f\n1: iret\n2:'
    with Workbench(steps + BODY.format(**{name: value for name, value in locals().items() if name in 'vector kind dpl flag insn then'.split()})) as g:
        g.turns(400)
        assert g.word(g.pa('out')) == 0 and g.dead.startswith(end)


def test_the_frame_has_the_flags_that_the_handler_has_not():
    with Workbench(BODY.format(vector=14, kind='0xE', dpl=0, flag=NT, insn='movl 4, %eax', then='movl 12(%esp), %esi')) as g:
        g.turns()
        assert g.regs.esi & NT


@pytest.mark.parametrize('fixed', (True, False))
def test_an_interrupt_does_not_inherit_flags_either(fixed):
    "A program that has set NT waits, and the clock ticks."
    with Workbench('''
            gate 32, tick
            movl $0x200, lguest_data
            hcall LHCALL_SET_CLOCKEVENT, $100000
            user 1f
    1:      pushf
            orl  $0x4000, (%esp)
            popf
            jmp  .
    tick:   pushf
            popl %esi
            crash power_down''', fixes=Fixes(handler_flags=fixed)) as g:
        g.turns(400)
        assert g.dead == 'CRASH: Power down' and bool(g.regs.esi & NT) is not fixed


PROCESS = '''
        .text
        .globl start
start:  pushfl
        orl  $0x4000, (%esp)
        popfl
1:      jmp  1b
'''


@pytest.mark.parametrize('fixed', (True, False))
def test_a_process_with_nt_does_not_kill_the_first_guests_kernel(fixed, tmp_path):
    "Three instructions that need no privilege, as the first Guest's process."
    (tmp_path/'nt.S').write_text(PROCESS)
    (tmp_path/'nt.ld').write_bytes((HERE/'guests'/'process.ld').read_bytes())
    with Host(memory=32 << 20, clock=VirtualClock(slice=2000, insn_ns=500)) as host, \
         Launcher('first', args='ticks=20 hz=1000', initrd=build(tmp_path/'nt.S'), host=host, fixes=Fixes(handler_flags=fixed)) as launcher:
        end = launcher.run(max_seconds=60)
        assert end.reason.startswith('CRASH: Power down' if fixed else 'CRASH: trap 10 in the kernel')


# CPUID: one table, whatever the engine

def test_cpuid_is_ours():
    with Workbench('''
            movl  $leaves, %ebp
            movl  $out, %edi
            cld
    1:      movl  (%ebp), %eax
            movl  $0xDEAD, %ecx                 # a subleaf, which no leaf of ours has
            cpuid
            stosl
            movl  %ebx, %eax
            stosl
            movl  %ecx, %eax
            stosl
            movl  %edx, %eax
            stosl
            addl  $4, %ebp
            cmpl  $out, %ebp
            jb    1b''' + DATA.format('leaves: .long 0, 1, 2, 4, 7, 0xB, 0x40000000, 0x80000000, 0x80000001, 0x80000002, 0x8000000A, 0xFFFFFFFF\nout: .fill 48, 4, 0')) as g:
        leaves = [g.word(g.pa('leaves') + 4 * i) for i in range(12)]
        g.turns()
        said = {leaf: tuple(g.word(g.pa('out') + 16 * n + 4 * i) for i in range(4)) for n, leaf in enumerate(leaves)}
        assert g.dead == 'CRASH: Power down' and said == {leaf: cpuid(leaf) for leaf in leaves}


@pytest.mark.parametrize('ring', (1, 3))
@pytest.mark.parametrize('live', (True, False))
def test_cpuid_and_rdtsc_in_the_middle_of_flags(ring, live):
    "They change no flag, whichever way the engine's state is reached."
    code = bytes.fromhex('31c0' '40' 'f9' '0fa2' '0f31' '9c' '59' 'f4')         # xor eax, eax; inc eax; stc; cpuid; rdtsc; pushf; pop ecx; hlt
    cpu = flat_machine(code, ring, cpu=lambda memory: CPU(memory, live))
    cpu.tsc = lambda begun: 7 << 32 | 9
    assert cpu.run() == 'halted' and trapped(cpu) == 13
    now = cpu.registers()
    assert (now['edx'], now['eax'], now['ecx'] & 0x8D5) == (7, 9, 1)


PROMISED = {0: 'fld1', 4: 'rdtsc', 8: 'cmpxchg8b (%esp)', 15: 'cmovz %eax, %ebx\n fcmovb %st(1), %st(0)\n fcomi %st(1)', 23: 'paddb %mm0, %mm1\n emms',
            24: 'fxsave stack_top - 1024\n fxrstor stack_top - 1024', 25: 'addps %xmm0, %xmm1\n prefetchnta (%esp)\n sfence',
            26: 'addpd %xmm0, %xmm1\n movnti %eax, (%esp)\n lfence\n mfence\n pause'}


@pytest.mark.parametrize('bit', [bit for bit in range(32) if FEATURES >> bit & 1])
def test_every_feature_that_cpuid_promises_runs(bit):
    with Workbench(PROMISED[bit]) as g:
        g.turns()
        assert g.dead == 'CRASH: Power down'


@pytest.mark.parametrize('insn, trap', (('sysenter', 13), ('rdmsr', 13), ('wrmsr', 13), ('movl %cr4, %eax', 13), ('rdpmc', 13), ('monitor', 6),
                                        ('rdtscp', 6), ('rdrand %eax', 6), ('rdseed %eax', 6), ('rdpid %eax', 6), ('syscall', 6), ('vmcall', 6)))
def test_what_cpuid_does_not_promise_is_refused(insn, trap):
    "Above all whatever would bring time or chance of its own into a Guest."
    with Workbench(insn, ecx=0x10) as g:
        g.turns()
        assert g.dead.startswith(f'unhandled trap {trap} at')


# RDTSC

def test_virtual_time_has_a_virtual_tsc():
    with Workbench('1: rdtsc\n movl %eax, %esi\n rdtsc\n movl %eax, %edi\n hcall LHCALL_FLUSH_ASYNC\n jmp 1b') as g:
        before, clock = 0, g.host.clock
        for _ in range(20):
            to_call(g)
            assert before <= g.regs.esi <= g.regs.edi <= clock.now() - VirtualClock().now()
            before = g.regs.edi
        assert before > 0 and g.data.tsc_khz == 0


def test_virtual_tsc_goes_on_in_a_guest_that_stays():
    "A loop that waits for the counter comes to its end."
    with Workbench('rdtsc\n addl $1000000, %eax\n movl %eax, %esi\n1: rdtsc\n cmpl %esi, %eax\n jb 1b') as g:
        g.turns(400)
        assert g.dead == 'CRASH: Power down'


def test_real_time_has_the_real_tsc():
    with Host(memory=16 << 20) as host, Launcher(assemble('rdtsc\n movl %eax, %esi\n movl %edx, %edi'), mem='4M', host=host) as launcher:
        assert launcher.run(max_seconds=60).reason == 'CRASH: Power down'
        regs = launcher.file.lg.regs
        assert regs.edi << 32 | regs.esi > 1 << 32 and host.cpu.tsc(0) is None


DECIDES = '''
        movl  $30, %esi
1:      rdtsc
        movl  %eax, out(, %esi, 4)
        testl $0x800, %eax
        jz    2f
        hcall LHCALL_FLUSH_ASYNC                    # a detour, for those who come at an odd time
2:      hcall LHCALL_FLUSH_ASYNC
        decl  %esi
        jnz   1b''' + DATA.format('out: .fill 31, 4, 0')


def test_a_life_that_decides_by_rdtsc_is_the_same_each_time():
    image = assemble(DECIDES)
    assert len({record(image, mem='4M').hash() for _ in range(3)}) == 1
    with TimeMachine(image, mem='4M', every=7) as machine:
        seen, ends = [], []
        for _ in range(3):
            machine.goto(20)
            seen.append((machine.hash(), machine.goto(20, 30), machine.registers()['eax']))
            machine.goto(1 << 20)
            ends.append((machine.now, machine.hash(), machine.lg.dead))
        assert len(set(seen)) == len(set(ends)) == 1 and ends[0][2] == 'CRASH: Power down'


# an NMI on the way

def nmi_after(n: int):
    "An NMI after `n` instructions of a Guest's last stay, through all four worlds, and what became of it; None if it was over before."
    with Workbench("""
            gate 128, call, 0xF, 3
            hcall LHCALL_FLUSH_ASYNC
            user program
    program: movl $7, %esi
            int  $0x80                              # direct
            ud2
    call:   movl $8, %edi
            iret""") as g:
        while g.regs.eax != 0: to_call(g)                   # FLUSH_ASYNC: the next stay is the one
        cpu, hit = g.host.cpu, []

        def run(*args, **kw):
            del cpu.run
            for _ in range(n):
                if cpu.run(1) == 'halted': return 'halted'
            hit.append(n)
            cpu.raise_nmi()
            return cpu.run(*args, **kw)
        cpu.run = run
        g.turns(20)
        return (g.dead[:20], g.regs.esi, g.regs.edi, cpu.nmi) if hit else None


def test_an_nmi_may_come_at_any_instruction():
    n = 0
    while (end := nmi_after(n)) is not None:
        assert end == ('unhandled trap 6 at ', 7, 8, False), n
        n += 1
    assert n > 60


# its share of the Host's memory

MODEST = '''
        movl  $0x3FE007, 0xC03FF004         # one page, at 4 MB
        movl  $20, %esi
1:      hcall LHCALL_FLUSH_ASYNC
        decl  %esi
        jnz   1b
        movl  0x400000, %eax'''
GREEDY = '''
        movl  $768, %ecx                    # the whole user half leads to one table
1:      movl  $0x3FE007, 0xC03FF000 - 4(, %ecx, 4)
        loop  1b
        movl  $0, %ebp
2:      movl  $0, %esi
3:      movl  (%esi), %eax                  # touch it everywhere
        addl  $0x400000, %esi
        cmpl  $0xC0000000, %esi
        jb    3b
        incl  %ebp                          # and again in another address space
        cld
        movl  $0xC03FF000, %esi
        movl  %ebp, %edi
        shll  $12, %edi
        addl  $0xC0200000, %edi
        movl  $1024, %ecx
        rep movsl
        movl  %ebp, %edx
        shll  $12, %edx
        addl  $0x200000, %edx
        hcall LHCALL_NEW_PGTABLE
        cmpl  $12, %ebp
        jb    2b'''
OUT_OF_MEMORY = 'out of memory allocating pte page'


@pytest.mark.parametrize('fixed', (True, False))
def test_a_modest_guest_does_not_die_of_anothers_appetite(fixed):
    with Host(memory=16 << 20, clock=OneTurn()) as host:
        before, fixes = list(host.mem.refs), Fixes(reclaim=fixed)
        modest, greedy = Workbench(MODEST, host=host, fixes=fixes), Workbench(GREEDY, host=host, fixes=fixes)
        for _ in range(10): modest.turn()
        while greedy.dead is None and host.mem.in_use < host.mem.nframes: greedy.turn()
        modest.turns(200)
        assert modest.dead == ('CRASH: Power down' if fixed else OUT_OF_MEMORY)
        greedy.turns(40_000)
        assert greedy.dead == ('CRASH: Power down' if fixed else OUT_OF_MEMORY)
        for g in modest, greedy: g.close()
        assert host.mem.refs == before


def test_a_guest_that_must_give_its_tables_back_keeps_its_stack():
    "The greedy one has a program that makes system calls: the processor itself pushes on the kernel's stack."
    with Host(memory=9 << 20, clock=OneTurn()) as host:        # less than two slots' worth
        greedy = Workbench('gate 128, call, 0xF, 3\n' + GREEDY.replace('cmpl  $12', 'cmpl  $3') + '''
            movl $0, %edi
            user program
    program: int $0x80
            movl (%edi), %eax
            addl $0x400000, %edi
            cmpl $0x40000000, %edi
            jb   program
            ud2
    call:   incl %ss:count
            iret''' + DATA.format('count: .long 0'), host=host)
        while greedy.dead is None: greedy.turn()
        assert greedy.dead.startswith('unhandled trap 6') and greedy.word(greedy.pa('count')) >= 256


# a recorded life, lived again

def parts(recording): return recording.events.tolist(), recording.changes.tolist(), bytes(recording.data)


def again(recording, *args, **kwargs):
    "Record it once more, as long as it was; what is in it, without the facts."
    with live_again(recording, *args, **kwargs) as machine:
        with Recorder(machine.lg) as tape: machine.run_to(int(recording.events['switch'][-1]))
        return parts(develop(tape, machine.launcher))


@pytest.mark.parametrize('kwargs', (dict(), dict(slice=700, insn_ns=900), dict(fixes=Fixes.seed()), dict(mem='8M', seed=7)))
def test_a_recording_in_virtual_time_can_be_lived_again(kwargs, tmp_path):
    recording = record('first', args='ticks=12 hz=1000', until=400, **kwargs)
    recording.save(tmp_path/'life.lgt')
    assert again(Recording.load(tmp_path/'life.lgt')) == parts(recording)


@pytest.mark.parametrize('kwargs', (dict(), dict(slice=700, insn_ns=900), dict(fixes=Fixes.seed())))
def test_it_is_the_same_life_where_the_engine_shows_only_copies_of_its_state(kwargs, monkeypatch):
    recording = record('first', args='ticks=12 hz=1000', until=400, **kwargs)
    monkeypatch.setattr(engine, 'live_address', lambda uc, f: None)
    assert not CPU(PhysicalMemory(1 << 20)).engine.live
    assert again(recording) == parts(recording)


def test_a_copy_is_not_taken_for_the_live_state(monkeypatch):
    if not engine.State().live: pytest.skip('no engine shows its live state here')
    copies = []
    def find_marker(pointers, f, marker, real=engine.find_marker):
        found = real(pointers, f, marker)
        for place in found: copies.append(ctypes.create_string_buffer(engine.peek(place, 4 * f.size)))
        return found | {ctypes.addressof(copy) for copy in copies}
    monkeypatch.setattr(engine, 'find_marker', find_marker)
    assert all(engine.State().live for _ in range(3)) and copies


def test_also_that_of_another_image_and_of_a_process(tmp_path):
    image = assemble(DECIDES)
    recording = record(image, mem='4M')
    assert again(recording, image) == parts(recording)
    with pytest.raises(ValueError, match='not at hand'): live_again(recording)
    with pytest.raises(ValueError, match='another'): live_again(recording, 'first')
    disk = tmp_path/'disk'
    disk.write_bytes(b'no program')
    with_disk = record(image, mem='4M', initrd=disk)
    assert again(with_disk, image, initrd=disk) == parts(with_disk)
    with pytest.raises(ValueError, match='initrd, which is not at hand'): live_again(with_disk, image)
    with pytest.raises(ValueError, match='without an initrd'): live_again(recording, image, initrd=disk)


def test_a_recording_in_real_time_says_why_not(tmp_path):
    with Launcher('first', args='ticks=3 hz=1000', mem='8M') as launcher:
        with Recorder(launcher.file.lg) as tape: launcher.run(max_seconds=60)
        recording = develop(tape, launcher, args='ticks=3 hz=1000', seed=0, clock='wall')
    with pytest.raises(ValueError, match='wall clock'): live_again(recording)


@pytest.mark.parametrize('change', (dict(args=None), dict(memory='much'), dict(memory=0), dict(seed=[]), dict(fixes=None), dict(slice='x'), dict(slice=0), dict(insn_ns=-5), dict(args=['a', 3])))
def test_a_recording_that_lies_about_its_life_is_refused(change, tmp_path):
    recording = record('first', args='ticks=1', until=5)
    lie = Recording(recording.events, recording.changes, recording.data, recording.meta | change)
    lie.save(tmp_path/'lie.lgt')
    with pytest.raises(ValueError): live_again(Recording.load(tmp_path/'lie.lgt')).close()
