"Packaging: every fact is in settings.ini, which nbdev reads as well."
import configparser
from pathlib import Path
from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
ini = configparser.ConfigParser(delimiters=['='])
ini.read(HERE/'settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']

setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    long_description=(HERE/'README.md').read_text(encoding='utf-8') if (HERE/'README.md').exists() else '',
    long_description_content_type='text/markdown',
    author=cfg['author'],
    author_email=cfg['author_email'],
    license='GPL-2.0-only',
    license_files=['LICENSE'],
    url=cfg['git_url'],
    keywords=cfg['keywords'].split(),
    python_requires='>=' + cfg['min_python'],
    include_package_data=False,    # what is in the archive need not be in the wheel
    packages=find_packages(include=[cfg['lib_path'], cfg['lib_path'] + '.*'], exclude=[cfg['lib_path'] + '.tools']),
    # The machine code that is shipped, and the source it was built from; the modules of the pictures.
    package_data={cfg['lib_path']: [f'{folder}/*.{ext}' for folder in ('images/switcher', 'images/guests')
                                    for ext in 'S c h ld elf bin lst json'.split()] + ['pictures/*.js', 'pictures/*.css', 'py.typed']},
    install_requires=cfg['requirements'].split(),
    extras_require={extra: cfg[f'{extra}_requirements'].split() for extra in ('dev', 'build', 'trace')},
    entry_points={'console_scripts': cfg['console_scripts'].splitlines(),
                  'nbdev': [f'{cfg["lib_name"]}={cfg["lib_path"]}._modidx:d']},
    zip_safe=False,
)
