from pathlib import Path

from mmsecvit.apis.pictures import name_results


def names(*paths):
    return [str(name) for name in name_results(paths).values()]


def test_results_have_the_names_of_their_images():
    assert names() == []
    assert names('a/x.jpg', 'b/y.png', Path('b/z.png')) == ['x', 'y', 'z']


def test_images_of_one_name_have_their_folders_in_their_results_names():
    assert names('d/a/x.jpg', 'd/b/x.jpg', 'd/b/y.jpg') == ['a/x', 'b/x', 'b/y']
    assert names('d/x.jpg', 'd/b/x.jpg') == ['x', 'b/x']
    assert names('x.jpg', Path('x.jpg').absolute().parent / 'b' / 'x.jpg') == ['x', 'b/x']
    # Deep ones that differ only at the top.
    assert names('d/a/img/0.png', 'd/b/img/0.png') == ['a/img/0', 'b/img/0']


def test_images_that_differ_in_their_suffixes_have_them_in_their_results_names():
    assert names('a/x.jpg', 'a/x.png', 'a/y.png') == ['x.jpg', 'x.png', 'y.png']
    assert names('a/x.jpg', 'b/x.jpg', 'b/x.png') == ['a/x.jpg', 'b/x.jpg', 'b/x.png']
