"""Check that names, paths, links, commands and code on the pages of the documentation work."""

import argparse
import importlib
import os
import pkgutil
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

import mmsecvit

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted((ROOT / 'docs').glob('*.md'))
PAGES = [*(ROOT / f'{name}.md' for name in ('README', 'CONTRIBUTING', 'CHANGELOG')), *DOCS]
BLOCK = re.compile(r'^( *)```(\w+)\n(.*?)^\1```', re.M | re.S)
NEEDS = '# Needs '  # the first words of a block that needs data, weights or GPUs
NEEDY = re.compile(r'tools/(train|test|demo|dist_|slurm_)|visualize_clusters|--device cuda|curl')


@pytest.fixture(params=PAGES, ids=lambda page: page.name)
def page(request) -> Path:
    return request.param


def blocks(page: Path, language: str) -> list[str]:
    return [code for _, found, code in BLOCK.findall(page.read_text()) if found == language]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, which are the same on GitHub and in MkDocs."""
    headings = re.findall(r'^#+ (.+)$', BLOCK.sub('', page.read_text()), re.M)
    return {re.sub(r'[^\w\s-]', '', heading).lower().replace(' ', '-') for heading in headings}


def expand(pattern: str) -> list[str]:
    """Return the files that match a pattern of bash, or the pattern itself if none does."""
    done = subprocess.run(
        ['bash', '-c', f'printf "%s\\n" {pattern}'], cwd=ROOT, capture_output=True, text=True
    )
    return done.stdout.splitlines()


def unroll(script: str) -> str:
    """Replace the variables of loops by their values in braces."""
    for name, values in re.findall(r'for (\w+) in (.+?); do', script):
        script = script.replace(f'${{{name}}}', f'{{{",".join(values.split())}}}')
    return script


def commands(script: str) -> list[list[str]]:
    """Split a shell script into simple commands without assignments."""
    found = []
    for line in script.replace('\\\n', ' ').splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        command: list[str] = []
        for word in [*lexer, ';']:
            if not set(word) <= set('();<>|&'):
                command.append(word)
                continue
            while command and re.match(r'\w+=|(do|then)$', command[0]):
                command.pop(0)
            found.append(command)
            command = []
    return found


class Parsed(Exception):
    """A tool's arguments were accepted."""


@pytest.fixture
def accept(monkeypatch):
    """Return a function that lets a tool parse a command line and stops it there."""
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self, args=None, namespace=None):
        parse(self, args, namespace)
        raise Parsed

    def accept(tool: str, *arguments: str) -> None:
        # Some tools read the config while they parse their options, so the file must exist.
        arguments = ['configs/mask_rcnn_secvit_t_1x.py' if a == 'CONFIG' else a for a in arguments]
        monkeypatch.setattr(sys, 'argv', [tool, *arguments])
        with pytest.raises(Parsed):
            runpy.run_path(str(ROOT / tool), run_name='__main__')

    monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', parse_and_stop)
    monkeypatch.syspath_prepend(ROOT / 'tools' / 'analysis')
    monkeypatch.syspath_prepend(ROOT / 'benchmarks')
    monkeypatch.chdir(ROOT)
    return accept


@pytest.fixture
def through_launcher(tmp_path):
    """Return a function that gives the tool and the arguments that a launcher would run."""
    for name in ('srun', 'python'):
        (tmp_path / name).write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'PYTHON': 'python'}

    def run(*command: str) -> list[str]:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        words = done.stdout.splitlines()
        tool = re.compile(r'/tools/(?!torchrun)\w+\.py$')
        (start,) = (i for i, word in enumerate(words) if tool.search(word))
        return [os.path.relpath(words[start], ROOT), *words[start + 1 :]]

    return run


def test_relative_links_and_anchors_resolve(page):
    for target in re.findall(r'\]\(([^)\s]+)\)', BLOCK.sub('', page.read_text())):
        if '://' in target:
            continue
        path, _, anchor = target.partition('#')
        linked = page.parent / path if path else page
        assert linked.is_file(), f'{page.name} links to {target}'
        if anchor:
            assert anchor in anchors(linked), f'{page.name} links to {target}'
        # The site consists of docs/ only.
        assert page.parent == ROOT or linked.parent.is_relative_to(ROOT / 'docs')


def test_every_page_is_in_the_navigation():
    class Loader(yaml.SafeLoader):
        """Ignore MkDocs' own tags."""

    Loader.add_multi_constructor('', lambda loader, suffix, node: None)
    nav = yaml.load((ROOT / 'mkdocs.yml').read_text(), Loader)['nav']
    listed = re.findall(r"'([\w/]+\.md)'", str(nav))
    assert sorted(listed) == [page.name for page in DOCS]


def test_shell_commands_are_accepted_by_their_tools(page, accept, through_launcher):
    for script in blocks(page, 'shell'):
        for command in commands(script):
            if command and re.match(r'tools/\w+\.sh$', command[0]):
                command = ['python', *through_launcher(*command)]
            if command[:1] == ['python']:
                accept(*command[1:])


def test_what_needs_data_weights_or_gpus_says_so(page):
    for script in blocks(page, 'shell'):
        assert script.lstrip().startswith(NEEDS) or not NEEDY.search(script)


def test_paths_of_tools_and_configs_exist(page):
    text = unroll(page.read_text())
    patterns = re.findall(
        r'(?<![\w/.])(?:configs|tools|benchmarks|demo|tests|requirements|mmsecvit)/'
        r'[\w{},*./-]*\w',
        text,
    )
    # A page may tell its reader to save a config.
    made = set(re.findall(r'as (configs/\w+\.py)', text))
    for pattern in set(patterns) - made:
        for path in expand(pattern):
            assert (ROOT / path).exists(), f'{page.name} names {pattern}'


def test_make_targets_exist(page):
    targets = set(re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text(), re.M))
    for script in blocks(page, 'shell'):
        for command in commands(script):
            if command[:1] == ['make']:
                assert command[1] in targets


def test_names_of_the_package_exist(page):
    for name in re.findall(r'\bmmsecvit(?:\.[a-zA-Z_]\w*)+(?!\w*/)', page.read_text()):
        pkgutil.resolve_name(name)


def test_python_blocks_compile_and_run(page, tmp_path):
    for i, code in enumerate(blocks(page, 'python')):
        compiled = compile(code, f'{page.name}, block {i}', 'exec')
        is_config = re.search(r'^(_base_|default_scope|custom_imports) =', code, re.M)
        if not is_config and not code.startswith(NEEDS):
            torch.manual_seed(0)
            exec(compiled, {'__name__': '__main__'})


def test_configs_on_the_pages_build(page, tmp_path):
    shutil.copytree(ROOT / 'configs', tmp_path / 'configs')
    for i, code in enumerate(blocks(page, 'python')):
        if not re.search(r'^(_base_|default_scope) =', code, re.M):
            continue
        path = tmp_path / 'configs' / f'block_{i}.py'
        path.write_text(code)
        cfg = Config.fromfile(path)
        scope = cfg.get('default_scope', 'mmdet')
        with torch.device('meta'), DefaultScope.overwrite_default_scope(scope):
            model = MODELS.build(cfg.model)
        assert type(model.backbone) is mmsecvit.SecViT
        # The norm of a map that the neck skips would get no gradient.
        assert getattr(getattr(model, 'neck', None), 'start_level', 0) == 0


def test_every_public_name_is_in_the_api_reference():
    names = re.findall(r'^::: (\S+)$', (ROOT / 'docs' / 'api.md').read_text(), re.M)
    documented = {id(pkgutil.resolve_name(name)) for name in names}
    assert len(documented) == len(names)
    packages = [f'mmsecvit.{m.name}' for m in pkgutil.iter_modules(mmsecvit.__path__) if m.ispkg]
    for package in map(importlib.import_module, ['mmsecvit', *packages]):
        public = {name for name in package.__all__ if not name.startswith('__')}
        missing = {name for name in public if id(getattr(package, name)) not in documented}
        assert not missing, f'docs/api.md has no {missing} of {package.__name__}'


def test_readme_is_short():
    assert len((ROOT / 'README.md').read_text().splitlines()) <= 120


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert citation['version'] == mmsecvit.__version__
    first = re.search(r'^## (\S+)', (ROOT / 'CHANGELOG.md').read_text(), re.M)
    assert first[1] == mmsecvit.__version__
