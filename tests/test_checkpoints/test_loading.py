from collections import OrderedDict

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader
from mmengine.utils import digit_version

from mmsecvit import SecViT
from mmsecvit.checkpoints import (
    CheckpointError,
    CheckpointReader,
    check_weights,
    read_checkpoint,
    read_state_dict,
)

MICRO = dict(embed_dims=(16, 16, 32, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4))


def pretrained(path, variant='released', arch=MICRO, **kwargs):
    init_cfg = dict(type='Pretrained', checkpoint=str(path))
    return SecViT(arch, variant, init_cfg=init_cfg, **kwargs)


@pytest.fixture
def weights():
    return SecViT(MICRO, 'released').state_dict()


@pytest.mark.parametrize(
    'wrap',
    [
        lambda w: w,
        lambda w: {'model': w},
        lambda w: {'state_dict': w, 'meta': {'epoch': 3}},
        lambda w: {'module.' + k: v for k, v in w.items()},
        lambda w: {
            'state_dict': {'backbone.' + k: v for k, v in w.items()} | {'head.x': w['stem.0.bias']}
        },
    ],
    ids=['plain', 'model', 'state_dict', 'module', 'detector'],
)
def test_weights_are_loaded_from_every_common_form(tmp_path, weights, wrap):
    torch.save(wrap(weights), tmp_path / 'weights.pth')
    backbone = pretrained(tmp_path / 'weights.pth')
    backbone.init_weights()
    assert backbone.state_dict().keys() == weights.keys()
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, weights[key]), key


def test_released_weights_are_loaded_directly(tmp_path, golden):
    torch.save({'model': golden['state_dict']}, tmp_path / 'released.pth')
    config = golden['config']
    arch = dict(
        embed_dims=config['embed_dims'],
        depths=config['depths'],
        num_heads=config['num_heads'],
        layer_scale=config['layerscales'],
    )
    backbone = pretrained(tmp_path / 'released.pth', arch=arch).eval()
    backbone.init_weights()
    case = golden['cases'][0]
    out, expected = backbone(case['input'])[3], case['stages'][3]
    assert (out - expected).abs().max() <= golden['rounding'] * expected.abs().max()


def test_a_pretraining_checkpoint_serves_dense_options(tmp_path, weights):
    torch.save(weights, tmp_path / 'weights.pth')
    backbone = pretrained(tmp_path / 'weights.pth', out_norm=True, out_indices=(0, 1))
    backbone.init_weights()
    for key, value in backbone.state_dict().items():
        expected = weights.get(key, torch.full_like(value, key.endswith('weight')))
        assert torch.equal(value, expected), key


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (
            dict(variant='paper'),
            r'weights.pth is not of this SecViT: 8 weights of the file have no place here '
            r"\(first: stages.0.0.ffn.conv.weight\); set the backbone's variant to 'released' "
            r"\(it is 'paper'\)$",
        ),
        (
            dict(arch=dict(MICRO, depths=(1, 2, 1, 1))),
            r'18 weights are missing in the file \(first: stages.1.1.cpe.weight\)',
        ),
        (
            dict(arch=dict(MICRO, embed_dims=(16, 16, 32, 64))),
            r'weights have another shape \(first: downsamples.2.conv.weight is '
            r'\(32, 32, 3, 3\) in the file and \(64, 32, 3, 3\) here\)',
        ),
    ],
)
def test_weights_of_another_network_are_refused_with_what_to_change(
    tmp_path, weights, arguments, message
):
    torch.save(weights, tmp_path / 'weights.pth')
    backbone = pretrained(tmp_path / 'weights.pth', **arguments)
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        backbone.init_weights()
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())


@pytest.mark.parametrize(
    ('given', 'own', 'advice'),
    [
        ('tiny', dict(arch='small'), "arch to 'tiny' (it is 'small')"),
        ('tiny', dict(arch='base', out_indices=(0, 1)), "arch to 'tiny' (it is 'base')"),
        (
            dict(MICRO, ffn_ratio=2),
            dict(arch='tiny', variant='paper'),
            "arch to {'embed_dims': (16, 16, 32, 32), 'depths': (1, 1, 1, 1), 'ffn_ratio': 2.0, "
            "'layer_scale': (False, False, False, False)} (it is 'tiny') and set the backbone's "
            "variant to 'released' (it is 'paper')",
        ),
    ],
)
def test_the_size_to_change_to_is_named(tmp_path, given, own, advice):
    torch.save(SecViT(given, 'released').state_dict(), tmp_path / 'weights.pth')
    with pytest.raises(ValueError) as refused:
        pretrained(tmp_path / 'weights.pth', **own).init_weights()
    assert str(refused.value).endswith(f"; set the backbone's {advice}")


def test_what_is_no_secvit_is_refused_without_advice(tmp_path):
    torch.save({'conv1.weight': torch.zeros(64, 3, 7, 7)}, tmp_path / 'resnet.pth')
    with pytest.raises(ValueError, match='of the file have no place here .first: conv1.weight.'):
        pretrained(tmp_path / 'resnet.pth').init_weights()


@pytest.mark.skipif(
    digit_version(torch.__version__) < digit_version('2.6'),
    reason='torch below 2.6 cannot be told what to trust',
)
def test_mmengines_own_checkpoints_are_read(tmp_path):
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    checkpoint = dict(
        state_dict=OrderedDict(w=torch.arange(3.0)),
        message_hub=dict(log_scalars=OrderedDict(loss=history), lr=np.float64(0.1)),
    )
    torch.save(checkpoint, tmp_path / 'epoch_1.pth')
    assert torch.equal(read_state_dict(tmp_path / 'epoch_1.pth')['w'], torch.arange(3.0))


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ('payload', 'culprit'),
    [
        # io.open in Python <= 3.11, _io.open in later ones.
        (lambda marker: Call(open, str(marker), 'w'), f'{open.__module__}.open'),
        # The first step from what a HistoryBuffer needs to everything in builtins.
        (lambda marker: Call(getattr, getattr, '__self__'), 'getattr'),
    ],
    ids=['call', 'getattr'],
)
@pytest.mark.parametrize('read', [read_state_dict, CheckpointLoader.load_checkpoint])
def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path, payload, culprit, read):
    marker = tmp_path / 'marker'
    torch.save({'state_dict': {}, 'x': payload(marker)}, tmp_path / 'evil.pth')
    refused = pytest.raises(
        ValueError,
        match=rf'evil.pth holds more than data \({culprit}\S*\) and was not read; if you trust '
        r'where it comes from, add --trust-checkpoint \(in Python: trust=True\)$',
    )
    with CheckpointReader().serving_mmengine(), refused:
        read(str(tmp_path / 'evil.pth'))
    assert not marker.exists()


def test_a_backbone_loads_by_the_reader_in_service_and_else_as_data(tmp_path, weights):
    marker = tmp_path / 'marker'
    torch.save({'state_dict': weights, 'x': Call(open, str(marker), 'w')}, tmp_path / 'evil.pth')
    backbone = pretrained(tmp_path / 'evil.pth')
    with pytest.raises(CheckpointError, match='holds more than data'):
        backbone.init_weights()
    assert not marker.exists()
    with CheckpointReader(trust=True).serving_mmengine():
        backbone.init_weights()
    assert marker.exists()
    with pytest.raises(CheckpointError, match='holds more than data'):
        pretrained(tmp_path / 'evil.pth').init_weights()


def test_a_reader_reads_once_and_lets_go_of_what_was_loaded(tmp_path):
    path = str(tmp_path / 'weights.pth')
    torch.save({'state_dict': {'w': torch.zeros(1)}}, path)
    reader = CheckpointReader()
    checkpoint = reader.read(path)
    assert reader.read(path) is checkpoint
    with reader.serving_mmengine():
        assert CheckpointLoader.load_checkpoint(path, map_location='cpu') is checkpoint
        assert CheckpointLoader.load_checkpoint(path, map_location='cpu') is not checkpoint
    assert reader.read(path) is not checkpoint


def test_what_mmengine_and_torch_read_is_as_before_afterwards(tmp_path, monkeypatch):
    def of_a_user(path, map_location=None):
        return 'of a user'

    monkeypatch.setattr(CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes))
    CheckpointLoader.register_scheme('https://', of_a_user, force=True)
    before = dict(CheckpointLoader._schemes)
    torch.save({'state_dict': {'w': torch.zeros(1)}}, tmp_path / 'weights.pth')
    with pytest.raises(KeyError), CheckpointReader().serving_mmengine():
        assert CheckpointLoader._schemes != before
        raise KeyError
    assert CheckpointLoader._schemes == before
    assert CheckpointLoader.load_checkpoint('https://x/y.pth') == 'of a user'


@pytest.mark.skipif(
    digit_version(torch.__version__) < digit_version('2.6'),
    reason='torch below 2.6 cannot be told what to trust',
)
def test_what_torch_trusts_is_as_before_afterwards(tmp_path):
    torch.save({'w': torch.zeros(1)}, tmp_path / 'weights.pth')
    with torch.serialization.safe_globals([HistoryBuffer, OrderedDict]):
        before = set(torch.serialization.get_safe_globals())
        read_checkpoint(tmp_path / 'weights.pth')
        assert set(torch.serialization.get_safe_globals()) == before


def test_what_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='checkpoint .*absent.pth does not exist'):
        read_state_dict(tmp_path / 'absent.pth')
    # A closed port: the network is to blame, not the file.
    with pytest.raises(
        OSError, match='checkpoint http://127.0.0.1:9/x.pth cannot be read: .*refus'
    ):
        read_state_dict('http://127.0.0.1:9/x.pth')
    (tmp_path / 'text.pth').write_text('no checkpoint')
    with pytest.raises(ValueError, match='text.pth cannot be read: it is damaged or no checkpoint'):
        read_state_dict(tmp_path / 'text.pth')
    torch.save({'epoch': 3}, tmp_path / 'empty.pth')
    with pytest.raises(ValueError, match="empty.pth holds no state dict: 'epoch' is no tensor"):
        read_state_dict(tmp_path / 'empty.pth')


def test_weights_that_are_nan_are_refused(tmp_path, weights):
    path = tmp_path / 'diverged.pth'
    weights['stages.1.0.norm1.bias'][3] = float('nan')
    torch.save(dict(state_dict=weights), path)
    message = r'diverged.pth must have numbers, but 1 of its weights hold NaN \(first: stages.1.0'
    with pytest.raises(CheckpointError, match=message):
        pretrained(path).init_weights()
    with pytest.raises(CheckpointError, match=message):
        check_weights(SecViT(MICRO, 'released'), read_checkpoint(path), path, 'config.py')


@pytest.mark.parametrize('size', [0, 100, 5000, 20000])
def test_a_file_that_was_cut_off_is_damaged(tmp_path, weights, size):
    path = tmp_path / 'cut.pth'
    torch.save(dict(state_dict=weights), path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match='cut.pth cannot be read: it is damaged'):
        read_checkpoint(path)
