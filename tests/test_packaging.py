"""Files in the wheel, the sdist and the editable install, and in `mmsecvit/.mim` of each."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MIM = 'mmsecvit/.mim/'


def tracked_files():
    """Return the relative paths of the files in a fresh clone."""
    listing = subprocess.run(
        ['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [name for name in listing.stdout.split('\0') if (ROOT / name).is_file()]


def build(kind, where, cwd):
    """Build without pip, as pip does it: nothing is downloaded or installed."""
    code = f'import sys; from setuptools.build_meta import build_{kind}; build_{kind}(sys.argv[1])'
    done = subprocess.run([sys.executable, '-c', code, where], cwd=cwd, capture_output=True)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


@pytest.fixture(scope='module')
def clone(tmp_path_factory):
    if not (ROOT / '.git').exists():
        pytest.skip('needs git to list the tracked files')
    clone = tmp_path_factory.mktemp('clone')
    for name in tracked_files():
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, clone / name)
    return clone


@pytest.fixture(scope='module')
def offered(clone):
    """Files that `.mim` must hold: relative path -> whether it is executable."""
    return {
        str(path.relative_to(clone)): bool(path.stat().st_mode & 0o100)
        for top in ('configs', 'tools', 'model-index.yml')
        for path in [clone / top, *(clone / top).rglob('*')]
        if path.is_file()
    }


@pytest.fixture(scope='module')
def wheel(clone, tmp_path_factory):
    """A wheel built from the sdist, as pip does it if no wheel is published."""
    work = tmp_path_factory.mktemp('dist')
    # As after an editable install: an sdist must not contain its links.
    (clone / MIM).mkdir(exist_ok=True)
    (clone / MIM / 'configs').symlink_to('../../configs')
    build('sdist', work, cwd=clone)
    (sdist,) = work.glob('mmsecvit-*.tar.gz')
    with tarfile.open(sdist) as archive:
        names = {name.partition('/')[2] for name in archive.getnames()}
    assert not [name for name in names if '.mim' in name]
    sources = ('mmsecvit/', 'benchmarks/', 'configs/', 'demo/', 'docs/', 'tests/', 'tools/')
    needed = {name for name in tracked_files() if name.startswith(sources) or name == 'Makefile'}
    assert needed <= names
    shutil.unpack_archive(sdist, work)
    build('wheel', work, cwd=work / sdist.name.removesuffix('.tar.gz'))
    (wheel,) = work.glob('mmsecvit-*.whl')
    return zipfile.ZipFile(wheel)


def test_wheel_holds_what_mim_offers(wheel, offered):
    modes = {
        info.filename.removeprefix(MIM): bool(info.external_attr >> 16 & 0o100)
        for info in wheel.infolist()
        if info.filename.startswith(MIM) and not info.is_dir()
    }
    assert modes == offered
    assert any(name.startswith('configs/') for name in modes)
    assert modes['tools/make_env.sh']


def test_wheel_holds_the_package_and_nothing_else(wheel, clone):
    modules = {
        name for name in wheel.namelist() if name.endswith(('.py', '.yml')) and MIM not in name
    }
    tracked = {name for name in tracked_files() if name.startswith('mmsecvit/')}
    assert modules == tracked
    assert {name.split('/')[0].split('-')[0] for name in wheel.namelist()} == {'mmsecvit'}


def test_wheel_leaves_the_choice_of_stack_to_extras(wheel):
    (metadata,) = (name for name in wheel.namelist() if name.endswith('.dist-info/METADATA'))
    requires = [
        line.removeprefix('Requires-Dist: ')
        for line in wheel.read(metadata).decode().splitlines()
        if line.startswith('Requires-Dist: ')
    ]
    unconditional = [line for line in requires if 'extra ==' not in line]
    assert unconditional
    assert not [line for line in unconditional if line.startswith(('torch', 'mm', 'onedl'))]
    assert any(line.startswith('onedl-mmcv<') and 'extra == "onedl"' in line for line in requires)
    assert any(line.startswith('mmcv<') and 'extra == "openmmlab"' in line for line in requires)


def test_editable_install_links_to_the_sources(clone, tmp_path):
    build('editable', tmp_path, cwd=clone)
    for name in ('configs', 'tools'):
        link = clone / MIM / name
        assert link.is_symlink() and not Path(os.readlink(link)).is_absolute()
        assert link.resolve() == clone / name
