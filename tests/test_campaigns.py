"The campaigns, in small: they run, and they notice."
import sys

import pytest

from campaigns import boots


def run(monkeypatch, capsys, *args) -> tuple[int, str]:
    monkeypatch.setattr(sys, 'argv', ['boots.py', *args])
    return boots.main(), capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize('tape', [[], ['--no-tape']], ids=['recorded', 'plain'])
def test_boots_end_with_the_power_off(monkeypatch, capsys, tape):
    code, said = run(monkeypatch, capsys, '--boots', '2', *tape)
    assert code == 0 and f'2 {"plain" if tape else "recorded"} boots, 0 deaths' in said


def test_a_boot_that_ends_otherwise_is_told(monkeypatch, capsys):
    "Killed, or out of the Host with an exception."
    def run_guest(lg): raise ZeroDivisionError('in the Host')
    monkeypatch.setattr('lguest_lit.host.lguest_user.run_guest', run_guest)
    code, said = run(monkeypatch, capsys, '--boots', '2', '--seed', '40')
    assert code == 1 and '2 deaths' in said and 'boot 41: ZeroDivisionError: in the Host' in said
