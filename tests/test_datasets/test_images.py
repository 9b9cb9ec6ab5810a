import os
import re
import subprocess
import sys
import zlib
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mmsecvit.datasets import images
from mmsecvit.datasets.images import count_bits, find_size_fault, looks_whole, unreadable_reason


def make_image(path: Path) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path.read_bytes()


def find_damaged_images(paths: Iterable[Path]) -> dict[str, str]:
    reasons = {str(path): unreadable_reason(path) for path in paths}
    return {path: reason for path, reason in reasons.items() if reason}


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


LIMIT = 'OPENCV_IO_MAX_IMAGE_'


@pytest.mark.parametrize('extension', ['jpg', 'png', 'tiff'])
@pytest.mark.parametrize(
    ('variable', 'limit', 'fault'),
    [
        ('PIXELS', '1999', 'too large: .* 50x40 pixels unless the environment has {}=2000 or more'),
        ('WIDTH', '49', 'too large: .* 50x40 pixels unless the environment has {}=50 or more'),
        ('HEIGHT', '39', 'too large: .* 50x40 pixels unless the environment has {}=40 or more'),
        ('PIXELS', '2000', None),
        ('PIXELS', '2KB', None),
        ('PIXELS', '1kb', 'too large: .*'),
    ],
)
def test_images_above_opencvs_limit_are_named_with_it(
    tmp_path, monkeypatch, extension, variable, limit, fault
):
    path = tmp_path / f'image.{extension}'
    whole = make_image(path)
    monkeypatch.setenv(LIMIT + variable, limit)
    for found in (unreadable_reason(path), find_size_fault(whole)):
        assert (found is None) == (fault is None)
        if fault:
            assert re.fullmatch(fault.format(LIMIT + variable), found)


@pytest.mark.slow
def test_the_limit_is_opencvs(tmp_path):
    """OpenCV reads the environment when it is loaded."""
    whole = make_image(tmp_path / 'image.png')
    # The module by itself: importing the toolboxes takes half a minute.
    code = (
        'import cv2, numpy, runpy\n'
        f'find_size_fault = runpy.run_path({images.__file__!r})["find_size_fault"]\n'
        f'content = {whole!r}\n'
        'try: read = cv2.imdecode(numpy.frombuffer(content, numpy.uint8), 1) is not None\n'
        'except cv2.error: read = False\n'
        'assert read == (find_size_fault(content) is None), read\n'
        'print(read)'
    )
    for limit, expected in (('1999', 'False'), ('2000', 'True'), ('1KB', 'False')):
        env = {**os.environ, LIMIT + 'PIXELS': limit}
        done = subprocess.run(
            [sys.executable, '-c', code], env=env, capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == [expected]


def test_an_image_that_is_too_large_for_pillow_and_opencv_is_named(tmp_path):
    # A header of 33,000 x 33,000 pixels; nobody needs to write them all.
    size = (33_000).to_bytes(4, 'big') * 2
    whole = make_image(tmp_path / 'image.png')
    header = b'IHDR' + size + whole[24:29]
    checksum = zlib.crc32(header).to_bytes(4, 'big')
    (tmp_path / 'image.png').write_bytes(whole[:12] + header + checksum + whole[33:])
    fault = unreadable_reason(tmp_path / 'image.png')
    assert fault.endswith(
        'unless the environment has OPENCV_IO_MAX_IMAGE_PIXELS=1089000000 or more'
    )


def test_the_size_of_a_jpeg_file_is_that_of_its_frame(tmp_path, monkeypatch):
    monkeypatch.setenv(LIMIT + 'PIXELS', '1')
    pixels = np.zeros((40, 50, 3), np.uint8)
    exif = Image.Exif()
    exif[270] = 'x' * 3000
    for options in (dict(progressive=True), dict(exif=exif), dict(comment=b'\xff\xc0' * 50)):
        Image.fromarray(pixels).save(tmp_path / 'image.jpg', **options)
        whole = (tmp_path / 'image.jpg').read_bytes()
        assert '50x40' in find_size_fault(whole)
        # Bytes of 255 may come before a marker.
        assert '50x40' in find_size_fault(whole[:2] + b'\xff' * 3 + whole[2:])
        for length in range(3, 200):
            find_size_fault(whole[:length])


@pytest.mark.parametrize(
    ('name', 'dtype', 'bits'),
    [
        ('x.png', np.uint8, 8),
        ('x.png', np.uint16, 16),
        ('x.tiff', np.uint16, 16),
        ('x.jpg', np.uint8, 8),
    ],
)
def test_the_bits_of_a_channel_are_counted(tmp_path, name, dtype, bits):
    cv2.imwrite(str(tmp_path / name), np.zeros((8, 8, 3), dtype))
    assert count_bits(tmp_path / name) == bits
    assert count_bits(tmp_path / 'nowhere.png') == 8
