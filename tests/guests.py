"Guests without a compiler: a few bytes of machine code in an ELF file made by hand."
import struct

from lguest_lit.host.hypercalls import LHCALL

PAGE_OFFSET, LOAD_AT = 0xC0000000, 0x100000
DATA_AT = 0x1000    # lguest_data of a Guest made by `initialise`, from the start of the image
DATA_SIZE, STATUS_AT = 1120, 12
TRAP = b'\xcd\x1f'  # int $0x1f
NO_CALL = max(LHCALL) + 1  # the first number that is no hypercall


def elf_header(segments: int, **changes) -> bytes:
    "An ELF header for an i386 executable; `changes` spoil it: magic, bits, order, kind, machine, phoff, phentsize, phnum."
    f = dict(magic=b'\x7fELF', bits=1, order=1, kind=2, machine=3, entry=PAGE_OFFSET + LOAD_AT, phoff=52,
             phentsize=32, phnum=segments) | changes
    return f['magic'] + struct.pack('<5B7x2H5I6H', f['bits'], f['order'], 1, 0, 0, f['kind'], f['machine'], 1, f['entry'],
                                    f['phoff'], 0, 0, 52, f['phentsize'], f['phnum'], 40, 0, 0)


def make_elf(*segments, **changes) -> bytes:
    "An ELF image of segments (paddr, vaddr, bytes[, memsz]); `changes` as for elf_header."
    at, headers, body = 52 + 32*len(segments), b'', b''
    for paddr, vaddr, data, *memsz in segments:
        headers += struct.pack('<8I', 1, at + len(body), vaddr, paddr, len(data), memsz[0] if memsz else len(data), 7, 4096)
        body += data
    return elf_header(len(segments), **changes) + headers + body


def tiny_elf(code_bytes: bytes, page_offset: int = PAGE_OFFSET, marker: bytes = b'GenuineLguest') -> bytes:
    "An image of one segment at 1 MB: the marker, then `code_bytes`, where the Guest starts."
    return make_elf((LOAD_AT, LOAD_AT + page_offset & 0xFFFFFFFF, marker + code_bytes))


def hypercall(number: int, edx: int = 0, ebx: int = 0, ecx: int = 0) -> bytes:
    "Machine code: load the registers, and call the Host."
    return (b'\xba' + struct.pack('<I', edx) + b'\xbb' + struct.pack('<I', ebx) + b'\xb9' + struct.pack('<I', ecx)
            + b'\xb8' + struct.pack('<I', number) + TRAP)


def guest(code_bytes: bytes, strings: tuple = ()) -> bytes:
    """An image that introduces itself (LGUEST_INIT) and then runs `code_bytes`. Behind the code, each of `strings` lies at
    `string_at(n)`, a Guest-physical address; lguest_data lies at LOAD_AT + DATA_AT."""
    image = bytearray(DATA_AT + 4096 + 256*len(strings))
    head = b'GenuineLguest' + hypercall(1, LOAD_AT + DATA_AT) + code_bytes
    assert len(head) <= DATA_AT
    image[:len(head)] = head
    image[DATA_AT + STATUS_AT:DATA_AT + STATUS_AT + 64] = b'\xff'*64
    for n, text in enumerate(strings):
        assert len(text) <= 256
        image[string_at(n) - LOAD_AT:string_at(n) - LOAD_AT + len(text)] = text
    return make_elf((LOAD_AT, LOAD_AT + PAGE_OFFSET, bytes(image)))


def string_at(n: int) -> int:
    "Guest-physical address of a `guest`'s n-th string."
    return LOAD_AT + DATA_AT + 4096 + 256*n


def dma(*sections) -> bytes:
    "An lguest_dma of (address, length) sections; 100 bytes."
    at = [a for a, _ in sections] + [0]*(16 - len(sections))
    size = [n for _, n in sections] + [0]*(16 - len(sections))
    return struct.pack('<I16I16H', 0, *at, *size)


def says(text: bytes, then: bytes) -> bytes:
    "A Guest that writes `text` (up to 256 bytes) on its console and crashes with the words `then`."
    code = hypercall(13, 0, string_at(0)) + hypercall(2, string_at(2))
    return guest(code, (dma((string_at(1), len(text))), text, then + b'\0'))
