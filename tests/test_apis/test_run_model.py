import json
import shutil
import subprocess
import venv
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from PIL import Image
from pycocotools import mask as coco_mask

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from mmsecvit.apis import inference, run_model  # noqa: E402
from mmsecvit.apis.run_model import ExportedModel, InputError  # noqa: E402

PACKAGES = ('onnxruntime', 'numpy', 'PIL')
NEEDED_BY_THEM = ('numpy.libs', 'pillow.libs', 'flatbuffers', 'google', 'packaging')
INFO = dict(
    version='0',
    config='config.py',
    part='model',
    classes=['red', 'green', 'blue'],
    palette=None,
    channel_order='RGB',
    size=None,
    divisor=32,
    pad_value=[0, 0, 0],
    transforms=[],
    mask_threshold=0.5,
)
BOXES = np.float32([[16, 8, 80, 40], [0, 20, 30, 70], [100, 0, 120, 30]])
MASKS = np.random.RandomState(0).rand(3, 28, 28).astype(np.float32)


def write(path, nodes, constants=(), **info) -> str:
    """Write a file as the exporter does. Its outputs are what the nodes and constants make.

    Names with an underscore are no outputs.
    """
    constants = {name: np.asarray(value) for name, value in dict(constants).items()}
    nodes = [helper.make_node(kind, inputs, [out], **kw) for kind, inputs, out, kw in nodes]
    given = [numpy_helper.from_array(value, f'_{name}') for name, value in constants.items()]
    nodes += [
        helper.make_node('Identity', [f'_{name}'], [name])
        for name in constants
        if not name.startswith('_')
    ]
    outputs = [
        helper.make_tensor_value_info(
            name,
            TensorProto.INT64 if name == 'labels' else TensorProto.FLOAT,
            constants[name].shape if name in constants else None,
        )
        for name in (output for node in nodes for output in node.output)
        if not name.startswith('_')
    ]
    image = helper.make_tensor_value_info('image', TensorProto.FLOAT, ['B', 3, 'H', 'W'])
    inputs = [image, helper.make_tensor_value_info('size', TensorProto.INT64, [2])]
    if info['task'] != 'detection':
        inputs = [image]
    graph = helper.make_graph(nodes, 'model', inputs, outputs, given)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)
    helper.set_model_props(model, {'mmsecvit': json.dumps({**INFO, **info})})
    onnx.save(model, path)
    return str(path)


def write_detector(path, **info) -> str:
    outputs = dict(scores=np.float32([0.9, 0.6, 0.5]), labels=[2, 0, 1], masks=MASKS)
    outputs.update(_boxes=BOXES, _order=[1, 0, 1, 0])
    clip = [
        ('Gather', ['size', '__order'], '_border', {}),
        ('Cast', ['_border'], '_limits', dict(to=TensorProto.FLOAT)),
        ('Min', ['__boxes', '_limits'], 'boxes', {}),
    ]
    resize = dict(type='Resize', scale=[96, 64], keep_ratio=True)
    info = dict(task='detection', size=[64, 128], transforms=[resize], **info)
    return write(path, clip, outputs, **info)


def photo(height, width, seed=0) -> np.ndarray:
    """A smooth random image, (H, W, 3), uint8."""
    small = np.random.RandomState(seed).randint(0, 256, (7, 9, 3)).astype(np.uint8)
    return mmcv.imresize(small, (width, height), interpolation='bicubic')


@pytest.mark.parametrize('size', [(32, 32), (80, 133), (101, 50), (53, 75), (106, 150)])
def test_resizing_is_opencvs(size):
    image = np.random.RandomState(0).randint(0, 256, (53, 75, 3)).astype(np.uint8)
    expected = mmcv.imresize(image, size[::-1], interpolation='bilinear')
    assert (run_model.resize_pixels(image, size) == expected).all()
    for kind in ('bilinear', 'bicubic'):
        got = run_model.resize(image, size, kind).round().clip(0, 255)
        expected = mmcv.imresize(image, size[::-1], interpolation=kind)
        # OpenCV rounds its weights to 11 bits.
        assert np.abs(got - expected).max() <= 1


def test_masks_are_pasted_as_by_mmdet():
    boxes = np.float32([[3.3, 4.7, 40.2, 30.1], [-5, 10, 20, 80], [30.5, 0, 31.2, 9]])
    expected, _ = _do_paste_mask(
        torch.from_numpy(MASKS)[:, None], torch.from_numpy(boxes), 48, 64, skip_empty=False
    )
    for mask, box, pasted in zip(MASKS, boxes, expected, strict=True):
        got = run_model.paste_mask(mask, box, (48, 64))
        # Float32 against float64: a position of up to 2000 pixels of the mask.
        np.testing.assert_allclose(got, pasted, atol=1e-4)


@pytest.mark.parametrize('share', [0, 0.01, 0.5, 1])
def test_masks_are_encoded_as_by_pycocotools(share):
    mask = np.random.RandomState(0).rand(300, 401) < share
    mask[40:200, 100:300] = share > 0  # long runs: counts of several characters, and falling ones
    expected = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    got = run_model.encode_mask(mask)
    assert got == dict(size=expected['size'], counts=expected['counts'].decode())


def test_boxes_and_masks_of_a_detector_are_in_pixels_of_the_image(tmp_path):
    model = ExportedModel(write_detector(tmp_path / 'x.onnx'))
    # (41, 60) to the scale (96, 64): the ratio is 64 / 41 = 1.561, and 60 becomes 93.7, so 94.
    result = model(photo(41, 60))
    factors = np.float32([94 / 60, 64 / 41] * 2)
    boxes = BOXES.clip(0, np.float32([94, 64] * 2)) / factors
    assert result['labels'] == [2, 0, 1]
    assert result['classes'] == ['blue', 'red', 'green']
    assert result['scores'] == pytest.approx([0.9, 0.6, 0.5])
    np.testing.assert_allclose(result['bboxes'], boxes, rtol=1e-6)
    pasted, _ = _do_paste_mask(
        torch.from_numpy(MASKS[:2])[:, None], torch.from_numpy(boxes[:2]), 41, 60, skip_empty=False
    )
    sure = (pasted - 0.5).abs().numpy() > 1e-4
    assert (np.stack(result['masks'][:2]) == (pasted.numpy() >= 0.5))[sure].all()
    assert result['masks'][0].any()
    assert not result['masks'][2].any()  # the third was in the padding, and is a line
    # A portrait image becomes smaller than the config says: (60, 41) to (64, 44), not (96, 66).
    (box, *_) = model(photo(60, 41))['bboxes']
    factors = np.float32([44 / 41, 64 / 60] * 2)
    np.testing.assert_allclose(box, BOXES[0].clip(0, [44, 64] * 2) / factors, rtol=1e-6)


def test_scores_of_a_segmenter_are_resized_as_by_mmseg(tmp_path):
    step = dict(type='Resize', scale=[96, 48], keep_ratio=True)
    model = ExportedModel(
        write(
            tmp_path / 'x.onnx',
            [('Identity', ['image'], 'scores', {})],
            task='segmentation',
            transforms=[step],
            channel_order='BGR',
            pad_value=[255, 255, 255],
        )
    )
    image = photo(90, 130)
    result = model(image)
    resized = mmcv.imrescale(image[..., ::-1], (96, 48))
    assert resized.shape == (48, 69, 3)
    scores = torch.from_numpy(resized.transpose(2, 0, 1)[None]).float()
    scores = F.interpolate(scores, (90, 130), mode='bilinear')[0]
    labels = np.full((90, 130), -1)
    for label, mask in zip(result['labels'], result['masks'], strict=True):
        labels[mask] = label
    best = scores.topk(2, dim=0).values
    sure = (best[0] - best[1] > 2).numpy()  # a gray level of each by resizing the image
    assert sure.mean() > 0.9
    assert (labels == scores.argmax(0).numpy())[sure].all()
    assert result['classes'] == [INFO['classes'][label] for label in result['labels']]


def test_labels_of_a_segmenter_are_cropped_and_take_the_nearest(tmp_path):
    nodes = [('ArgMax', ['image'], 'labels', dict(axis=1, keepdims=0))]
    transforms = [dict(type='Resize', scale=[40, 40], keep_ratio=False)]
    info = dict(task='segmentation', transforms=transforms, pad_value=[0, 0, 255])
    model = ExportedModel(write(tmp_path / 'x.onnx', nodes, **info))
    image = np.zeros((80, 80, 3), np.uint8)
    image[:, :20, 0], image[:, 20:, 1] = 255, 255
    result = model(image)
    assert result['classes'] == ['red', 'green']  # no blue of the padding
    assert result['masks'][0].shape == (80, 80)
    assert (result['masks'][0] == (image[..., 0] > 0)).all()


def test_a_classifier_sees_what_mmpretrain_shows_it(tmp_path):
    edge = dict(type='ResizeEdge', scale=64, edge='short', interpolation='bicubic')
    crop = dict(type='CenterCrop', crop_size=[48, 56])
    nodes = [('ReduceMean', ['image'], 'scores', dict(axes=[2, 3], keepdims=0))]
    info = dict(task='classification', size=[48, 56], channel_order='BGR')
    info['transforms'] = [dict(edge, backend='pillow'), crop]
    path = write(tmp_path / 'x.onnx', nodes, **info)
    image = photo(150, 101)
    result = ExportedModel(path)(image)
    resized = mmcv.imresize(image, (64, 95), interpolation='bicubic', backend='pillow')
    means = resized[24:72, 4:60, ::-1].mean((0, 1))  # round(23.5) is 24
    assert result['pred_scores'] == pytest.approx(means.tolist(), rel=1e-5)
    assert result['pred_label'] == means.argmax()
    assert result['pred_class'] == INFO['classes'][means.argmax()]
    assert result['pred_score'] == max(result['pred_scores'])
    assert result['classes'] == INFO['classes']

    info['transforms'] = [edge]
    other = ExportedModel(write(tmp_path / 'y.onnx', nodes, **info))
    message = r'takes \[48, 56\] pixels after its transforms, got \[95, 64\]'
    with pytest.raises(InputError, match=message):
        other(image)


def test_files_pillow_images_and_arrays_give_one_result(tmp_path):
    model = ExportedModel(write_detector(tmp_path / 'x.onnx'))
    upright = photo(40, 60)
    turned = Image.fromarray(upright).rotate(90, expand=True)
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
    turned.save(tmp_path / 'turned.png', exif=exif)
    # As the toolboxes' loader.
    assert (mmcv.imread(tmp_path / 'turned.png', channel_order='rgb') == upright).all()
    assert (run_model.load_image(tmp_path / 'turned.png') == upright).all()
    results = [model(tmp_path / 'turned.png'), model(Image.fromarray(upright)), model(upright)]
    texts = {json.dumps(result, default=run_model.encode_mask) for result in results}
    assert len(texts) == 1


def test_pictures_show_boxes_masks_and_scores(tmp_path):
    model = ExportedModel(write_detector(tmp_path / 'x.onnx', palette=[[0, 0, 255]] * 3))
    image = np.full((128, 192, 3), 200, np.uint8)
    result = model(image)
    picture = model.draw(image, result)
    assert picture.size == (192, 128)
    drawn = np.array(picture)
    assert (image == 200).all()  # the original is as it was
    left, _, right, bottom = map(int, result['bboxes'][0])
    assert (drawn[bottom, (left + right) // 2] == [0, 0, 255]).all()
    only_mask = result['masks'][0] & ~result['masks'][1]
    assert (drawn[only_mask] == [100, 100, 227]).all(-1).mean() > 0.5
    nothing = np.array(model.draw(image, result, threshold=1))
    assert (nothing == image).all()


@pytest.mark.parametrize(
    ('image', 'message'),
    [
        (np.ones((8, 9, 3), np.float32), r'got float32 of shape \(8, 9, 3\) with values from 1 to'),
        (np.ones((8, 9), np.uint8), r'must be \(H, W, 3\), uint8, .* 0 to 255, got uint8 of .*, 9'),
        ('no.png', 'no.png cannot be read as an image: .*No such file'),
    ],
)
def test_images_of_other_kinds_are_refused(tmp_path, image, message):
    model = ExportedModel(write_detector(tmp_path / 'x.onnx'))
    with pytest.raises(InputError, match=message):
        model(image)


def test_files_of_other_kinds_are_refused(tmp_path):
    text, foreign = tmp_path / 'text.onnx', tmp_path / 'foreign.onnx'
    text.write_text('no model')
    with pytest.raises(InputError, match=r'text.onnx must be an ONNX file that can be run: '):
        ExportedModel(text)
    with pytest.raises(InputError, match=r"no.onnx must be an ONNX file .* doesn't exist"):
        ExportedModel(tmp_path / 'no.onnx')
    model = onnx.load(write_detector(foreign))
    del model.metadata_props[:]
    onnx.save(model, foreign)
    with pytest.raises(InputError, match='must be a file that tools/deployment/export.py'):
        ExportedModel(foreign)
    # Before the input `size` was added.
    nodes = [('Identity', ['image'], 'boxes', {})]
    model = onnx.load(write(tmp_path / 'old.onnx', nodes, task='segmentation'))
    helper.set_model_props(model, {'mmsecvit': json.dumps({**INFO, 'task': 'detection'})})
    onnx.save(model, tmp_path / 'old.onnx')
    with pytest.raises(InputError, match='old.onnx must take image and size, but takes image, as'):
        ExportedModel(tmp_path / 'old.onnx')
    backbone = write_detector(tmp_path / 'backbone.onnx', part='backbone')
    with pytest.raises(InputError, match='must hold a whole model, but holds its backbone'):
        ExportedModel(backbone)


@pytest.mark.parametrize('color', [(0, 0, 142), (255, 255, 0), (119, 11, 32), (117, 117, 117)])
def test_text_can_be_read_on_every_color(color):
    c = np.divide(color, 255)
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)  # sRGB
    luminance = linear @ (0.2126, 0.7152, 0.0722)
    to_white, to_black = 1.05 / (luminance + 0.05), (luminance + 0.05) / 0.05
    contrast = to_black if run_model.text_color(color) == (0, 0, 0) else to_white
    assert contrast >= 4.5  # WCAG's minimum


def test_images_are_found_as_by_the_demo(tmp_path, monkeypatch):
    assert set(run_model.SUFFIXES) == set(inference.IMG_EXTENSIONS)
    monkeypatch.chdir(tmp_path)
    for name in ('a/x.png', 'a/y.JPG', 'a/notes.txt', 'a/b/z.png', 'c.png'):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    for given in (['a'], ['c.png', 'a/x.png', 'a'], ['**/*.png'], ['a/notes.txt', 'a/b']):
        assert sorted(run_model.find_images(given)) == sorted(inference.find_images(given))
    with pytest.raises(InputError, match='images must be files, folders or patterns; d has none'):
        run_model.find_images(['a', 'd'])
    with pytest.raises(InputError, match='names without suffix, got a/x.png and x.jpg'):
        Path('x.jpg').touch()
        run_model.run('no.onnx', ['a', 'x.jpg'], 'out')


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
    """Return a function that runs a copy of the module where there are three packages only."""
    root = tmp_path_factory.mktemp('alone')
    venv.create(root / 'venv', symlinks=True, with_pip=False)
    (site,) = (root / 'venv').glob('lib/python*/site-packages')
    for name in (*PACKAGES, *NEEDED_BY_THEM):
        for source in Path(np.__file__).parents[1], Path(onnx.__file__).parents[1]:
            if (source / name).exists() and not (site / name).exists():
                (site / name).symlink_to(source / name)
    shutil.copy(run_model.__file__, root / 'run_model.py')

    def run(*arguments):
        command = [root / 'venv/bin/python', root / 'run_model.py', *arguments]
        return subprocess.run(map(str, command), capture_output=True, text=True, cwd=root, env={})

    return run


def test_a_copy_of_the_module_needs_three_packages_only(tmp_path, alone):
    path, out = write_detector(tmp_path / 'x.onnx'), tmp_path / 'out'
    images = [tmp_path / 'a.png', tmp_path / 'folder/broken.png', tmp_path / 'folder/b.jpg']
    for folder in (images[1].parent, out / 'vis'):  # an empty folder of results is no fault
        folder.mkdir(parents=True)
    for image in images:
        Image.fromarray(photo(41, 60)).save(image)
    images[1].write_bytes(images[1].read_bytes()[:2000])
    done = alone(path, images[0], images[1].parent, '--out', out)
    assert done.returncode == 1
    places = f'pictures are in {out}/vis, predictions in {out}/preds'
    assert done.stdout == f'Predicted for 2 of 3 images: {places}.\n'
    assert done.stderr.startswith('Skipped what cannot be read or predicted for:\n')
    assert f'{images[1]} cannot be read as an image: ' in done.stderr
    assert len(done.stderr.splitlines()) == 2
    assert {p.name for p in out.rglob('*.*')} == {'a.png', 'b.png', 'a.json', 'b.json'}
    with Image.open(out / 'vis/a.png') as picture:
        assert picture.size == (60, 41)

    record = json.loads((out / 'preds/a.json').read_text())
    expected = ExportedModel(path)(images[0])
    assert record['image'] == str(images[0])
    assert {k: record[k] for k in ('labels', 'classes', 'bboxes', 'scores')} == {
        k: expected[k] for k in ('labels', 'classes', 'bboxes', 'scores')
    }
    decoded = coco_mask.decode(record['masks'])
    assert (decoded.transpose(2, 0, 1) == np.stack(expected['masks'])).all()

    again = alone(path, images[0], '--out', out)
    message = f'out must be a folder without results of these images, but {out}/vis/a.png exists\n'
    assert again.stderr == message
    foreign = alone(images[0], images[0], '--out', tmp_path / 'other')
    assert foreign.stderr.count('\n') == 1 and 'must be an ONNX file' in foreign.stderr
    assert not (tmp_path / 'other').exists()


def test_a_missing_package_is_named(tmp_path):
    venv.create(tmp_path / 'venv', symlinks=True, with_pip=False)
    done = subprocess.run(
        [tmp_path / 'venv/bin/python', run_model.__file__, 'x.onnx', 'x.png'],
        capture_output=True,
        text=True,
        env={},
    )
    assert done.returncode == 1
    assert done.stderr.startswith('run_model.py needs more packages: pip install onnxruntime numpy')
