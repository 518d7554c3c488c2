"""The Host on which cases are tried, and what must be true afterwards: `House.try_case` returns what has happened, or
raises `Finding`."""
import errno
import io
import json
import re
import struct
import tempfile
import threading
import time
import traceback
import zipfile
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from guests import dma, hypercall, string_at
from guests import guest as tiny_guest
from test_hostile_guests import COUNTER, GATED, MEM, House as Hostile
from test_hostile_guests import image as hostile_image

import lguest_lit
from lguest_lit.images.build import image_path
from lguest_lit.host.clock import WallClock
from lguest_lit.launcher.launcher import Launcher, LauncherError
from lguest_lit.host.lg import Fixes, LauncherMemory
from lguest_lit.host.lguest_user import LguestFile
from lguest_lit.pictures.timeline import Timeline
from lguest_lit.watch.trace import (Recorder, TraceError, changes_frame, develop, export, load, record, registers_at, shadow_at,
                              to_bytes)

MAX_WAIT = 1.0                        # seconds of processor time from a stop being asked for to its coming true
PATIENCE, WALL = 2.0, 0.03            # seconds until what takes long is stopped; a Guest that runs by the wall's clock
MAX_FILE = 10.0                       # seconds of processor time for a damaged file
INTRODUCTION = 3 + len(GATED)          # hypercalls of a hostile Guest before its deeds
PACKAGE = str(Path(lguest_lit.__file__).parent)
FIXES = dict(lguest=Fixes(), seed=Fixes.seed())
ERRNOS = {getattr(errno, name) for name in 'EINVAL EFAULT EBUSY ENOENT EPERM EAGAIN EINTR ENOSPC ENOMEM'.split()}


class Finding(Exception):
    "Something is wrong. `kind` is counted; `where`, the same for all cases with one cause; the text is for whoever mends it."
    def __init__(self, kind: str, where: str, text: str = ''):
        super().__init__(f'{kind}: {where}\n{text}'.rstrip())
        self.kind, self.where, self.text = kind, where, text


def words_of(text: str) -> str: return re.sub(r'-?0x[0-9a-f]+|-?\d+', '#', text)


def exception(e: BaseException) -> Finding:
    "An exception that came out of the Host: the innermost of our own functions tells causes apart."
    frames = [f for f in traceback.extract_tb(e.__traceback__) if f.filename.startswith(PACKAGE)]
    place = f'{Path(frames[-1].filename).stem}.{frames[-1].name}' if frames else 'the test'
    text = '' if isinstance(e, MemoryError) else words_of(str(e))[:100]
    return Finding('exception', f'{type(e).__name__} in {place}: {text}', ''.join(traceback.format_exception(e)))


def strict(read):
    "The Launcher takes a LookupError for a DMA outside memory; one that came out of the Host is none."
    def reads(*args):
        try: return read(*args)
        except LookupError as e: raise exception(e) from None
    return reads


class Ticking(WallClock):
    "The wall's clock, in the place of the one that holds hostile Guests on a leash."
    def hold(self, launcher, slice, seed): pass


class Stopper:
    "Stops a Guest after so many seconds from another thread, and knows how much processor time that took."
    def __init__(self, stop, seconds: float):
        self.stop, self.asked, self.clock = stop, None, time.pthread_getcpuclockid(threading.get_ident())
        self.timer = threading.Timer(seconds, self.ask)

    def ask(self):
        self.asked = time.clock_gettime(self.clock)
        self.stop('enough', 124)

    def __enter__(self):
        self.timer.start()
        return self

    def __exit__(self, kind, *_):
        now = time.clock_gettime(self.clock)
        self.timer.cancel()
        self.timer.join()
        if kind is None and self.asked and now - self.asked > MAX_WAIT:
            raise Finding('wait', 'a stop took too long', f'{now - self.asked:.1f} s')


class House(Hostile):
    "The house of test_hostile_guests, with a peaceful Guest in it: whatever a case does, it must be as before."

    def __init__(self):
        super().__init__()
        self.leash, self.recording = self.host.clock, None
        self.memory = np.frombuffer(self.host.mem.u8, np.uint64).reshape(-1, 512)       # one row a page
        self.before = self.memory.copy()

    def try_case(self, case: dict, taped: bool) -> dict:
        "What became of a case: the same things whether there was a tape or not."
        return getattr(self, f'try_{case["target"]}', self.try_guest)(case, taped)

    # --- what must be true ------------------------------------------------------------------------------------------------

    def watched(self, do, fixes='lguest', clock=None):
        "Do something with a Guest, and look at everything else."
        host, mem = self.host, self.host.mem
        self.taken.clear()
        host.rng.seed(0)
        host.clock = clock or self.leash
        self.leash.time = 1_181_272_434_000_000_000
        refs, registers = list(mem.refs), host.cpu.registers()
        self.before[:] = self.memory
        try: result = do()
        finally:
            if clock: clock.close()
            host.clock = self.leash
            self.leash.hold(None, 20_000, 0)
            host.signal_pending = False
        self.compare()
        if mem.refs != refs and fixes != 'seed':                # the seed leaks a page in SET_PTE, by design
            wrong = [(hex(n), a, b) for n, (a, b) in enumerate(zip(refs, mem.refs)) if a != b]
            raise Finding('leak', 'references', f'frame, before, after: {wrong[:20]}')
        if host.guests.count(None) != 15 or host.dma_bindings or self.leash.alarms:
            raise Finding('leak', 'a slot, a DMA binding or an alarm', f'{host.guests} {self.leash.alarms}')
        now, kept = host.cpu.registers(), 'esp cs ss ds es cr3 cr4'.split()
        if any(now[name] != registers[name] for name in kept):
            raise Finding('foreign bytes', "the Host's registers", f'{registers}\n{now}')
        self.visit()
        return result

    def compare(self):
        "Only frames that were handed out in the meantime, and what the Host itself changes, may be others than before."
        changed, words = set(np.flatnonzero((self.memory != self.before).any(1)).tolist()) - self.taken, []
        for pfn in sorted(changed):
            now, then = (bytearray(memory[pfn].tobytes()) for memory in (self.memory, self.before))
            for at, n in self.excluded():
                if at >> 12 == pfn: now[at & 0xFFF:(at & 0xFFF) + n] = then[at & 0xFFF:(at & 0xFFF) + n] = bytes(n)
            words += [f'{(pfn << 12) + n:#x}: {then[n:n + 4].hex()} {now[n:n + 4].hex()}'
                      for n in range(0, 4096, 4) if now[n:n + 4] != then[n:n + 4]]
        if words: raise Finding('foreign bytes', 'memory outside the Guest', f'{len(words)} words: {" ".join(words[:20])}')

    def worn(self) -> bool:
        "Has the seed leaked so much that Guests would begin to die of it?"
        return self.host.mem.nframes - self.host.mem.in_use < 3*(MEM >> 12)//2

    # --- Guests -----------------------------------------------------------------------------------------------------------

    def try_guest(self, case: dict, taped: bool) -> dict:
        deeds = [bytes.fromhex(deed) for deed in case['deeds']]
        return self.life(hostile_image(deeds, bytes.fromhex(case['kinds']), case['introduced']), case, taped)

    def try_images(self, case: dict, taped: bool) -> dict:
        base = image_path(case['base']).read_bytes() if case['base'] != 'tiny' else tiny_guest(
            hypercall(13, 0, string_at(0)) + hypercall(2, string_at(2)), (dma((string_at(1), 5)), b'hello', b'end\0'))
        image = changed(base, case['steps'])
        began = time.process_time()
        try: return self.life(image, case, taped, '2M' if case['base'] != 'first' else '4M')
        except LauncherError as e:
            if time.process_time() - began > MAX_FILE: raise Finding('wait', 'an image was refused too late', str(e)) from None
            return dict(reason=str(e), shape=words_of(str(e)))

    def life(self, image: bytes, case: dict, taped: bool, mem=MEM) -> dict:
        "A Guest from its first instruction to its last, or until it has had enough."
        wall, fixes = case.get('clock') == 'wall', case.get('fixes', 'lguest')
        return self.watched(lambda: self.live(image, case, taped, mem, wall, fixes), fixes, Ticking() if wall else None)

    def live(self, image, case, taped, mem, wall, fixes) -> dict:
        host = self.host
        with ExitStack() as stack:
            launcher = stack.enter_context(Launcher(image, mem=mem, args='ticks=3 quiet', host=host, fixes=FIXES[fixes],
                                                    warn=lambda text: None))
            lg, stats = launcher.file.lg, launcher.stats
            launcher.file.read = strict(launcher.file.read)
            host.clock.hold(launcher, case['slice'], case['noise'])
            tape = stack.enter_context(Recorder(lg)) if taped else None
            with Stopper(launcher.stop, WALL if wall else PATIENCE) as stopper: result = launcher.run()
            if lg.dead is None and case.get('typed'):
                launcher.typed.append(bytes.fromhex(case['typed']))
                try: launcher.handle_input()
                except LookupError: pass                          # a DMA outside memory: the Launcher gives up
            if lg.dead is not None and launcher.file.read(1023) != lg.dead.encode('latin-1')[:1022] + b'\0':
                raise Finding('exception', 'last words', repr(lg.dead))
            begun = int.from_bytes(launcher.mm.ram[COUNTER:COUNTER + 4], 'little')
            deeds = min(begun, len(case.get('deeds', ())))
            if tape and len(case.get('deeds', case.get('steps'))) % 4 == 0: check_tape(tape, launcher)
            counts = stats.as_dict()
            calls = sum(n for kind in ('sync', 'async') for n in counts['hypercalls'].get(kind, {}).values())
            cut = wall or stopper.asked                               # when, is another matter each time
            said = {} if cut else dict(reason=result.reason, console=result.console, counts=counts)
            traps = sorted(vector for vector, n in counts['traps'].items() if n)
            calls = max(0, calls - INTRODUCTION) if case.get('introduced') else calls
            return dict(**said, hypercalls=calls, deeds=deeds, shape=f'{words_of(result.reason)} {traps}')

    # --- /dev/lguest ------------------------------------------------------------------------------------------------------

    def try_protocol(self, case: dict, taped: bool) -> dict:
        return self.watched(lambda: self.converse(case, taped), case['fixes'])

    def converse(self, case: dict, taped: bool) -> dict:
        "Each request, and what came of it."
        host, answers = self.host, []
        mm = LauncherMemory(host.mem, MEM//4096 + 1)
        asks = hypercall(12, 0, string_at(3), 1 << 8 | 1) + hypercall(13, 4, string_at(0)) + b'\xeb\xfe'
        image = tiny_guest(asks, (dma((string_at(1), 5)), b'hello', b'', dma((string_at(1), 5))))
        mm.write(0x100000, image[84:])
        for n in range(512): mm.write(MEM - 0x2000 + 4*n, struct.pack('<I', n << 12 | 7))
        mm.write(MEM - 0x1000 + 4*768, struct.pack('<I', MEM - 0x2000 | 7))
        device = LguestFile(host, task='owner', mm=mm, fixes=FIXES[case['fixes']])
        def stop(*_):
            host.signal_pending = True
            host.kick()
        with Stopper(stop, PATIENCE) as stopper, ExitStack() as tapes:
            try:
                for step in case['steps']:
                    if stopper.asked: break                       # what it stops is one request
                    self.leash.hold(SimpleNamespace(stop=stop, host=host), 1000, 0)
                    try: answers.append(repr(self.request(device, mm, *step)))
                    except OSError as e:
                        if e.errno not in ERRNOS: raise
                        answers.append(errno.errorcode[e.errno])
                    host.signal_pending = False
                    if taped and device.lg and not device.lg.tape: tapes.enter_context(Recorder(device.lg))
            finally:
                device.close()
                mm.close()
        said = {} if stopper.asked else dict(reason=' '.join(answers))
        kinds = {f'{step[0]}{step[1][:2] if step[0] == "write" else ""}:{words_of(answer)[:12]}'
                 for step, answer in zip(case['steps'], answers)}
        return dict(**said, shape=' '.join(sorted(kinds)))

    def request(self, device, mm, kind, *more):
        if kind == 'close': return device.close()
        if kind == 'put': return mm.write(more[0], bytes.fromhex(more[1]))
        what, task = more
        if kind == 'read': return device.read(what, task or None)
        data = bytes.fromhex(what)
        self.host.signal_pending = data[:4] == b'\3\0\0\0'          # somebody who breaks in waits; a signal ends that
        return device.write(data, task or None)

    # --- recordings -------------------------------------------------------------------------------------------------------

    def try_recordings(self, case: dict, taped: bool) -> dict:
        "A damaged recording is refused in a line, or can be looked at in each way that there is."
        if self.recording is None: self.recording = to_bytes(record('first', args='ticks=2 quiet', mem='4M'))
        began = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)/'damaged.lgt'
            path.write_bytes(damaged(self.recording, case['steps']))
            try:
                recording = load(path)
                for to in 'perfetto', 'csv': export(recording, to)
                changes_frame(recording)
                Timeline(recording).page()
                for n in {0, len(recording)//2, len(recording) - 1}: (registers_at(recording, n), shadow_at(recording, n))
                reason = 'can be read'
            except TraceError as e: reason = str(e).replace(folder, '')
        if (took := time.process_time() - began) > MAX_FILE:
            raise Finding('wait', 'a recording kept us too long', f'{took:.1f} s: {reason}')
        return dict(reason=reason, shape=words_of(reason)[:80])


def check_tape(tape, launcher):
    "What was recorded can be stored, and read again."
    data = to_bytes(develop(tape, launcher))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)/'life.lgt'
        path.write_bytes(data)
        load(path)


# --- damage -----------------------------------------------------------------------------------------------------------

def changed(data: bytes, changes: list) -> bytes:
    "A file with these changes: (kind, where, what)."
    for kind, where, what in changes:
        at = min(where if isinstance(where, int) else int(where*len(data)), len(data))
        if kind == 'cut': data = data[:at]
        elif kind == 'insert': data = data[:at] + bytes.fromhex(what) + data[at:]
        else:
            new = bytes.fromhex(what) if kind == 'set' else struct.pack('<I', what) if kind == 'word' else bytes(16)
            data = data[:at] + new + data[at + len(new):]
    return data


def damaged(archive: bytes, steps: list) -> bytes:
    "A recording with changes inside its members, put together again so that the sums are right; last, to the file itself."
    members = {}
    with zipfile.ZipFile(io.BytesIO(archive)) as old: members = {name: old.read(name) for name in old.namelist()}
    for member, kind, where, what in steps:
        if member == 'file': continue
        data = members.get(member, b'')
        if kind == 'json': members[member] = json_changed(data, where, what)
        elif kind == 'item' and len(data) > 128:
            size = int((re.search(rb"'descr': '[<|]u(\d)'", data) or '01')[1])
            at = 128 + int(where*(len(data) - 128))//size*size
            members[member] = data[:at] + (what & (1 << 8*size) - 1).to_bytes(size, 'little') + data[at + size:]
        elif kind != 'item': members[member] = changed(data, [(kind, where, what)])
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w') as new:
        for name, data in members.items(): new.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return changed(out.getvalue(), [step[1:] for step in steps if step[0] == 'file'])


def json_changed(data: bytes, where: int, what) -> bytes:
    "One value of a JSON text is another; which one, counted through."
    values = re.findall(rb'(?<=: )(?:"[^"]*"|-?\d+|null|true|false)', data)
    if not values: return data
    old, new = values[where % len(values)], json.dumps(what).encode()
    return data.replace(b': ' + old, b': ' + new, 1)
