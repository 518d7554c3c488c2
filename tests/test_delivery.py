"What `python -m build` makes, in an environment where nothing else is: it installs, and the built-in Guest boots."
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# What setuptools adds to the files of the project.
MADE = 'PKG-INFO', 'setup.cfg', 'lguest_lit.egg-info'


def run(*command, cwd: Path) -> str:
    "What a program prints; what it complains about is shown if it fails."
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f'{" ".join(map(str, command))} failed:\n{done.stdout}{done.stderr}'
    return done.stdout


def files() -> list[str]:
    "The project's own files: those that git knows, or would if they were committed."
    known = run('git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard', cwd=ROOT).split('\0')
    return [name for name in known if name and (ROOT/name).is_file()]


@pytest.fixture(scope='module')
def built(tmp_path_factory) -> dict[str, Path]:
    "Source archive and wheel, made of a copy; the wheel is made of the archive, as `build` does."
    if not (ROOT/'.git').exists(): pytest.skip('not a git checkout: nobody says which files are ours')
    top = tmp_path_factory.mktemp('build')
    for name in files():
        (top/'copy'/name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT/name, top/'copy'/name)
    run(sys.executable, '-m', 'build', '--outdir', top/'dist', cwd=top/'copy')
    made = {'sdist': list((top/'dist').glob('*.tar.gz')), 'wheel': list((top/'dist').glob('*.whl'))}
    assert all(len(paths) == 1 for paths in made.values()), made
    return {kind: path for kind, (path,) in made.items()}


@pytest.mark.slow
def test_the_source_archive_is_the_whole_project(built):
    "Notebooks, tests, licence: one can go on working with it."
    with tarfile.open(built['sdist']) as archive:
        inside = {name.split('/', 1)[1] for name in (m.name for m in archive.getmembers() if m.isfile())}
    inside = {name for name in inside if name.split('/')[0] not in MADE}
    assert inside == set(files())


@pytest.mark.slow
def test_the_wheel_has_the_licence_and_no_tests(built):
    names = zipfile.ZipFile(built['wheel']).namelist()
    assert any(name.endswith('/LICENSE') and '.dist-info/' in name for name in names)
    assert {name.split('/')[0] for name in names if '.dist-info/' not in name} == {'lguest_lit'}


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['sdist', 'wheel'])
def test_it_installs_where_nothing_is_and_boots(built, kind, tmp_path):
    run(sys.executable, '-m', 'venv', tmp_path/'env', cwd=tmp_path)
    run(tmp_path/'env/bin/python', '-m', 'pip', 'install', '-q', '--no-input', built[kind], cwd=tmp_path)
    said = run(tmp_path/'env/bin/lguest', 'demo', cwd=tmp_path)
    assert 'world switches' in said, said
