"""Images whose tables of symbols lie, or are huge. They run like any other, with a tape too; whoever asks for the symbols gets one error,
soon, and with little memory."""
import os
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from guests import says
from lguest_lit.images.build import (IMAGES, LONGEST_NAME, MOST_SYMBOLS, SECTION, SHT_SYMTAB, SYMBOL, SymbolError, image_path, sections, symbols)
from lguest_lit.cli import main
from lguest_lit.watch.trace import load

SECONDS, MEGABYTES = 2, 100


def with_symbols(table, names, **lies):
    "A Guest that says hi, with a table of symbols (an array of SYMBOL) and their names; `lies` are fields of the section headers, e.g. table_size."
    image = bytearray(says(b'hi\n', b'Power down'))
    rows = np.zeros(3, SECTION)
    for n, kind, body in (1, SHT_SYMTAB, table.tobytes()), (2, 3, names):
        rows['type'][n], rows['offset'][n], rows['size'][n] = kind, len(image), len(body)
        image += body
    rows['link'][1] = 2
    for name, value in lies.items():
        row, field = name.split('_')
        rows[field][dict(table=1, names=2)[row]] = value
    struct.pack_into('<I', image, 32, len(image))
    struct.pack_into('<3H', image, 46, 40, 3, 0)
    return bytes(image + rows.tobytes())


def table(count):
    "So many symbols, their names one byte apart from each other."
    made = np.zeros(count, SYMBOL)
    made['name'], made['value'], made['info'] = 1 + np.arange(count) % 50, 0xC0100000 + np.arange(count), 0x12
    return made


def truncated(image): return image[:-50]


FEW = b'\0' + b'a' * 60 + b'\0'
LIES = {
    'a name of four million letters': (with_symbols(table(20_000), b'\0' + b'A' * (4 << 20) + b'\0'), 'longer than 512'),
    'a name without an end': (with_symbols(table(10), b'\0' + b'A' * 100), 'does not end'),
    'more symbols than anybody has': (with_symbols(table(MOST_SYMBOLS + 1), FEW), 'at most 262,144'),
    'names that are too much together': (with_symbols(table(MOST_SYMBOLS), b'\0' + b'a' * 500 + b'\0'), 'names of more than'),
    'a table larger than the file': (with_symbols(table(10), FEW, table_size=0xFFFFFFF0), 'do not fit'),
    'a table behind the end': (with_symbols(table(10), FEW, table_offset=0xFFFFFFF0), 'do not fit'),
    'names larger than the file': (with_symbols(table(10), FEW, names_size=0xFFFFFFFF), 'do not fit'),
    'names behind the end': (with_symbols(table(10), FEW, names_offset=0xFFFFFFF0), 'do not fit'),
    'names in no section': (with_symbols(table(10), FEW, table_link=3), 'there are 3'),
    'names very far away': (with_symbols(table(10), FEW, table_link=0xFFFFFFFF), 'there are 3'),
    'headers that are cut off': (truncated(with_symbols(table(10), FEW)), 'do not fit'),
    'headers of another size': (with_symbols(table(10), FEW).replace(struct.pack('<3H', 40, 3, 0), struct.pack('<3H', 64, 3, 0), 1), 'of 64 bytes'),
    'no ELF file': (b'hello', 'not a 32-bit'),
    'half a header': (says(b'', b'')[:40], 'not a 32-bit'),
    '64 bits': (b'\x7fELF\2\1' + bytes(100), 'not a 32-bit'),
    'nothing': (b'', 'not a 32-bit')}


@pytest.mark.parametrize('name', LIES)
def test_a_table_of_symbols_that_lies(name):
    image, why = LIES[name]
    began = time.process_time()
    with pytest.raises(SymbolError, match=why) as said: symbols(image)
    assert '\n' not in str(said.value) and isinstance(said.value, ValueError) and time.process_time() - began < 4 * SECONDS


def test_tables_that_are_large_and_true():
    "Every symbol of a large kernel, with a name each."
    count = 100_000
    names = b'\0' + b''.join(b'symbol_%06d\0' % n for n in range(count))
    made = table(count)
    made['name'] = 1 + 14 * np.arange(count)
    found = symbols(with_symbols(made, names))
    assert len(found) == count and found['symbol_099999'] == 0xC0100000 + 99_999
    longest = b'\0' + b'x' * LONGEST_NAME + b'\0'
    one = table(1)
    assert symbols(with_symbols(one, longest)) == {'x' * LONGEST_NAME: 0xC0100000}


def test_images_without_symbols():
    assert symbols(says(b'hi\n', b'Power down')) == {} == symbols(with_symbols(table(0), b'\0'))
    assert symbols(with_symbols(table(10), FEW, table_type=1)) == {}


@pytest.mark.parametrize('name', IMAGES)
def test_our_own_images_have_theirs(name):
    "As the library that knows ELF reads them."
    from elftools.elf.elffile import ELFFile
    with open(image_path(name), 'rb') as file:
        entries = ELFFile(file).get_section_by_name('.symtab').iter_symbols()
        theirs = {(s['st_value'], s.name) for s in entries if s.name and s['st_info']['type'] != 'STT_FILE'}
    assert list(symbols(image_path(name)).items()) == [(name, at) for at, name in sorted(theirs)]


@pytest.mark.parametrize('name', [name for name in LIES if len(LIES[name][0]) > 10_000])
@pytest.mark.parametrize('taped', [False, True])
def test_an_image_that_lies_runs_like_any_other(name, taped, tmp_path, capfdbinary):
    "The tables are nothing to the Guest. On tape there is one line about them, and no names."
    (tmp_path/'lie.elf').write_bytes(LIES[name][0])
    tape = ['--trace', str(tmp_path/'a.lgt')] if taped else []
    assert main(['run', *tape, str(tmp_path/'lie.elf')]) == 0
    out, err = capfdbinary.readouterr()
    assert out == b'hi\n' and err.count(b'\n') == taped
    if taped:
        assert err.startswith(b'lguest: ') and b'lie.elf: a recording without its symbols' in err
        assert load(tmp_path/'a.lgt').meta['symbols'] == {}


MEASURE = r'''import re, sys, time
from lguest_lit.images.build import SymbolError, symbols
def peak(): return int(re.search(r'VmHWM:\s+(\d+)', open('/proc/self/status').read())[1]) >> 10
base, began = peak(), time.process_time()
try: symbols(sys.argv[1])
except SymbolError: print(peak() - base, time.process_time() - began)'''


@pytest.mark.skipif(not os.path.exists('/proc/self/status'), reason='nobody here says how much memory it took')
@pytest.mark.parametrize('name', ['a name of four million letters', 'more symbols than anybody has', 'names that are too much together'])
def test_a_lie_costs_little(name, tmp_path):
    "Less than two seconds on a quiet machine, and less than 100 MB."
    (tmp_path/'lie.elf').write_bytes(LIES[name][0])
    done = subprocess.run([sys.executable, '-c', MEASURE, str(tmp_path/'lie.elf')], capture_output=True, text=True, timeout=120)
    megabytes, seconds = map(float, done.stdout.split())
    assert megabytes < MEGABYTES and seconds < 4 * SECONDS


@settings(max_examples=int(os.environ.get('LGUEST_LIT_EXAMPLES', 300)), deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.sampled_from(['header', 'sections', 'symbols', 'anywhere']), st.floats(0, 1),
                          st.integers(0, 0xFFFFFFFF) | st.integers(0, 300)), min_size=1, max_size=4), st.floats(0, 1))
def test_any_damage(damages, cut):
    "Whatever stands in an image: symbols, or the one error."
    image = bytearray(image_path('first').read_bytes())
    at, = struct.unpack_from('<I', image, 32)
    rows = sections(bytes(image))
    row = rows[rows['type'] == SHT_SYMTAB][0]
    spans = dict(header=(0, 52), sections=(at, len(rows) * 40), symbols=(int(row['offset']), int(row['size'])), anywhere=(0, len(image) - 4))
    for where, share, value in damages:
        begin, size = spans[where]
        struct.pack_into('<I', image, begin + int(share * (size - 4)), value)
    if cut < 0.1: del image[int(cut * 10 * len(image)):]
    began = time.process_time()
    try: found = symbols(bytes(image))
    except SymbolError as e: assert '\n' not in str(e)
    else: assert all(type(at) is int and len(name) <= LONGEST_NAME for name, at in found.items())
    assert time.process_time() - began < 4 * SECONDS
