"The program `lguest` from outside: run it to its end, or start it and wait for what it does."
import contextlib
import subprocess
import sys
import time

from guests import dma, guest, hypercall, string_at

PATIENCE = 60       # seconds, for what never came where it is a fault; a busy machine takes its time
SPIN = b'\xeb\xfe'  # jmp .


def lguest(*args, timeout=PATIENCE, **kwargs):
    "Run `python -m lguest_lit` to its end."
    kwargs = dict(stdin=subprocess.DEVNULL, capture_output=True) | kwargs
    return subprocess.run([sys.executable, '-m', 'lguest_lit', *map(str, args)], timeout=timeout, **kwargs)


@contextlib.contextmanager
def started(*args, **kwargs):
    "Start `python -m lguest_lit`; whatever happens, it is gone afterwards."
    kwargs = dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) | kwargs
    run = subprocess.Popen([sys.executable, '-m', 'lguest_lit', *map(str, args)], **kwargs)
    try: yield run
    finally:
        run.kill()
        run.wait()
        for stream in (run.stdin, run.stdout, run.stderr):
            if stream: stream.close()


def until(condition, seconds=PATIENCE):
    "Wait until `condition()` is true, and return what it is; AssertionError if it does not become so."
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, 'it did not come'
        time.sleep(0.005)
    return found


def mapped(pid: int, name: str) -> bool:
    "Has this process a library of that name?"
    with contextlib.suppress(OSError): return name in open(f'/proc/{pid}/maps').read()
    return False


def refused(done, *words):
    "Exit code 2, nothing on standard output, and one line `lguest: ...` with these words in it."
    err = done.stderr.decode()
    assert done.returncode == 2 and not done.stdout, (done.returncode, err)
    assert err.startswith('lguest: ') and 'Traceback' not in err, err
    for word in words: assert str(word) in err.splitlines()[0], err


def sends(text: bytes, times: int, then: bytes = hypercall(2, string_at(2))) -> bytes:
    "An image: a Guest that writes `text` on its console so many times, and then powers off, unless it has something else to do."
    send = hypercall(13, 0, string_at(0))
    again = b'\x4e\x0f\x85' + (-(len(send) + 7)).to_bytes(4, 'little', signed=True)       # dec %esi; jnz
    return guest(b'\xbe' + times.to_bytes(4, 'little') + send + again + then, (dma((string_at(1), len(text))), text, b'Power down\0'))


def up_and(code: bytes) -> bytes:
    "An image: a Guest that says `up`, and does this."
    return sends(b'up\n', 1, code)


FLOOD = sends(b'x' * 255 + b'\n', 0xFFFFFFFF)


ECHO = '''
    gate 33, irq
    hcall LHCALL_BIND_DMA, $0, $ind - PAGE_OFFSET, $0x101
    movl $0x200, lguest_data
    movl $0, lguest_data + 4
1:  hcall LHCALL_HALT
    jmp 1b
irq:
    movw ind, %ax
    testw %ax, %ax
    jz 2f
    movw %ax, outd + 68
    hcall LHCALL_SEND_DMA, $0, $outd - PAGE_OFFSET
    cmpb $'!', buf                      # whoever wants it to end says !
    jne 3f
    crash power_down
3:  movl $0, ind
2:  movl $0x200, lguest_data
    addl $12, %esp
    jmp 1b
    .data
    .balign 4
ind: .long 0
    .long buf - PAGE_OFFSET
    .fill 15, 4, 0
    .word SIZE
    .fill 15, 2, 0
outd: .long 0
    .long buf - PAGE_OFFSET
    .fill 15, 4, 0
    .word 0
    .fill 15, 2, 0
    .balign 64
buf: .fill 256, 1, 0
    .section .head, "ax"
'''
