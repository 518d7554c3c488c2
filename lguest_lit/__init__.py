"""lguest, the hypervisor you can read, as notebooks that run.

    boot('first')               a Guest, from its image to its last words
    Launcher, Host              the same in steps
    Workbench('in $0x71, %al')  a Guest of a few lines of assembler, stopped at each world switch
    record('first')             a Guest's whole life, as events and what they changed
"""
from importlib import import_module as _import_module

__version__ = "0.0.1"

_HOMES = {'boot': 'launcher.launcher', 'Launcher': 'launcher.launcher', 'LauncherError': 'launcher.launcher', 'Host': 'host.host',
          'Fixes': 'host.lg', 'Workbench': 'launcher.workbench', 'record': 'watch.trace', 'Recording': 'watch.trace',
          'TimeMachine': 'watch.rewind'}
__all__ = list(_HOMES)


def __getattr__(name: str):
    "What most people want first; loaded when it is asked for."
    if name not in _HOMES: raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(_import_module(f'{__name__}.{_HOMES[name]}'), name)


def __dir__(): return sorted({*globals(), *_HOMES})
