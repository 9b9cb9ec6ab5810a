"""Each test fails once the workaround that it names is no longer needed."""

import inspect
import pickle
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import HistoryBuffer
from torch import nn
from torch._utils import ExceptionWrapper

from mmsecvit import compat


def test_mmengine_still_loads_fsdp_optimizers_in_the_order_of_torch_2_0():
    from mmengine._strategy import FSDPStrategy

    source = inspect.getsource(FSDPStrategy.load_optim_state_dict)
    assert 'optim_state_dict_to_load(\n            state_dict, self.model' in source, (
        compat.load_fsdp_optimizer_state.__doc__
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason='is about machines without a GPU')
def test_mmengine_still_needs_cuda_for_gloo(monkeypatch):
    from mmengine.dist import init_dist

    for name, value in dict(
        RANK='0', WORLD_SIZE='1', LOCAL_RANK='0', MASTER_ADDR='127.0.0.1', MASTER_PORT='0'
    ).items():
        monkeypatch.setenv(name, value)
    with pytest.raises((AssertionError, RuntimeError), match='CUDA|NVIDIA'):
        init_dist('pytorch', backend='gloo')


def test_the_browser_of_mmpretrain_still_needs_help():
    mmpretrain = pytest.importorskip('mmpretrain')
    tool = Path(mmpretrain.__path__[0], '.mim/tools/visualization/browse_dataset.py').read_text()
    assert '**cfg.visualizer' in tool, compat.drop_scope_of_visualizer.__doc__
    assert 'adjust_bbox(figure, ' in tool, compat.give_renderer_to_adjust_bbox.__doc__


def test_torch_still_refuses_what_mmengine_saves(tmp_path):
    torch.save(HistoryBuffer([1.0], [1]), tmp_path / 'history.pth')
    with pytest.raises(pickle.UnpicklingError, match='HistoryBuffer|getattr'):
        torch.load(tmp_path / 'history.pth', weights_only=True)


@pytest.mark.skipif(not hasattr(torch.serialization, 'safe_globals'), reason='torch has none')
def test_torch_still_forgets_what_its_caller_trusted():
    with torch.serialization.safe_globals([OrderedDict]):
        with torch.serialization.safe_globals([OrderedDict]):
            pass
        assert OrderedDict not in torch.serialization.get_safe_globals()


def test_torch_still_translates_no_stable_sort_to_onnx():
    pytest.importorskip('onnxscript')

    class Sort(nn.Module):
        def forward(self, x):
            return torch.sort(x, stable=True)[0]

    program = torch.export.export(Sort(), (torch.rand(3),))
    with pytest.raises(torch.onnx.errors.OnnxExporterError):
        torch.onnx.export(program, dynamo=True)


def export_pooling(**options):
    """Export adaptive pooling for every size, traced at 7x8; return what runs it."""
    onnxruntime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    sizes = {2: torch.export.Dim('height'), 3: torch.export.Dim('width')}
    program = torch.export.export(
        nn.AdaptiveAvgPool2d((2, 3)), (torch.rand(2, 4, 7, 8),), dynamic_shapes=(sizes,)
    )
    exported = torch.onnx.export(program, dynamo=True, verbose=False, **options)
    session = onnxruntime.InferenceSession(exported.model_proto.SerializeToString())
    (given,) = session.get_inputs()
    return lambda x: torch.from_numpy(session.run(None, {given.name: x.numpy()})[0])


def test_torchvision_still_warns_of_its_own_call():
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv
    from torchvision.ops import nms

    with FakeTensorMode(shape_env=ShapeEnv()):
        boxes, scores = torch.rand(5, 4), torch.rand(5)
        with pytest.warns(FutureWarning, match='`create_unbacked_symint` is deprecated') as seen:
            nms(boxes, scores, 0.5)
            with compat.without_warnings_of_export():
                nms(boxes, scores, 0.5)
    assert len(seen) == 1


def test_torch_still_exports_adaptive_pooling_for_one_size_and_warns_of_its_own_call():
    with pytest.warns(FutureWarning, match=r'`isinstance\(treespec, LeafSpec\)` is deprecated'):
        run = export_pooling()  # if it does not warn: see without_warnings_of_export
    x = torch.rand(2, 4, 9, 10)
    try:
        equal = (run(x) - nn.AdaptiveAvgPool2d((2, 3))(x)).abs().max() < 1e-6
    except Exception:  # onnxruntime's have no other base class
        equal = False
    assert not equal, compat.adaptive_average_in_onnx.__doc__


@pytest.mark.filterwarnings('error::FutureWarning')
def test_adaptive_pooling_is_exported_for_every_size():
    pool = torch.ops.aten.adaptive_avg_pool2d.default
    with compat.without_warnings_of_export():
        run = export_pooling(custom_translation_table={pool: compat.adaptive_average_in_onnx})
    for size in [(7, 8), (1, 2), (2, 3), (9, 10), (25, 42)]:
        x = torch.rand(2, 4, *size)
        torch.testing.assert_close(run(x), nn.AdaptiveAvgPool2d((2, 3))(x), rtol=0, atol=1e-6)


def test_mmengine_still_passes_device_ids_on_cpus():
    from mmengine.runner import Runner

    source = inspect.getsource(Runner.wrap_model)
    assert "device_ids=[int(os.environ['LOCAL_RANK'])]" in source, compat.wrapper_for_cpus.__doc__


def test_flexible_runner_still_gets_no_default_for_env_cfg():
    from mmengine.runner._flexible_runner import FlexibleRunner

    source = inspect.getsource(FlexibleRunner.from_cfg)
    assert "env_cfg=cfg.get('env_cfg')," in source, compat.without_empty_env_cfg.__doc__


def test_runners_still_refuse_to_switch_off_hooks_that_they_do_not_know():
    from mmengine.runner import Runner

    with pytest.raises(AssertionError):
        Runner.register_default_hooks(None, dict(interruption=None))


def test_torch_still_calls_only_the_innermost_hooks_on_saved_tensors():
    called = []

    def hooks(name):
        return torch.autograd.graph.saved_tensors_hooks(
            lambda x: called.append(name) or x, lambda x: x
        )

    x = torch.ones(1, requires_grad=True)
    with hooks('outer'), hooks('inner'):
        x.exp()
    assert called == ['inner'], compat.takes_saved_tensors_hooks.__doc__


@pytest.mark.filterwarnings('ignore:.* has been created:UserWarning')
def test_runners_still_share_a_visualizer_of_the_same_name(tmp_path):
    from mmengine.runner import Runner

    def build(folder):
        run = SimpleNamespace(_experiment_name=folder, _log_dir=str(tmp_path / folder))
        return Runner.build_visualizer(run, dict(type='Visualizer', name=str(tmp_path)))

    assert build('first') is build('second'), compat.own_visualizer.__doc__


@pytest.mark.skipif(torch.cuda.is_available(), reason='is about machines without a GPU')
def test_torch_still_queues_seeds_for_gpus_that_are_not_there():
    with torch.random.fork_rng():
        torch.manual_seed(0)
    _, stack = torch.cuda._lazy_seed_tracker.get_calls()[-1]
    assert inspect.currentframe().f_code.co_name in ''.join(stack), compat.seed_torch.__doc__


def test_mmcv_still_builds_no_synchronized_norms_in_a_single_process():
    from mmcv.cnn import build_norm_layer

    with pytest.raises((RuntimeError, ValueError), match='process group'):
        build_norm_layer(dict(type='MMSyncBN'), 4)


def test_torch_still_gives_errors_of_workers_a_traceback_as_the_message():
    try:
        raise ValueError('one line')
    except ValueError:
        wrapper = ExceptionWrapper(where='in a worker')
    with pytest.raises(ValueError, match='Traceback'):  # see datasets/file_backend.py
        wrapper.reraise()
