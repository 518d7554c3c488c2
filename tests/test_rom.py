"The ROM machine and its command line: every end, and every mistake in one line."
import os
import signal
import struct
import subprocess
import sys
import time

import pytest
from lguest_lit.i386.rom import ENDED, HALTED, SHUT_DOWN, TIME, RomMachine, main, run_rom

HELLO = 'ba9001' 'b048ee' 'b069ee'       # mov dx, 0x190; mov al, 'H'; out dx, al; mov al, 'i'; out dx, al
END = 'e6f4' 'f4'                        # out 0xf4, al; hlt


def rom(code: str, size=0x10000) -> bytes:
    "16-bit code at F000:0000, and a jump to it at the reset vector."
    image = bytearray(b'\x90' * size)
    at = size - 0x10000
    image[at:at + len(bytes.fromhex(code))] = bytes.fromhex(code)
    image[-16:-11] = b'\xea' + struct.pack('<HH', 0, 0xF000)
    return bytes(image)


@pytest.fixture
def image(tmp_path):
    "Write a ROM, and have its path."
    def write(code, size=0x10000):
        path = tmp_path/'rom.bin'
        path.write_bytes(rom(code, size))
        return str(path)
    return write


ENDS = {'out 0xf4': (END, ENDED), 'hlt': ('f4', HALTED), 'loop': ('ebfe', TIME), 'sti; hlt': ('fbf4', TIME), 'ud2': ('0f0b', SHUT_DOWN)}


@pytest.mark.parametrize('size', (0x10000, 0x20000))
@pytest.mark.parametrize('name', ENDS)
def test_ends(image, name, size):
    code, status = ENDS[name]
    assert main([image(code, size), '--max-seconds', '0.3']) == status


def test_128_kb_lie_at_e0000_and_at_the_top(image):
    "mov ax, 0xe000; mov ds, ax; mov al, [0]; out ...: the first byte of the ROM."
    whole = bytearray(rom('b800e0' '8ed8' 'a00000' 'ba9001' 'ee' + END, 0x20000))
    whole[0] = 0x5A
    machine = RomMachine(bytes(whole), out := __import__('io').BytesIO(), 0x190)
    assert run_rom(machine, 5) == ENDED and out.getvalue() == b'\x5a'
    assert machine._fetch(0xFFFE0000, 1) == b'\x5a' == machine._fetch(0xE0000, 1)


def test_the_port_goes_to_standard_output(image):
    done = subprocess.run([sys.executable, '-m', 'lguest_lit.i386', image(HELLO + END), '--out-port', '0x190'], capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b'Hi', b'')


def test_the_port_goes_to_a_file(image, tmp_path, capfd):
    assert main([image(HELLO + END), '--out-port', f'400={tmp_path}/log']) == ENDED
    assert (tmp_path/'log').read_bytes() == b'Hi' and capfd.readouterr() == ('', '')


def test_a_shutdown_says_so(image, capfd):
    assert main([image('0f0b')]) == SHUT_DOWN
    assert capfd.readouterr().err.endswith('the processor shut down: triple fault\n')


def test_interrupts_by_port():
    "In protected mode: 0x192 raises the interrupt whose number is written, 0x193 an NMI."
    handler = bytes.fromhex('f4')
    for port, value, vector in ((0x192, 0x21, 0x21), (0x193, 0, 2)):
        machine = RomMachine(rom('f4'))
        machine.port_out(port, 1, value)
        assert (machine.irqs, machine.nmi) == (([vector], False) if port == 0x192 else ([], True)), handler


MISTAKES = {
    'no ROM': ['--max-seconds', '1'], 'no such file': ['nowhere.bin'], 'a folder': ['.'], 'a port': ['{}', '--out-port', 'xyz'],
    'a large port': ['{}', '--out-port', '0x10000'], 'seconds': ['{}', '--max-seconds', 'soon'], 'negative seconds': ['{}', '--max-seconds=-1'],
    'not a number': ['{}', '--max-seconds', 'nan'], 'no place for the log': ['{}', '--out-port', '0x190=/nowhere/log'], 'size': ['setup.py'],
    'an option': ['{}', '--fast'],
}


@pytest.mark.parametrize('name', MISTAKES)
def test_mistakes_get_one_line(image, name, capfd, root, monkeypatch):
    monkeypatch.chdir(root)
    arguments = [argument.format(image(END)) for argument in MISTAKES[name]]
    with pytest.raises(SystemExit) as left: main(arguments)
    out, err = capfd.readouterr()
    assert left.value.code == 2 and not out and err.startswith('python -m lguest_lit.i386: ') and err.count('\n') == 1
    wanted = {'no ROM': 'ROM', 'size': 'setup.py: a ROM has 65536 or 131072 bytes, not ', 'no such file': 'nowhere.bin: No such file'}
    assert wanted.get(name, arguments[-1].split('=')[-1]) in err


def test_help_has_an_example_and_the_exit_statuses(capsys):
    with pytest.raises(SystemExit): main(['--help'])
    text = capsys.readouterr().out
    assert 'example:\n  python -m lguest_lit.i386' in text and all(f'\n  {n:<3}' in text for n in (0, 2, 3, 4, 124))


def test_control_c(image):
    "Also of a ROM that does nothing but loop."
    running = subprocess.Popen([sys.executable, '-m', 'lguest_lit.i386', image('ebfe')], stderr=subprocess.PIPE, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    time.sleep(3)
    os.kill(running.pid, signal.SIGINT)
    assert running.wait(20) == 130 and running.stderr.read() == b''
