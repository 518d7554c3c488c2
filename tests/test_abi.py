"The agreement between a Guest's kernel and its Host is a value: another one, and the Host follows, everywhere."
import ctypes
from dataclasses import replace

import pytest

from lguest_lit.host.hypercalls import JUNE_2007, LHCALL
from lguest_lit.host.lg import LguestData
from lguest_lit.launcher.workbench import Workbench
from lguest_lit.pictures.hypercall_ring import RingLog
from lguest_lit.watch.rewind import keep_guest, put_guest
from lguest_lit.watch.trace import WHAT, Recorder, develop


class Slot(ctypes.LittleEndianStructure):
    _fields_ = [(name, ctypes.c_uint32) for name in ('eax', 'ebx', 'ecx', 'edx')]


class Data(ctypes.LittleEndianStructure):
    "The time before the ring, a shorter ring, other places."
    _fields_ = [(name, ctypes.c_uint32) for name in ('irq_enabled', 'blocked_interrupts', 'time', 'sub', 'cr2')]
    _fields_ += [('hcall_status', ctypes.c_uint8 * 8), ('hcalls', Slot * 8)]
    _fields_ += [(name, kind) for name, kind in LguestData._fields_ if name in ('reserve_mem', 'guestid', 'tsc_khz', 'noirq_start', 'noirq_end')]


MADE_UP = replace(JUNE_2007, name='made up', data=Data, calls={n: f for n, f in JUNE_2007.calls.items() if n != LHCALL.GET_WALLCLOCK})
AT = 0x200000
BOARD = f'''
        movl  $0xFFFFFFFF, 0xC0200000 + {MADE_UP.status}
        movl  $0xFFFFFFFF, 0xC0200000 + {MADE_UP.status + 4}
        hcall LHCALL_LGUEST_INIT, ${AT}
'''


def queue(place, eax, edx=0, ebx=0, ecx=0):
    at = 0xC0000000 + AT + MADE_UP.slots + 16 * place
    words = '\n'.join(f'movl ${word}, {at + 4 * n}' for n, word in enumerate((eax, ebx, ecx, edx)))
    return f'{words}\nmovb $0, {0xC0000000 + AT + MADE_UP.status + place}\n'


@pytest.fixture
def later(monkeypatch): monkeypatch.setattr('lguest_lit.host.lguest_user.JUNE_2007', MADE_UP)


def test_what_june_2007_was():
    assert (JUNE_2007.places, JUNE_2007.status, JUNE_2007.slots, ctypes.sizeof(JUNE_2007.data)) == (64, 12, 76, 1120)
    assert sorted(JUNE_2007.calls) == sorted(LHCALL)


def test_the_host_follows_the_guests_abi(later):
    with Workbench(BOARD + queue(0, LHCALL.SET_STACK, 0x69, 0xC0300000, 1) + queue(1, LHCALL.TS, 8) + 'hcall LHCALL_FLUSH_ASYNC\nmovl 0x7000, %eax',
                   bare=True) as g:
        g.turns(40)
        lg = g.lg
        assert (lg.ss1, lg.esp1, lg.stack_pages, lg.ts, lg.next_hcall) == (0x69, 0xC0300000, 1, 8, 2)
        assert g.word(AT + Data.reserve_mem.offset) == 4 << 20 and bytes(g.mm.ram[AT + Data.hcall_status.offset:][:8]) == b'\xff' * 8
        assert g.word(AT + Data.cr2.offset) == 0x7000


def test_the_ring_has_as_many_places_as_it_says(later):
    text = BOARD + ''.join(queue(n % 8, LHCALL.TS, n) + ('hcall LHCALL_FLUSH_ASYNC\n' if n % 8 == 7 else '') for n in range(10))
    with Workbench(text + 'hcall LHCALL_FLUSH_ASYNC', bare=True) as g:
        g.turns(40)
        assert g.lg.next_hcall == 2 and g.lg.ts == 9
        assert g.stats.hypercalls_async == {LHCALL.TS: 10}


def test_a_call_that_it_has_not(later):
    with Workbench(BOARD + 'hcall LHCALL_GET_WALLCLOCK', bare=True) as g:
        g.turns(40)
        assert g.dead == f'Bad hypercall {LHCALL.GET_WALLCLOCK}\n'


def test_who_watches_follows_too(later):
    with Workbench(BOARD + queue(0, LHCALL.SET_STACK, 0x69, 0xC0300000, 1) + 'hcall LHCALL_FLUSH_ASYNC\nmovl 0x7000, %eax', bare=True) as g:
        for _ in range(3): g.turn()
        assert g.data is not None
        with Recorder(g.lg) as tape, RingLog(g) as log:
            g.turns(40)
        recording = develop(tape, g)
        told = {where for what, where, *_ in recording.changes.tolist() if what == WHAT['memory']}
        assert recording.meta['abi'] == 'made up' and {AT + Data.cr2.offset, AT + MADE_UP.status} <= told
        assert any(what == 'The Guest fills place 0: SET_STACK(0x69, 0xc0300000, 0x1)' for _, what, *_ in log.moments)
        put_guest(g, keep_guest(g))
        assert isinstance(g.data, Data)
