from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mmsecvit.datasets import find_damaged_images


def make_image(path: Path) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path.read_bytes()


@pytest.mark.parametrize('extension', ['jpg', 'png', 'bmp', 'webp'])
def test_damaged_images_are_found_and_whole_ones_are_not(tmp_path, extension):
    whole = make_image(tmp_path / f'whole.{extension}')
    content = {
        'more behind its end': whole + b'\0' * 100,
        'half': whole[: len(whole) // 2],
        'two bytes': whole[:2],
        'nothing': b'',
        'text': b'<html>404</html>',
    }
    for name, data in content.items():
        (tmp_path / f'{name}.{extension}').write_bytes(data)
    names = ['whole', *content, 'nowhere']
    found = find_damaged_images(tmp_path / f'{name}.{extension}' for name in names)
    faults = {'half': 'cut off', 'two bytes': 'no image', 'nothing': 'empty'}
    faults |= {'nowhere': 'missing', 'text': 'no image'}
    assert found == {str(tmp_path / f'{name}.{extension}'): faults[name] for name in sorted(faults)}


def test_a_png_file_that_is_damaged_in_the_middle_is_found(tmp_path):
    content = bytearray(make_image(tmp_path / 'image.png'))
    content[len(content) // 2] ^= 255
    (tmp_path / 'image.png').write_bytes(content)
    assert find_damaged_images([tmp_path / 'image.png']) == {str(tmp_path / 'image.png'): 'damaged'}


def test_a_wrong_checksum_of_a_comment_is_no_fault(tmp_path):
    path = tmp_path / 'image.png'
    comment = b'\0\0\0\3tEXta\0b\1\2\3\4'
    whole = make_image(path)
    end = whole[-12:]
    path.write_bytes(whole[:-12] + comment + end)
    with pytest.raises(SyntaxError), Image.open(path) as image:
        image.verify()
    assert cv2.imread(str(path)) is not None
    assert find_damaged_images([path]) == {}


def test_images_that_pillow_does_not_read_are_no_fault(tmp_path, monkeypatch):
    names = ['float.tiff', 'large.png']
    cv2.imwrite(str(tmp_path / 'float.tiff'), np.zeros((8, 8, 3), np.float32))
    make_image(tmp_path / 'large.png')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 900)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(tmp_path / 'large.png')
    assert find_damaged_images(tmp_path / name for name in names) == {}
