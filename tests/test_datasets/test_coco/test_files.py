"""Test how annotation files in COCO's format, and the images they name, are found."""

import os

from mmsecvit.datasets.coco.files import find_missing


def test_missing_files_are_found(tmp_path):
    (tmp_path / 'there.png').touch()
    paths = [str(tmp_path / name) for name in ('there.png', 'absent.png', 'nowhere/x.png')]
    assert find_missing(paths) == paths[1:]


def test_files_in_a_folder_that_cannot_be_listed_are_found(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(path)

    (tmp_path / 'there.png').touch()
    paths = [str(tmp_path / name) for name in ('there.png', 'absent.png')]
    monkeypatch.setattr(os, 'listdir', refuse)
    assert find_missing(paths) == paths[1:]


def test_files_on_a_system_that_ignores_case_are_found(tmp_path, monkeypatch):
    (tmp_path / 'x.png').touch()
    there = os.listdir(tmp_path)
    monkeypatch.setattr(os.path, 'exists', lambda path: os.path.basename(path).lower() in there)
    paths = [str(tmp_path / name) for name in ('X.PNG', 'Y.PNG')]
    assert find_missing(paths) == paths[1:]
