"""The loop: makes cases, has them tried in a process of their own, counts, and keeps what is worth it.

A case that is wrong is made smaller, one deed after the other, as long as it stays wrong in the same way; then it is
written to a file, with the command that repeats it. Cases with one cause (kind, and place in the Host) are counted, and the
first one is kept. Cases after which a Guest has ended as none before are kept as well: they are tried first the next time,
and new cases are made of old ones. Exit code 1 if anything was found."""
import argparse
import faulthandler
import hashlib
import json
import multiprocessing
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
from collections import Counter, deque
from pathlib import Path

import lguest_lit
from fuzz.cases import MAKERS, Dice, mutated

PACKAGE = Path(lguest_lit.__file__).parent
HANG, MEMORY = 12, 3 << 30       # seconds of processor time that a case may take; bytes that the process may hold
POOL = 400                       # cases of a target from which new ones are made
KINDS = {'exception': 'exceptions', 'foreign bytes': 'foreign bytes', 'leak': 'leaks', 'wait': 'waits',
         'memory': 'too much memory', 'tape': 'lives that a tape has changed',
         'again': 'lives that were others the second time', 'crash': 'crashes'}
TURNS = 'hypercalls fragments tables hypercalls fragments protocol hypercalls fragments images recordings'.split()
COMMAND = 'make fuzz REPRO='


# --- the process with the Host ----------------------------------------------------------------------------------------

def leaves(value, name: str) -> dict:
    "A dict of dicts, flat: {'counts traps 7': 1}."
    if not isinstance(value, dict): return {name: value}
    return {at: leaf for key, inner in value.items() for at, leaf in leaves(inner, f'{name} {key}').items()}


def unlike(one: dict, other: dict) -> dict:
    "In which way one life was not like the other, as far as they can be compared."
    both = [key for key in ('reason', 'console', 'counts') if key in one and key in other]
    mine, theirs = ({at: leaf for key in both for at, leaf in leaves(result[key], key).items()} for result in (one, other))
    return {at: (mine.get(at), theirs.get(at)) for at in sorted({*mine, *theirs}) if mine.get(at) != theirs.get(at)}


def kinds_of(differences: dict) -> str: return f'another {" and ".join(sorted({at.split()[0] for at in differences}))}'


def tried(house, case: dict) -> dict:
    "A case without a tape and with one, which must not make a difference."
    from fuzz.house import Finding
    results = [house.try_case(case, taped) for taped in ((False,) if case['target'] == 'recordings' else (False, True))]
    plain, taped = results[0], results[-1]
    if differences := unlike(plain, taped):
        if again := unlike(plain, house.try_case(case, False)): raise Finding('again', kinds_of(again), str(again))
        raise Finding('tape', kinds_of(differences), str(differences))
    together = {key: sum(result.get(key, 0) for result in results) for key in ('hypercalls', 'deeds')}
    return dict(shape=plain['shape'], tries=len(results), **together)


def work(pipe, dump: str):
    "Try what comes through the pipe, until nothing does."
    from fuzz.house import Finding, House, exception
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.enable(file := open(dump, 'w'))
    faulthandler.register(signal.SIGUSR1, file=file, all_threads=True)
    house = None
    while True:
        try: case = pipe.recv()
        except EOFError: return
        try:
            if house is None: house = House()
            answer = tried(house, case)
            if house.worn():
                house.close()
                house = None
        except Exception as e:
            found = e if isinstance(e, Finding) else exception(e)
            answer = dict(kind=found.kind, where=found.where, text=found.text)
        pipe.send(answer)


class Worker:
    "That process, seen from outside. One that hangs or falls is replaced."
    def __init__(self): self.process, self.history = None, deque(maxlen=64)

    def start(self):
        self.history.clear()
        context = multiprocessing.get_context('fork')
        self.pipe, theirs = context.Pipe()
        self.dump = tempfile.NamedTemporaryFile(prefix='fuzz-', suffix='.txt')
        self.process = context.Process(target=work, args=(theirs, self.dump.name), daemon=True)
        self.process.start()
        theirs.close()

    def cpu(self) -> float:
        "Processor time that it has had, seconds."
        try: fields = Path(f'/proc/{self.process.pid}/stat').read_text().rsplit(')', 1)[1].split()
        except OSError: return 0.0
        return (int(fields[11]) + int(fields[12]))/os.sysconf('SC_CLK_TCK')

    def memory(self) -> int:
        "Bytes that it holds."
        try: return int(Path(f'/proc/{self.process.pid}/statm').read_text().split()[1])*resource.getpagesize()
        except OSError: return 0

    def close(self):
        if self.process is None: return
        self.pipe.close()
        self.process.kill()
        self.process.join()
        self.process = None
        self.dump.close()

    def lost(self, kind: str, why: str) -> dict:
        "It hangs, or is gone: where was it?"
        lines = Path(self.dump.name).read_text().splitlines()
        ours = [re.search(r'(\w+)\.py", line \d+ in (\w+)', line) for line in lines if f'"{PACKAGE}' in line]
        place = next((f'{found[1]}.{found[2]}' for found in ours if found), 'nowhere that we know')
        self.close()
        return dict(kind=kind, where=f'{why}: {place}', text='\n'.join(lines[:40]))

    def run(self, case: dict) -> dict:
        "The answer for a case: what `tried` returns, or `kind`, `where` and `text` of what is wrong."
        if self.process is None: self.start()
        self.history.append(case)
        began = self.cpu(), time.monotonic()
        try:
            self.pipe.send(case)
            while not self.pipe.poll(0.2):
                hungry = self.memory() > MEMORY
                if not hungry and self.cpu() - began[0] < HANG and time.monotonic() - began[1] < 10*HANG: continue
                os.kill(self.process.pid, signal.SIGUSR1)
                time.sleep(0.5)
                return self.lost('memory', f'more than {MEMORY >> 30} GB') if hungry else self.lost('wait', 'never came back')
            answer = self.pipe.recv()
            if 'kind' in answer: self.close()                   # nobody trusts that Host any longer
            return answer
        except (EOFError, OSError):
            self.process.join(5)
            return self.lost('crash', f'the process fell (exit code {self.process.exitcode})')

    def run_all(self, cases: list) -> dict:
        "The answer for the last of some cases, on a Host that has seen the others and nothing else."
        self.close()
        for case in cases: answer = self.run(case)
        return answer


# --- the loop ---------------------------------------------------------------------------------------------------------

def same(found: dict, answer: dict) -> bool: return (found['kind'], found['where']) == (answer.get('kind'), answer.get('where'))


def reduced(worker: Worker, case: dict, before: list, found: dict) -> dict:
    "The case made small; if it takes others before it, the fewest of the last ones that do are in its `before`."
    if same(found, worker.run_all([case])): return smaller(worker, case, found)
    for n in (1, 2, 4, 8, 16, 32, 64):
        if same(found, worker.run_all([*before[-n:], case])): return {**case, 'before': before[-n:]}
    return {**case, 'before': before[-64:]}


def smaller(worker: Worker, case: dict, found: dict, tries: int = 80) -> dict:
    "The case without whatever is not needed for its being wrong."
    key = 'deeds' if 'deeds' in case else 'steps'
    size = max(1, len(case[key])//2)
    while tries > 0 and case[key]:
        at = 0
        while at < len(case[key]) and tries > 0:
            less = {**case, key: case[key][:at] + case[key][at + size:]}
            tries -= 1
            answer = worker.run(less)
            if same(found, answer): case = less
            else: at += size
        if size == 1: break
        size = max(1, size//2)
    return case


class Campaign:
    "Counts, the cases that are worth it, and the files."
    def __init__(self, targets: list[str], seed: int, folder: Path, quiet: bool = False):
        self.targets, self.folder, self.quiet, self.seed = targets, folder, quiet, seed
        self.rngs = {target: random.Random(f'{seed} {target}') for target in targets}
        self.pools, self.shapes = {target: [] for target in targets}, set()
        self.turns = [target for target in TURNS if target in targets]
        self.cases, self.counts, self.found = Counter(), Counter(), {}
        self.worker, self.began, self.told = Worker(), time.monotonic(), 0.0

    def next_case(self, target: str) -> dict:
        "A new one, or one made of two that were worth it."
        dice, pool = Dice(self.rngs[target]), self.pools[target]
        fresh = {**MAKERS[target](dice), 'target': target}
        return mutated(dice, dice.pick(pool), dice.pick([fresh, dice.pick(pool)])) if pool and dice.often(0.3) else fresh

    def try_case(self, case: dict):
        "One case, and what follows from it."
        before = list(self.worker.history)
        answer, target = self.worker.run(case), case['target']
        self.cases[target] += 1
        if 'kind' in answer: self.wrong(case, before, answer)
        else:
            for key in ('tries', 'hypercalls', 'deeds'): self.counts[key] += answer[key]
            if target == 'fragments': self.counts['fragments'] += answer['deeds']
            if (target, answer['shape']) not in self.shapes: self.worth_it(case, answer['shape'])
        self.tell()

    def worth_it(self, case: dict, shape: str):
        self.shapes.add((case['target'], shape))
        pool = self.pools[case['target']]
        if len(pool) >= POOL: return
        pool.append(case)
        self.keep('corpus', case, {})

    def keep(self, kind: str, case: dict, more: dict) -> Path:
        "Write a case to a file."
        text = json.dumps({**case, **more}, indent=1)
        path = self.folder/kind/f'{case["target"]}-{hashlib.sha256(json.dumps(case).encode()).hexdigest()[:12]}.json'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + '\n')
        return path

    def wrong(self, case: dict, before: list, answer: dict):
        "Something was found: if it is new, make it small, keep it, and say so."
        self.counts[answer['kind']] += 1
        cause = answer['kind'], answer['where']
        if cause in self.found:
            self.found[cause][1] += 1
            return
        case = reduced(self.worker, case, before, answer)
        path = self.keep('found', case, dict(found=answer))
        self.found[cause] = [path, 1]
        print(f'\n{answer["kind"]}: {answer["where"]}\n  {COMMAND}{path}', flush=True)

    def replay(self, until: float):
        "What was kept before."
        for path in sorted((self.folder/'corpus').glob('*.json')):
            if time.monotonic() > until: return
            case = json.loads(path.read_text())
            if case['target'] in self.targets: self.try_case(case)

    def line(self) -> str:
        seconds, cases = time.monotonic() - self.began, sum(self.cases.values())
        each = ', '.join(f'{n} {target}' for target, n in self.cases.items())
        return (f'{seconds:.0f} s, {cases} cases ({cases/max(seconds, 1):.0f} a second): {each}; '
                f'{self.counts["hypercalls"]} hypercalls, {self.counts["fragments"]} fragments; {len(self.found)} found')

    def tell(self):
        if self.quiet or time.monotonic() - self.told < 1: return
        self.told = time.monotonic()
        print(f'\r{self.line()} ', end='', file=sys.stderr, flush=True)

    def run(self, seconds: float, cases: int = None) -> int:
        "Until the time is up, or so many cases have been tried; how much was found."
        end = self.began + seconds
        self.replay(self.began + seconds/4)
        before = sum(self.cases.values())
        try:
            while time.monotonic() < end and (cases is None or sum(self.cases.values()) - before < cases):
                self.try_case(self.next_case(self.turns[sum(self.cases.values()) % len(self.turns)]))
        except KeyboardInterrupt: print('\nstopped', file=sys.stderr)
        finally: self.worker.close()
        return len(self.found)

    def summary(self) -> str:
        kinds = ', '.join(f'{self.counts[kind]} {name}' for kind, name in KINDS.items())
        counts = self.counts
        what = f'{counts["hypercalls"]} hypercalls, {counts["deeds"]} deeds, of them {counts["fragments"]} fragments'
        found = [f'{n:6} × {kind}: {where}   {path}' for (kind, where), (path, n) in self.found.items()]
        return '\n'.join([self.line(), f'{counts["tries"]} lives, {what}: {kinds}', *found])


def repeat(path: Path) -> int:
    "Try a case from a file; 1 if something is wrong with it."
    case, worker = json.loads(path.read_text()), Worker()
    case.pop('found', None)
    answer = worker.run_all([*case.pop('before', []), case])
    worker.close()
    wrong = 'kind' in answer
    print(f'{answer["kind"]}: {answer["where"]}\n{answer["text"]}' if wrong else f'nothing is wrong: {answer["shape"]}')
    return int(wrong)


def main(args=None) -> int:
    "The command line."
    parser = argparse.ArgumentParser(prog='python tests/fuzz', description=__doc__.splitlines()[0])
    parser.add_argument('--minutes', type=float, default=10)
    parser.add_argument('--cases', type=int, help='so many instead, at most')
    parser.add_argument('--targets', nargs='+', choices=MAKERS, default=list(MAKERS), metavar='TARGET',
                        help=f'some of {", ".join(MAKERS)}')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--corpus', type=Path, help='where to keep cases, and what is found (default: a new folder in /tmp)')
    parser.add_argument('--repro', type=Path, help='try the case in this file, and nothing else')
    options = parser.parse_args(args)
    if options.repro: return repeat(options.repro)
    campaign = Campaign(options.targets, options.seed, options.corpus or Path(tempfile.mkdtemp(prefix='fuzz-')))
    found = campaign.run(60*options.minutes, options.cases)
    print('\n' + campaign.summary())
    return 1 if found else 0
