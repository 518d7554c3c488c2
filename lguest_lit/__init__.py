"""lguest, the hypervisor you can read, as notebooks that run.

    boot('first')               a Guest, from its image to its last words
    Launcher, Host              the same in steps
    Workbench('in $0x71, %al')  a Guest of a few lines of assembler, stopped at each world switch
    record('first')             a Guest's whole life, as events and what they changed
    TimeMachine('first')        the same life, live, in both directions
    Fixes.seed()                with all the mistakes of 2007
"""
from importlib import import_module as _import_module
from typing import TYPE_CHECKING

__version__ = "0.0.1"


class Error(Exception):
    "What somebody asked for cannot be done; the text says why. The base of all our errors that are meant for a caller."


# Nothing is imported before it is asked for: the command line wants to hear a Ctrl-C before that. Editors read the second list.
_HOMES = {'boot': 'launcher.launcher', 'Launcher': 'launcher.launcher', 'LauncherError': 'launcher.launcher', 'Host': 'host.host',
          'Fixes': 'host.lg', 'Workbench': 'launcher.workbench', 'record': 'watch.trace', 'Recording': 'watch.trace',
          'TimeMachine': 'watch.rewind'}
if TYPE_CHECKING:
    from .host.host import Host
    from .host.lg import Fixes
    from .launcher.launcher import Launcher, LauncherError, boot
    from .launcher.workbench import Workbench
    from .watch.rewind import TimeMachine
    from .watch.trace import Recording, record

__all__ = ['Error', 'boot', 'Launcher', 'LauncherError', 'Host', 'Fixes', 'Workbench', 'record', 'Recording', 'TimeMachine']


def __getattr__(name: str):
    "What most people want first; loaded when it is asked for."
    if name not in _HOMES: raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(_import_module(f'{__name__}.{_HOMES[name]}'), name)


def __dir__(): return sorted({*globals(), *_HOMES})
