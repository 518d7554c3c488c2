"""Boot the first Guest again and again while its processor is kicked at random moments; every boot must end with its power off.

    python tests/campaigns/boots.py                    1000 recorded boots, on two processes
    python tests/campaigns/boots.py --boots 50 --no-tape

The clock is the wall's, so no two boots are alike: what fails once may not fail again, and how often it does is what one learns.
Exit code 1 if a boot ended otherwise.
"""
import argparse
import random
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import nullcontext

from lguest_lit.launcher.launcher import POWER_DOWN, Launcher
from lguest_lit.watch.trace import Recorder

TICKS, PATIENCE = 5, 120        # ticks of a life; seconds until a boot counts as hanging
KICKS = 0.002                   # mean seconds between two kicks


def kicker(host, over: threading.Event, rng: random.Random) -> int:
    "Kick until it is `over`; how often."
    n = 0
    while not over.wait(rng.expovariate(1/KICKS)):
        host.kick()
        n += 1
    return n


def boot(seed: int, taped: bool) -> tuple[str, int, int]:
    "One life: its last words or what came out of the Host, and how many kicks and world switches it had."
    rng, over, kicks = random.Random(seed), threading.Event(), []
    with Launcher('first', mem='4M', args=f'ticks={TICKS} quiet', seed=seed) as launcher:
        thread = threading.Thread(target=lambda: kicks.append(kicker(launcher.host, over, rng)))
        thread.start()
        try:
            with Recorder(launcher.file.lg) if taped else nullcontext(): reason = launcher.run(PATIENCE).reason
        except Exception as e: reason = f'{type(e).__name__}: {e}'
        finally:
            over.set()
            thread.join()
        return reason, kicks[0], launcher.stats.world_switches


def main() -> int:
    "The command line."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--boots', type=int, default=1000)
    parser.add_argument('--workers', type=int, default=2)
    parser.add_argument('--seed', type=int, default=0, help='of the first boot; the next has the next')
    parser.add_argument('--no-tape', action='store_true', help='boot without a recording')
    args = parser.parse_args()
    began, ends, kicks, switches = time.time(), Counter(), 0, 0
    with ProcessPoolExecutor(args.workers) as pool:
        jobs = {pool.submit(boot, args.seed + n, not args.no_tape): args.seed + n for n in range(args.boots)}
        for done, job in enumerate(as_completed(jobs), 1):
            reason, kicked, switched = job.result()
            ends[reason], kicks, switches = ends[reason] + 1, kicks + kicked, switches + switched
            if reason != POWER_DOWN: print(f'\nboot {jobs[job]}: {reason}', flush=True)
            print(f'\r{done} of {args.boots} boots, {done - ends[POWER_DOWN]} deaths, {kicks} kicks, {done/(time.time() - began):.1f} a second ',
                  end='', file=sys.stderr, flush=True)
    deaths = args.boots - ends[POWER_DOWN]
    print(f'\n{args.boots} {"plain" if args.no_tape else "recorded"} boots, {deaths} deaths, {kicks} kicks, {switches} world switches, '
          f'{time.time() - began:.0f} s')
    return 1 if deaths else 0


if __name__ == '__main__': sys.exit(main())
