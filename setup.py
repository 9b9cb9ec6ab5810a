"""Packaging; the settings of tools are in pyproject.toml.

OpenMMLab's installer `mim` looks for configs and tools in a folder of the package, `mmsecvit/.mim`.
"""

import os
import runpy
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
EXTRAS = ('onedl', 'openmmlab', 'demo', 'export', 'test', 'docs')


def requirements(name: str) -> list[str]:
    """Return the requirements in one of the requirements files."""
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
    return [line for line in lines if line and not line.startswith('#')]


class BuildPyWithMim(build_py):
    """Build the package with the files that `mim` offers in `mmsecvit/.mim`.

    A wheel contains copies. An editable install contains links in the source tree, so that edited
    and new configs are in use at once.
    """

    def run(self):
        """Build the package, then `.mim`."""
        super().run()
        package = ROOT if self.editable_mode else Path(self.build_lib)
        mim = package / 'mmsecvit' / '.mim'
        shutil.rmtree(mim, ignore_errors=True)
        mim.mkdir(parents=True)
        for name in ('configs', 'tools', 'model-index.yml'):
            source = ROOT / name
            if self.editable_mode:
                (mim / name).symlink_to(os.path.relpath(source, mim))
            elif source.is_dir():
                shutil.copytree(source, mim / name, ignore=shutil.ignore_patterns('__pycache__'))
            elif source.is_file():
                shutil.copy2(source, mim / name)


setup(
    name='mmsecvit',
    version=runpy.run_path(str(ROOT / 'mmsecvit' / 'version.py'))['__version__'],
    description='SecViT, a vision transformer that clusters its tokens, for OpenMMLab toolboxes',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE'],
    keywords='vision transformer, object detection, semantic segmentation, image classification',
    packages=find_packages(include=['mmsecvit', 'mmsecvit.*']),
    package_data={'mmsecvit': ['analysis/paper.yml']},
    classifiers=[f'Programming Language :: Python :: 3.{minor}' for minor in range(10, 14)],
    python_requires='>=3.10',
    # torch and the toolboxes are extras: each toolbox has two distributions with one import name,
    # and only the user knows which one to install.
    install_requires=requirements('runtime'),
    extras_require={name: requirements(name) for name in EXTRAS},
    cmdclass={'build_py': BuildPyWithMim},
    zip_safe=False,
)
