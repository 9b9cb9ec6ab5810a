import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from mmengine.runner.checkpoint import CheckpointLoader, load_checkpoint
from torch import nn
from torch.optim.swa_utils import AveragedModel

from mmsecvit import SecViT
from mmsecvit.checkpoints import (
    CheckpointError,
    CheckpointReader,
    check_weights,
    read_checkpoint,
    read_state_dict,
    to_released,
)

MICRO = dict(embed_dims=(16, 16, 32, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4))


def micro(**kwargs):
    return SecViT(MICRO, 'released', **kwargs)


@pytest.fixture(scope='module')
def weights():
    return micro().state_dict()


def pre(prefix, weights, add=0):
    return {prefix + key: value + add for key, value in weights.items()}


def load(path, **init_cfg):
    """Return the weights that a backbone loads from a file."""
    backbone = micro(init_cfg=dict(type='Pretrained', checkpoint=str(path), **init_cfg))
    backbone.init_weights()
    return backbone.state_dict()


def assert_equal(given, expected):
    assert given.keys() == expected.keys()
    assert all(torch.equal(given[key], value) for key, value in expected.items())


FORMS = {
    'torch.compile': lambda w: dict(state_dict=pre('_orig_mod.', w)),
    'compiled part': lambda w: dict(state_dict=pre('backbone._orig_mod.', w)),
    'compiled, then DDP': lambda w: pre('module._orig_mod.', w),
    'DDP of a detector': lambda w: dict(state_dict=pre('module.backbone.', w)),
    'FSDP with activation checkpointing': lambda w: pre(
        'backbone._fsdp_wrapped_module._checkpoint_wrapped_module.', w
    ),
    'DeepSpeed': lambda w: dict(module=w, ds_version='0.1', optimizer=dict(state={0: w})),
    'DeepSpeed of a detector': lambda w: dict(module=pre('backbone.', w), ds_config=dict(x=1)),
    'Lightning': lambda w: {
        'state_dict': pre('model.', w),
        'pytorch-lightning_version': '2.1',
        'hyper_parameters': dict(lr=0.1),
    },
    'Lightning of a detector': lambda w: dict(
        state_dict=pre('net.backbone.', w) | dict(scale=w['stem.0.bias'])
    ),
    'tutorial': lambda w: dict(epoch=1, model_state_dict=w, optimizer_state_dict=dict(state={})),
    'its own name': lambda w: dict(epoch=1, weights=w),
    'only an average': lambda w: dict(model_ema=w),
    'an average and the weights': lambda w: dict(model=w, model_ema=pre('', w, add=1)),
    'self-supervised': lambda w: dict(
        state_dict=pre('backbone.', w) | pre('target_net.module.0.', w, add=1)
    ),
    'authors, in Lightning': lambda w: dict(
        state_dict=pre('model.', to_released(pre('backbone.', w), [16, 8, 16, 8]))
    ),
}


@pytest.mark.parametrize('form', FORMS)
def test_weights_are_loaded_as_other_programs_write_them(tmp_path, weights, form):
    torch.save(FORMS[form](weights), tmp_path / 'weights.pth')
    assert_equal(load(tmp_path / 'weights.pth'), weights)


@pytest.mark.parametrize('average', [AveragedModel, ExponentialMovingAverage])
def test_a_moving_average_is_loaded_without_its_counter(tmp_path, average):
    backbone = micro()
    torch.save(average(backbone).state_dict(), tmp_path / 'weights.pth')
    assert_equal(load(tmp_path / 'weights.pth'), backbone.state_dict())


@pytest.mark.parametrize(
    'wrap', [lambda m: nn.ModuleDict(dict(module=m)), AveragedModel, ExponentialMovingAverage]
)
def test_versions_of_modules_are_kept(tmp_path, wrap):
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    torch.save(dict(state_dict=wrap(model).state_dict()), tmp_path / 'weights.pth')
    given = read_state_dict(tmp_path / 'weights.pth')
    assert_equal(given, model.state_dict())
    assert given._metadata == model.state_dict()._metadata
    assert given._metadata['1'] == dict(version=2)


@pytest.mark.parametrize(
    'prefix',
    [
        'teacher.backbone.',
        'teacher.backbone',  # mmengine adds the dot
        'teacher.',
        'module.teacher._orig_mod.backbone.',  # as it is in the file
    ],
)
@pytest.mark.parametrize('student', ['student.backbone.', 'backbone.'])
def test_a_prefix_chooses_among_the_backbones_of_a_file(tmp_path, weights, student, prefix):
    both = pre(student, weights, add=1) | pre('teacher._orig_mod.backbone.', weights)
    torch.save(dict(state_dict=pre('module.', both)), tmp_path / 'weights.pth')
    assert_equal(load(tmp_path / 'weights.pth', prefix=prefix), weights)


@pytest.mark.parametrize('prefix', ['model_ema', 'model_ema.', 'model_ema.backbone.'])
def test_a_prefix_chooses_among_the_sets_of_a_file(tmp_path, weights, prefix):
    average = pre('module.backbone.', weights) | dict(steps=torch.tensor(3))
    content = dict(model=pre('backbone.', weights, add=1), model_ema=average)
    torch.save(content, tmp_path / 'weights.pth')
    assert_equal(load(tmp_path / 'weights.pth', prefix=prefix), weights)


@pytest.mark.parametrize(
    ('content', 'init_cfg', 'message'),
    [
        (
            lambda w: pre('student.backbone.', w) | pre('teacher.backbone.', w),
            {},
            r"has a SecViT under 'student.backbone.' and 'teacher.backbone.': choose one in the "
            r"config, with init_cfg=dict\(type='Pretrained', checkpoint='.*weights.pth', "
            r"prefix='student.backbone.'\)$",
        ),
        (
            lambda w: dict(student=w, teacher=w, epoch=3),
            {},
            r'holds several sets of weights \(student, teacher\): choose one .* '
            r"prefix='student.'\)$",
        ),
        (
            lambda w: pre('backbone.', w) | dict(neck=w['stem.0.bias']),
            dict(prefix='no.such.'),
            r"has no weights under init_cfg.prefix 'no.such.': their names begin with backbone, "
            r'neck$',
        ),
        (
            lambda w: dict(student=w, teacher=w),
            dict(prefix='no.such.'),
            'their names begin with student, teacher$',
        ),
        (
            lambda w: pre('model.', {k: v for k, v in w.items() if k != 'stages.1.0.norm1.bias'}),
            {},
            r"not of this SecViT under 'model.': 1 weights are missing in the file \(first: "
            r'stages.1.0.norm1.bias\)',
        ),
        (
            lambda w: dict(module={key: torch.empty(0) for key in w}),
            {},
            r"parts of the weights \(DeepSpeed's ZeRO 3\), which zero_to_fp32.py joins$",
        ),
        (
            lambda w: w,
            dict(prefiks='teacher.'),
            'init_cfg of the type Pretrained takes checkpoint and prefix, got prefiks$',
        ),
    ],
)
def test_what_has_no_one_reading_is_refused(tmp_path, weights, content, init_cfg, message):
    torch.save(content(weights), tmp_path / 'weights.pth')
    with pytest.raises(ValueError, match=message):
        load(tmp_path / 'weights.pth', **init_cfg)


def test_of_two_backbones_the_one_that_fits_is_loaded(tmp_path, weights):
    larger = SecViT(dict(MICRO, depths=(1, 2, 1, 1)), 'released').state_dict()
    both = pre('teacher.backbone.', larger) | pre('student.backbone.', weights)
    torch.save(both, tmp_path / 'weights.pth')
    assert_equal(load(tmp_path / 'weights.pth'), weights)


def test_a_scope_before_the_type_of_the_initialization_is_heeded(tmp_path, weights):
    torch.save(pre('backbone.', weights), tmp_path / 'weights.pth')
    backbone = micro(
        init_cfg=dict(type='mmengine.Pretrained', checkpoint=str(tmp_path / 'weights.pth'))
    )
    backbone.init_weights()
    assert_equal(backbone.state_dict(), weights)


@pytest.mark.parametrize('wrap', [lambda w: w, lambda w: dict(model=w), lambda w: dict(module=w)])
def test_mmengine_finds_the_weights_of_a_whole_model(tmp_path, wrap):
    torch.save(wrap({'_orig_mod.weight': torch.ones(2, 2)}), tmp_path / 'weights.pth')
    model = nn.Linear(2, 2, bias=False)
    with CheckpointReader().serving_mmengine():
        load_checkpoint(model, str(tmp_path / 'weights.pth'), strict=True)
    assert torch.equal(model.weight, torch.ones(2, 2))


def test_the_prefix_of_a_whole_model_is_named():
    model = nn.Linear(2, 2)
    given = pre('model.', model.state_dict())
    with pytest.raises(
        CheckpointError, match="; it is under 'model.' in the file: save it without this prefix$"
    ):
        check_weights(model, given, 'weights.pth', 'config.py')


def test_a_model_renames_the_weights_that_are_checked():
    pytest.importorskip('mmdet')
    from mmdet.models.detectors import SemiBaseDetector

    class Pair(SemiBaseDetector):
        def __init__(self):
            nn.Module.__init__(self)
            self.student, self.teacher = nn.Linear(2, 2), nn.Linear(2, 2)

    plain = nn.Linear(2, 2).state_dict()
    check_weights(Pair(), plain, 'weights.pth', 'config.py')
    with pytest.raises(CheckpointError, match='2 weights are missing'):
        check_weights(Pair(), dict(weight=plain['weight']), 'weights.pth', 'config.py')


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        (
            ['global_step3/mp_rank_00_model_states.pt', 'latest'],
            'is a folder of DeepSpeed: give .*/global_step3/mp_rank_00_model_states.pt, or, for '
            'ZeRO 3, the file that zero_to_fp32.py in it makes$',
        ),
        (
            ['zero_pp_rank_0_mp_rank_00_model_states.pt'],
            'is a folder of DeepSpeed: give the file that zero_to_fp32.py in it makes$',
        ),
        (['__0_0.distcp', '.metadata'], 'format_utils dcp_to_torch .* FILE`$'),
        (['notes.txt'], 'must be a file, but is a folder$'),
    ],
)
def test_the_file_to_give_in_place_of_a_folder_is_named(tmp_path, names, message):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path)


def test_programs_and_packages_that_are_missing_are_named(tmp_path):
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / 'program.pth')
    with pytest.raises(CheckpointError, match=r'is a TorchScript program: save the state_dict\(\)'):
        read_state_dict(tmp_path / 'program.pth')
    (tmp_path / 'weights.pth').write_bytes(b'cabsent_package\nThing\n.')
    with pytest.raises(CheckpointError, match='objects of the package absent_package, which is no'):
        read_state_dict(tmp_path / 'weights.pth', trust=True)


def test_a_whole_module_is_read_if_trusted(tmp_path):
    model = nn.Linear(2, 2)
    torch.save(model, tmp_path / 'module.pth')
    assert_equal(read_state_dict(tmp_path / 'module.pth', trust=True), model.state_dict())


def test_safetensors_are_read(tmp_path, weights):
    save_file = pytest.importorskip('safetensors.torch').save_file
    save_file(pre('backbone.', weights), tmp_path / 'weights.safetensors')
    assert_equal(load(tmp_path / 'weights.safetensors'), weights)
    with CheckpointReader().serving_mmengine():
        content = CheckpointLoader.load_checkpoint(str(tmp_path / 'weights.safetensors'))
    assert_equal(content['state_dict'], pre('backbone.', weights))
    (tmp_path / 'cut.safetensors').write_bytes(b'\0' * 20)
    with pytest.raises(CheckpointError, match='cut.safetensors cannot be read: it is damaged'):
        read_checkpoint(tmp_path / 'cut.safetensors')


def test_the_package_for_safetensors_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'safetensors.torch', None)
    (tmp_path / 'weights.safetensors').touch()
    with pytest.raises(CheckpointError, match='needs the package safetensors: pip install safete'):
        read_checkpoint(tmp_path / 'weights.safetensors')
