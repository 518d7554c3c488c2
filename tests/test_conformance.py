"""118 small programs against what another machine has answered.

Each tests/conformance/NAME.asm is a ROM of 64 KB (env.inc has what they share): it provokes traps, logs what each handler finds,
and writes the log to port 0x190, as words and then `END`. expected.json has the words that Bochs 2.7 has logged, or "triple" for
a shutdown. What our processor does not do like that stands in the tables of nbs/1_preparation/66_conformance.ipynb, and these
tests hold the tables to the truth."""
import io
import json
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from lguest_lit.i386.rom import SHUT_DOWN, RomMachine, run_rom

HERE = Path(__file__).with_name('conformance')
EXPECTED = json.loads((HERE/'expected.json').read_text())
CHAPTER = HERE.parents[1]/'nbs/1_preparation/66_conformance.ipynb'
EVENT = 0x7A9                        # begins what a handler logs

needs_nasm = pytest.mark.skipif(not shutil.which('nasm'), reason='nasm is not installed')


def listed() -> set[str]:
    "The programs in the first column of the chapter's tables."
    text = '\n'.join(''.join(cell['source']) for cell in json.loads(CHAPTER.read_text())['cells'] if cell['cell_type'] == 'markdown')
    return {name for row in re.findall(r'^\| (`[^|]*)\|', text, re.M) for name in re.findall(r'`(\w+)`', row)}


DIFFERENT = listed()


def events(words) -> list:
    "Cut a log into events. The upper halves of pushed DS and ES are nobody's."
    words, found = list(words), [[]]
    for i in [i for i, word in enumerate(words) if word == EVENT]:
        words[i + 9:i + 11] = [word & 0xFFFF for word in words[i + 9:i + 11]]
    for word in words:
        if word == EVENT: found.append([])
        found[-1].append(f'{word:x}')
    return found


@pytest.fixture(scope='session')
def roms(tmp_path_factory) -> Path:
    "All programs, assembled."
    folder = tmp_path_factory.mktemp('roms')
    for source in HERE.glob('*.asm'):
        subprocess.run(['nasm', '-f', 'bin', source.name, '-o', folder/f'{source.stem}.bin'], cwd=HERE, check=True)
    return folder


def outcome(rom: bytes, patience: float):
    "What a program logs, as events, or how else it ends."
    log = io.BytesIO()
    status = run_rom(RomMachine(rom, log, 0x190), patience)
    if status == SHUT_DOWN: return 'triple'
    said = log.getvalue()
    return events(struct.unpack(f'<{len(said) // 4}I', said[:-3])) if said.endswith(b'END') else f'no END, exit status {status}'


@needs_nasm
@pytest.mark.parametrize('name', sorted(EXPECTED))
def test_program(roms, name):
    "As expected, or different and listed."
    expected = 'triple' if 'triple' in EXPECTED[name] else events(EXPECTED[name])
    seen = outcome((roms/f'{name}.bin').read_bytes(), 2 if name in DIFFERENT else 30)
    if name in DIFFERENT: assert seen != expected, f'{name} is as expected now: take it from the table in {CHAPTER.name}'
    else: assert seen == expected


def test_every_program_has_an_answer():
    assert {path.stem for path in HERE.glob('*.asm')} == set(EXPECTED) and DIFFERENT < set(EXPECTED)


def test_events_are_cut_where_they_begin():
    assert events([1, EVENT, 2]) == [['1'], ['7a9', '2']]
    assert events([EVENT] + [0x12340010] * 12)[1][9:12] == ['10', '10', '12340010']
