from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mmsecvit.datasets import find_damaged_images
from mmsecvit.datasets.images import looks_whole


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


@pytest.mark.parametrize('extension', ['jpg', 'png', 'bmp', 'webp', 'tiff', 'gif'])
def test_the_end_of_a_whole_file_is_found_without_decoding(tmp_path, extension):
    whole = make_image(tmp_path / f'image.{extension}')
    known = extension != 'gif'
    assert looks_whole(whole) == known
    # A JPEG file's end is no place that its header states.
    assert looks_whole(whole + b'\0' * 100) == (known and extension != 'jpg')
    for length in (0, 2, 20, len(whole) // 2, len(whole) - 1):
        assert not looks_whole(whole[:length])


def test_the_end_of_opencvs_tiff_files_is_found_too(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    _, whole = cv2.imencode('.tiff', pixels)
    assert looks_whole(whole.tobytes())
    assert not looks_whole(whole.tobytes()[: len(whole) // 2])


def test_the_checksums_of_a_png_file_are_compared(tmp_path):
    whole = make_image(tmp_path / 'image.png')
    # Each byte, except those of the signature and of the lengths, has a checksum or is one.
    for i in (13, 20, 30, 37, len(whole) // 2, len(whole) - 6, len(whole) - 1):
        assert not looks_whole(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
