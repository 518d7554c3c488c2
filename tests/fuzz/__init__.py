"""Random Guests, programs and files against the Host, as long as one likes.

    make fuzz MINUTES=30                  all targets in turn, each case with and without a tape
    make fuzz REPRO=file                  do again what was found
    python tests/fuzz --help              one target only, another seed, a certain number of cases

cases.py makes a case, which is a few numbers and strings: it can be kept in a file. house.py has a Host to try it on, and knows
what must be true afterwards. driver.py has the loop, in two processes: if the one with the Host hangs or falls, the other one
knows of which case. The same seed makes the same cases.
"""
