"""RetinaNet, Mask R-CNN and Cascade Mask R-CNN as modules that ``torch.export`` takes.

Heads, box coders and anchors are the toolbox's own. Written here is what the toolbox computes with
mmcv's operators, or with branches that depend on the data: the selection of candidates, NMS and
the pooling of regions, with torchvision's operators, which have the same results.
"""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.config import ConfigDict
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import ops

# Boxes (N, 4), scores (N,), and classes or levels (N,).
Candidates = tuple[Tensor, Tensor, Tensor]


class OneStageDetector(nn.Module):
    """A RetinaNet from one normalized image, (1, 3, H, W), to boxes, scores and labels.

    ``size``, (2,) int64, is the height and width of the image without its padding.
    """

    outputs: tuple[str, ...] = ('boxes', 'scores', 'labels')

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.backbone, self.neck = model.backbone, model.neck
        self.head, self.cfg = model.bbox_head, model.test_cfg

    def forward(self, image: Tensor, size: Tensor) -> tuple[Tensor, ...]:
        """Return boxes (N, 4), scores (N,) and labels (N,) by falling score."""
        maps = self.neck(self.backbone(image))
        boxes, ranks, labels, _ = dense_candidates(self.head, maps, size, self.cfg)
        kept = self._scores(ranks) > self.cfg.get('score_thr', 0)
        kept = kept & large_enough(boxes, self.cfg)
        boxes, ranks, labels = nms(select((boxes, ranks, labels), kept), self.cfg)
        return boxes, self._scores(ranks), labels

    def _scores(self, ranks: Tensor) -> Tensor:
        return ranks.sigmoid() if self.head.use_sigmoid_cls else ranks


class TwoStageDetector(nn.Module):
    """A Faster, Mask or Cascade R-CNN from one normalized image, (1, 3, H, W), to detections.

    ``size``, (2,) int64, is the height and width of the image without its padding.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.backbone, self.neck, self.rpn = model.backbone, model.neck, model.rpn_head
        roi_head = model.roi_head
        self.rpn_cfg, self.cfg = model.test_cfg.rpn, model.test_cfg.rcnn
        self.box_heads = _as_modules(roi_head.bbox_head)
        self.box_pooling = _as_modules(roi_head.bbox_roi_extractor)
        self.outputs = OneStageDetector.outputs
        if roi_head.with_mask:
            self.outputs = (*self.outputs, 'masks')
            self.mask_heads = _as_modules(roi_head.mask_head)
            self.mask_pooling = _as_modules(roi_head.mask_roi_extractor)

    def forward(self, image: Tensor, size: Tensor) -> tuple[Tensor, ...]:
        """Return boxes (N, 4), scores (N,), labels (N,) and, with a mask head, masks (N, h, w).

        Detections come by falling score. Masks are probabilities inside the boxes, of the class of
        the label.
        """
        maps = self.neck(self.backbone(image))
        boxes, scores, labels = self._detect(maps, self._propose(maps, size), size)
        if 'masks' not in self.outputs:
            return boxes, scores, labels
        return boxes, scores, labels, self._segment(maps, boxes, labels)

    def _propose(self, maps: Sequence[Tensor], size: Tensor) -> Tensor:
        boxes, ranks, _, levels = dense_candidates(self.rpn, maps, size, self.rpn_cfg)
        found = select((boxes, ranks, levels), large_enough(boxes, self.rpn_cfg))
        return nms(found, self.rpn_cfg)[0]

    def _detect(self, maps: Sequence[Tensor], proposals: Tensor, size: Tensor) -> Candidates:
        head: Any
        # One more box, which is dropped below: mmdet's box coder branches on whether there are any.
        rois = F.pad(proposals, (0, 0, 0, 1))
        logits = []
        for i, (pooling, head) in enumerate(zip(self.box_pooling, self.box_heads, strict=True)):
            stage_logits, deltas = head(pool_regions(pooling, maps, rois))
            logits.append(stage_logits)
            if i < len(self.box_heads) - 1:
                best = stage_logits[:, :-1].argmax(1)
                rois = head.regress_by_class(rois, best, deltas, dict(img_shape=None))
                rois = clip(rois, size, head.bbox_coder)
        scores = (sum(logits) / len(logits)).softmax(1)[:-1, :-1]
        # Class-agnostic heads have one box for all classes.
        repeated = rois[:, None].expand(-1, deltas.shape[1] // 4, -1)  # (N + 1, boxes, 4)
        boxes = head.bbox_coder.decode(repeated.reshape(-1, 4), deltas.reshape(-1, 4))
        boxes = clip(boxes, size, head.bbox_coder)
        boxes = boxes.reshape(rois.shape[0], -1, 4)[:-1].expand(-1, scores.shape[1], -1)
        return nms(select_by_class(boxes, scores, self.cfg.score_thr), self.cfg)

    def _segment(self, maps: Sequence[Tensor], boxes: Tensor, labels: Tensor) -> Tensor:
        masks = [
            head(pool_regions(pooling, maps, boxes)).sigmoid()  # (N, classes or 1, h, w)
            for pooling, head in zip(self.mask_pooling, self.mask_heads, strict=True)
        ]
        mean = sum(masks) / len(masks)
        classes = labels if mean.shape[1] > 1 else torch.zeros_like(labels)
        return mean[torch.arange(labels.shape[0]), classes]


def dense_candidates(
    head: Any, maps: Sequence[Tensor], size: Tensor, cfg: ConfigDict
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the best candidates of each level of an anchor-based head.

    Logits rank candidates as their sigmoids do, but do not saturate. ONNX Runtime's sigmoid of
    less than -18 or so is zero: of these, it would take other candidates than PyTorch.

    Args:
        head: mmdet's ``RetinaHead`` or ``RPNHead``.
        maps: Maps of the neck, (1, C, h, w).
        size: Height and width of the image without its padding, (2,) int64.
        cfg: The head's ``test_cfg``, with ``nms_pre``, the number of candidates of each level.

    Returns:
        Boxes (N, 4) within the image, ranks (N,): logits, or scores of a head with softmax,
        classes (N,) and levels (N,).
    """
    logits, deltas = head(maps)
    sizes = [x.shape[2:] for x in logits]
    priors = head.prior_generator.grid_priors(sizes, logits[0].dtype, logits[0].device)
    levels = []
    for i, (x, level_priors, level_deltas) in enumerate(zip(logits, priors, deltas, strict=True)):
        x = x[0].permute(1, 2, 0).reshape(-1, head.cls_out_channels)
        ranks = x if head.use_sigmoid_cls else x.softmax(1)[:, :-1]
        classes = ranks.shape[1]
        number = x.shape[0] * classes
        if cfg.get('nms_pre', -1) > 0:
            number = torch.sym_min(cfg.nms_pre, number)
        best, index = ranks.flatten().topk(number)
        anchor, label = index // classes, index % classes
        level_deltas = level_deltas[0].permute(1, 2, 0).reshape(-1, 4)[anchor]
        boxes = head.bbox_coder.decode(level_priors[anchor], level_deltas)
        levels.append((clip(boxes, size, head.bbox_coder), best, label, torch.full_like(label, i)))
    boxes, ranks, labels, level_numbers = (torch.cat(x) for x in zip(*levels, strict=True))
    return boxes, ranks, labels, level_numbers


def clip(boxes: Tensor, size: Tensor, coder: Any) -> Tensor:
    """Clip boxes, (N, 4), to a height and width, (2,), as mmdet's box coder to numbers."""
    if not coder.clip_border:
        return boxes
    return boxes.clamp(min=0).minimum(size.flip(0).repeat(2).to(boxes.dtype))


def large_enough(boxes: Tensor, cfg: ConfigDict) -> Tensor:
    """Return which boxes, (N, 4), are larger than the config's ``min_bbox_size``: (N,) bool."""
    width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(1)
    smallest = cfg.get('min_bbox_size', -1)
    if smallest < 0:
        return torch.ones_like(width, dtype=torch.bool)
    return (width > smallest) & (height > smallest)


def select(candidates: Candidates, kept: Tensor) -> Candidates:
    """Return the candidates for which ``kept``, (N,) bool, is true."""
    index = kept.nonzero()[:, 0]
    boxes, scores, groups = candidates
    return boxes[index], scores[index], groups[index]


def select_by_class(boxes: Tensor, scores: Tensor, threshold: float) -> Candidates:
    """Return each box, (N, classes, 4), for each class whose score, (N, classes), is larger."""
    index, label = (scores > threshold).nonzero().unbind(1)
    return boxes[index, label], scores[index, label], label


def nms(candidates: Candidates, cfg: ConfigDict) -> Candidates:
    """Return what NMS within each group keeps, by falling score, as mmcv's ``batched_nms``."""
    boxes, scores, groups = candidates
    shifted = boxes
    if not cfg.nms.get('class_agnostic'):
        # Boxes of different groups do not overlap. There may be none, which have no maximum.
        largest = F.pad(boxes.flatten(), (0, 1)).max()
        shifted = boxes + (groups * (largest + 1))[:, None]
    kept = ops.nms(shifted, scores, cfg.nms.iou_threshold)
    kept = kept[: cfg.max_per_img] if cfg.max_per_img > 0 else kept
    return boxes[kept], scores[kept], groups[kept]


def pool_regions(extractor: Any, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
    """Pool each box, (N, 4), from the level of its size, as mmdet's ``SingleRoIExtractor``.

    Returns:
        (N, C, h, w).
    """
    maps = maps[: extractor.num_inputs]
    rois = F.pad(boxes, (1, 0))  # (N, 5): all are of image 0
    levels = extractor.map_roi_levels(rois, len(maps))
    members = [(levels == i).nonzero()[:, 0] for i in range(len(maps))]
    pooled = [
        ops.roi_align(
            x,
            rois[index],
            x_layer.output_size,
            x_layer.spatial_scale,
            x_layer.sampling_ratio,
            x_layer.aligned,
        )
        for x, index, x_layer in zip(maps, members, extractor.roi_layers, strict=True)
    ]
    order = torch.cat(members)
    place = torch.zeros_like(levels).scatter(0, order, torch.arange(order.shape[0]))
    return torch.cat(pooled)[place]


def _as_modules(modules: Any) -> Any:
    """Return the stages of a Cascade R-CNN, or the only one of a Faster or Mask R-CNN."""
    return modules if isinstance(modules, nn.ModuleList) else nn.ModuleList([modules])
