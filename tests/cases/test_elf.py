"Images that other loaders stumble over: what is loaded, and what is said."
import struct

import pytest
from guests import LOAD_AT, PAGE_OFFSET, elf_header, hypercall, make_elf, says

from lguest_lit.launcher.launcher import Launcher, LauncherError, boot

V = LOAD_AT + PAGE_OFFSET
MARK = b'GenuineLguest'
BODY = says(b'hi\n', b'Power down')[52 + 32:]
DIE = MARK + hypercall(99)


def header(kind=1, offset=0, vaddr=V, paddr=LOAD_AT, filesz=0, memsz=0) -> bytes:
    "A program header."
    return struct.pack('<8I', kind, offset, vaddr, paddr, filesz, memsz, 7, 4096)


def with_another(offset, filesz, memsz, paddr=0x300000, kind=1) -> bytes:
    "A good image, with one more program header."
    return elf_header(2) + header(1, 52 + 64, V, LOAD_AT, len(BODY), len(BODY)) + header(kind, offset, paddr + PAGE_OFFSET, paddr, filesz, memsz) + BODY


LOADED = {
    'zeros that lie behind the end of the file': with_another(0x7FFFF000, 0, 4096),
    'an empty segment': with_another(0, 0, 0),
    'an empty segment outside memory': with_another(0, 0, 0, 0x20000000),
    'an empty segment with another page_offset': elf_header(2) + header(1, 52 + 64, V, LOAD_AT, len(BODY), len(BODY)) + header(1, 0, 0, 0) + BODY,
    'a note outside the file': with_another(0x7FFFF000, 4096, 4096, kind=4),
    'an interpreter': with_another(0, 4, 4, kind=3),
}


@pytest.mark.parametrize('name', LOADED)
def test_loaded(name):
    result = boot(LOADED[name], mem='16M', show=False)
    assert (result.exit_code, result.console) == (0, 'hi\n'), result.reason


REFUSED = {
    'overlap': (with_another(52 + 64, len(BODY), len(BODY), LOAD_AT + 0x10), 'segments overlap'),
    'in the zeros': (with_another(52 + 64, 16, 16, LOAD_AT + len(BODY) - 16), 'segments overlap'),
    'the file wraps': (with_another(0xFFFFFFF0, 0x20, 0x20), 'truncated'),
    'memory wraps': (with_another(0, 0, 0xFFFFFFFF), 'outside memory'),
    'headers wrap': (LOADED['an empty segment'][:28] + b'\xff\xff\xff\xff' + LOADED['an empty segment'][32:], 'truncated'),
    'the header is the table': (LOADED['an empty segment'][:28] + bytes(4) + LOADED['an empty segment'][32:], 'program headers at byte 0'),
    'no segments': (elf_header(2048) + bytes(32*2048), 'nothing to load'),
    'the same 2,048 times': (elf_header(2048) + header(1, 52 + 32*2048, V, LOAD_AT, 700_000, 700_000)*2048 + bytes(700_000), 'segments overlap'),
    'on the boot parameters': (make_elf((0, PAGE_OFFSET, DIE)), 'boot parameters'),
    'on the command line': (make_elf((0x1000, PAGE_OFFSET + 0x1000, DIE)), 'command line'),
    'below itself': (make_elf((LOAD_AT, 0x1000, DIE)), 'page_offset 0xfff01000 is in the Switcher'),
    'where the page tables go': (make_elf((0xFFFFF0, PAGE_OFFSET + 0xFFFFF0, MARK + b'\x90'*3)), 'too little'),
    'gzip': (b'\x1f\x8b\x08' + bytes(100), 'gzip: unpack it'),
    'bzImage': (bytes(0x1FE) + b'\x55\xaa\xeb\x66HdrS' + bytes(2000), 'vmlinux'),
    '64 bits': (b'\x7fELF\2\1\1' + bytes(100), '32-bit'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_refused(name):
    data, why = REFUSED[name]
    with pytest.raises(LauncherError, match=why): Launcher(data, mem='16M')


@pytest.mark.parametrize('page_offset', [0, 0x40000000, 0xFF800000])
def test_any_page_offset_will_do(page_offset):
    result = boot(make_elf((LOAD_AT, LOAD_AT + page_offset & 0xFFFFFFFF, DIE)), mem='16M')
    assert (result.exit_code, result.reason) == (1, 'hypercall 99 before LGUEST_INIT')


@pytest.mark.parametrize('cut', [1, 7, 12])
def test_the_marker_may_lie_across_two_segments(cut):
    "The Launcher of 2007 looked for it in memory."
    result = boot(make_elf((LOAD_AT, V, MARK[:cut]), (LOAD_AT + cut, V + cut, MARK[cut:] + hypercall(99))), mem='4M')
    assert result.reason == 'hypercall 99 before LGUEST_INIT'


def test_zeros_between_two_segments_are_no_seam():
    "A segment whose memory goes on behind its bytes is not joined to the next."
    with pytest.raises(LauncherError, match='genuine'):
        Launcher(make_elf((LOAD_AT, V, MARK[:7], 8), (LOAD_AT + 8, V + 8, MARK[7:] + hypercall(99))), mem='4M')
