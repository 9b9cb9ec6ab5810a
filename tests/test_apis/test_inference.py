import pytest

from mmsecvit.apis import infer
from mmsecvit.apis.inference import find_images


@pytest.fixture
def folder(tmp_path):
    for name in ('b.png', 'a.JPG', 'notes.txt', 'more/a.png', 'x[1].png'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_files_folders_and_patterns_are_found(folder):
    def names(*images):
        return [str(path.relative_to(folder)) for path in find_images(images)]

    assert names(folder) == ['a.JPG', 'b.png', 'x[1].png']
    assert names(folder / 'notes.txt', f'{folder}/?.*') == ['notes.txt', 'a.JPG', 'b.png']
    assert names(f'{folder}/**/?.png') == ['b.png', 'more/a.png']
    # A file is taken at its word before its name is read as a pattern.
    assert names(f'{folder}/x[1].png', folder / 'b.png', folder / 'b.png') == ['x[1].png', 'b.png']


def test_images_that_are_not_there_are_refused(folder):
    for absent in ('absent.png', '*.gif'):
        with pytest.raises(FileNotFoundError, match='files, folders or patterns; .* has none'):
            find_images([folder / absent])


def test_a_file_is_no_folder_for_results(folder):
    with pytest.raises(FileExistsError, match='new or empty folder, but .*notes.txt is a file'):
        infer([folder / 'a.JPG'], 'config.py', 'checkpoint.pth', folder / 'notes.txt')


def test_a_config_of_no_toolbox_is_refused(folder):
    (folder / 'config.py').write_text("default_scope = 'mmengine'\n")
    with pytest.raises(ValueError, match='mmdet, mmseg, mmpretrain as its default_scope, got mme'):
        infer([folder], folder / 'config.py', 'no.pth', folder / 'out')
