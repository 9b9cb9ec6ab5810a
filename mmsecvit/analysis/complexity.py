"""Count parameters and multiply-adds of a config's model, part by part."""

import math
from collections import Counter
from collections.abc import Sequence
from functools import partial
from inspect import signature
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.analysis import FlopAnalyzer
from mmengine.config import ConfigDict
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from ..apis.config import load_config
from ..errors import InputError
from ..layers import SECA
from ..ops import cluster_bounds

# Height and width at which the paper counts, by toolbox (captions and text of Tables 1-5).
PAPER_SHAPES = {'mmdet': (800, 1280), 'mmseg': (512, 2048), 'mmpretrain': (224, 224)}

# Products of two activations: no module computes them, so counters of modules miss them.
ATTENTION_OPERATORS = ('matmul', 'bmm', 'einsum', 'scaled_dot_product_attention')

# Number of RoIs that mmdet's counter gives to each box head and each mask head.
NUM_ROIS = {'bbox': 1000, 'mask': 100}


class Complexity(NamedTuple):
    """Size and cost of a model, or of a part of it.

    Attributes:
        parameters: Number of parameters.
        module_flops: Multiply-adds of modules for one image, which is what the paper counts.
        attention_flops: Multiply-adds of the products of queries and keys, and of attention
            and values, for one image.
    """

    parameters: int
    module_flops: int
    attention_flops: int

    @property
    def flops(self) -> int:
        """All multiply-adds for one image."""
        return self.module_flops + self.attention_flops


def count_complexity(
    config: str | Path,
    shape: Sequence[int] | None = None,
    cfg_options: dict | None = None,
) -> dict[str, Complexity]:
    """Count parameters and multiply-adds of a config's model on one image, on the CPU.

    mmengine counts the layers. Both products of clustered attention are counted for the exact
    sizes of the clusters. Parts that only training uses (auxiliary heads) have parameters and no
    multiply-adds. RoI heads are counted as by mmdet's own counter: 1000 proposals for each box
    head, 100 for each mask head, unless the proposals are weights of the model. A detector in
    another model (mmdet's semi-supervised ones hold it twice) is counted once.

    Args:
        config: Path of the config file of a detector, segmenter or classifier.
        shape: Height and width of the image in pixels, at least 32. Defaults to the paper's:
            800x1280 for detectors, 512x2048 for segmenters, 224x224 for classifiers.
        cfg_options: Values by dotted key that override the config's.

    Returns:
        The complexity of each part, in the order of the model: ``stem``, ``stage 1`` to
        ``stage 4`` (each with the down-sampling before it), ``out_norms``, ``neck``, heads by
        their names, and ``other``: operations outside of modules, such as the resizing between
        the layers of mmseg's decode heads.

    Raises:
        ValueError: If the config has no model, if ``shape`` is too small, or if it is missing
            and the config is not of a toolbox.
    """
    cfg = load_config(config, cfg_options=cfg_options)
    scope = cfg.get('default_scope')
    if 'model' not in cfg:
        raise InputError(f'config must have a model, but {config} has none')
    if shape is None and scope not in PAPER_SHAPES:
        raise InputError(
            f'shape must be given unless default_scope is one of {", ".join(PAPER_SHAPES)}, '
            f'got a config of {scope}'
        )
    shape = shape or PAPER_SHAPES[scope]
    if len(shape) != 2 or min(shape) < 32:
        raise InputError(f'shape must be a height and a width of at least 32, got {tuple(shape)}')

    with DefaultScope.overwrite_default_scope(scope):
        model = revert_sync_batchnorm(MODELS.build(innermost(cfg.model))).eval()
    products: dict[str, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, SECA):
            module.backend = 'auto'  # on the CPU, this calls `attend`
            counted = partial(_count_products, products, name, module)
            module.attend = counted  # type: ignore[method-assign]
    _fix_inputs(model, shape)

    parameters: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        parameters[part_of(name)] += parameter.numel()
    image = torch.zeros(1, getattr(model.backbone, 'in_channels', 3), *shape)
    try:
        module_flops, attention_flops = _count_flops(model, image)
    except RuntimeError as error:
        if 'selected index k out of range' not in str(error):
            raise
        raise InputError(
            f'shape must be larger for {type(model).__name__}, which selects more queries than an '
            f'image of {shape[0]}x{shape[1]} has tokens'
        ) from None
    for name, flops in products.items():
        attention_flops[part_of(name)] += flops
    return {
        part: Complexity(parameters[part], module_flops[part], attention_flops[part])
        for part in sorted(parameters | module_flops | attention_flops, key=rank_of)
    }


def total(parts: dict[str, Complexity]) -> Complexity:
    """Add up all parts."""
    return Complexity(*map(sum, zip(*parts.values(), strict=True)))


def complexity_table(parts: dict[str, Complexity]) -> str:
    """Write parts and their sum as a Markdown table, in millions and 10^9 multiply-adds."""
    lines = [
        '| part | parameters (M) | FLOPs of modules (G) | of attention (G) | together (G) |',
        '|---|---|---|---|---|',
    ]
    for part, c in {**parts, 'total': total(parts)}.items():
        lines.append(
            f'| {part} | {c.parameters / 1e6:.2f} | {c.module_flops / 1e9:.2f} '
            f'| {c.attention_flops / 1e9:.2f} | {c.flops / 1e9:.2f} |'
        )
    return '\n'.join(lines)


@torch.no_grad()
def _count_flops(model: nn.Module, image: Tensor) -> tuple[Counter[str], Counter[str]]:
    """Return the multiply-adds of modules, and those of attention, by part."""
    analyzer = FlopAnalyzer(model, (image,)).unsupported_ops_warnings(False)
    analyzer.uncalled_modules_warnings(False)
    analyzer.set_op_handle('aten::scaled_dot_product_attention', _attention_flops)
    counts = analyzer.by_module_and_operator()
    of_modules: Counter[str] = Counter()
    of_attention: Counter[str] = Counter()
    for name in counts:
        # The count of a module includes its children's.
        own = Counter(counts[name])
        for child, _ in model.get_submodule(name).named_children():
            own.subtract(counts.get(f'{name}.{child}' if name else child, {}))
        for operator, flops in own.items():
            of = of_attention if operator in ATTENTION_OPERATORS else of_modules
            of[part_of(name)] += int(flops)
    return +of_modules, +of_attention


def _count_products(
    products: dict[str, int],
    name: str,
    attn: SECA,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    grid: tuple[int, int],
) -> Tensor:
    """Replace clustered attention, which takes minutes on a CPU at the sizes of detection."""
    images, heads, length, head_dims = (int(n) for n in q.shape)
    bounds = cluster_bounds(length, attn.num_clusters_of(length))
    sizes = [end - start for start, end in pairwise(bounds)]
    products[name] = images * heads * 2 * head_dims * sum(size**2 for size in sizes)
    return v


def _attention_flops(inputs: list[Any], outputs: list[Any]) -> int:
    q, k, v = (value.type().sizes() for value in inputs[:3])
    return math.prod(q[:-1]) * k[-2] * (q[-1] + v[-1])


def innermost(model: ConfigDict) -> ConfigDict:
    """Return the config of the model that a model holds, if it has no backbone of its own."""
    inner = model.get('detector') or model.get('module')
    return model if 'backbone' in model or not inner else innermost(inner)


def _fix_inputs(model: BaseModel, shape: Sequence[int]) -> None:
    """Replace a model's ``forward`` by one that takes only images, of this shape.

    The replacement fills in the data sample, whose image sizes the model needs.
    """
    size = tuple(shape)
    names = ('img_shape', 'batch_input_shape', 'pad_shape', 'ori_shape')
    sample = BaseDataElement(metainfo=dict.fromkeys(names, size) | dict(scale_factor=(1.0, 1.0)))
    if hasattr(model, 'roi_head'):
        learned = type(model.rpn_head).__name__ == 'EmbeddingRPNHead'
        forward = _forward_learned_proposals if learned else _forward_two_stage
        model.forward = partial(forward, model, sample)
        return
    model.forward = partial(model.forward, data_samples=[sample])
    # mmseg's mask classifiers need it, and mmseg does not pass it on.
    head = getattr(model, 'decode_head', None)
    if head is not None and 'batch_data_samples' in signature(head.forward).parameters:
        head.forward = partial(head.forward, batch_data_samples=[sample])


def _forward_learned_proposals(
    detector: BaseModel, sample: BaseDataElement, images: Tensor
) -> Tensor:
    """Run a Sparse R-CNN, whose proposals are weights; mmdet's own forward computes losses, too."""
    nn.init.constant_(
        detector.rpn_head.init_proposal_bboxes.weight, 0.5
    )  # random ones are no boxes
    feats = detector.extract_feat(images)
    proposals = detector.rpn_head.predict(feats, [sample], rescale=False)
    return detector.roi_head.predict(feats, proposals, [sample])[0].bboxes


def _forward_two_stage(detector: BaseModel, sample: BaseDataElement, images: Tensor) -> list:
    """Run every head on a fixed number of RoIs: random weights give any number of proposals.

    The multiply-adds of pooling are not counted, so the pooled maps can be zeros of their shape.
    """
    feats = detector.extract_feat(images)
    outs = [detector.rpn_head(feats)]
    for kind, num_rois in NUM_ROIS.items():
        if not getattr(detector.roi_head, f'with_{kind}'):
            continue
        heads = getattr(detector.roi_head, f'{kind}_head')
        extractors = getattr(detector.roi_head, f'{kind}_roi_extractor')
        if not isinstance(heads, nn.ModuleList):
            heads, extractors = [heads], [extractors]
        for head, extractor in zip(heads, extractors, strict=True):
            size = extractor.roi_layers[0].output_size
            outs.append(head(images.new_zeros(num_rois, extractor.out_channels, *size)))
    return outs


def part_of(name: str) -> str:
    """Return the part of the model that a module or parameter belongs to."""
    match name.split('.'):
        case ['backbone', ('stem' | 'out_norms') as part, *_]:
            return part
        case ['backbone', 'stages', i, *_]:
            return f'stage {int(i) + 1}'
        case ['backbone', 'downsamples', i, *_]:
            return f'stage {int(i) + 2}'
        case ['roi_head', head, *_]:
            return head
        case [part, *_] if part:
            return part
    return 'other'


def rank_of(part: str) -> int:
    """Return the position of a part in the model. Heads come last, in no particular order."""
    parts = ['stem', 'backbone', *(f'stage {i}' for i in range(1, 5)), 'out_norms', 'neck']
    return parts.index(part) if part in parts else len(parts)
