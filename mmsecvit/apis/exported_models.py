"""Whole models as modules that ``torch.export`` takes, from images in 0..255 to predictions."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..compat import upsample_at_every_size
from .exportable import check_exportable


class ExportedModel(nn.Module):
    """A network of this module, after the normalization of the model's data preprocessor.

    Attributes:
        outputs: Names of the outputs.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: Any, preprocessor: Any) -> None:
        super().__init__()
        self.network, self.outputs = network, network.outputs
        mean, std = mean_and_std(preprocessor)
        self.register_buffer('mean', mean)
        self.register_buffer('std', std)

    def forward(self, image: Tensor, *size: Tensor) -> tuple[Tensor, ...]:
        """Predict for images, (B, 3, H, W) in 0..255; a detector also takes their size."""
        return self.network((image - self.mean) / self.std, *size)


class Classifier(nn.Module):
    """A classifier from normalized images, (B, 3, H, W), to the probabilities of its classes."""

    outputs = ('scores',)

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return scores, (B, classes)."""
        return (self.model(image).softmax(1),)


class Segmenter(nn.Module):
    """A segmenter from normalized images, (B, 3, H, W), to the classes of their pixels."""

    def __init__(self, model: Any, with_scores: bool) -> None:
        super().__init__()
        self.outputs = ('labels', 'scores') if with_scores else ('labels',)
        self.backbone: Any = model.backbone
        self.head: Any = model.decode_head
        self.neck: Any = model.neck if model.with_neck else nn.Identity()
        upsample_at_every_size(self.head)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return labels, (B, H, W) int64, and if wanted logits, (B, classes, H, W)."""
        logits = self.head(self.neck(self.backbone(image)))
        logits = F.interpolate(
            logits, image.shape[2:], mode='bilinear', align_corners=self.head.align_corners
        )
        if self.head.out_channels == 1:
            labels = (logits[:, 0].sigmoid() > self.head.threshold).long()
        else:
            labels = logits.argmax(1)
        return (labels, logits)[: len(self.outputs)]


def mean_and_std(preprocessor: Any) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation, (3, 1, 1) in 0..255, in the network's channel order."""
    if preprocessor._enable_normalize:
        return preprocessor.mean, preprocessor.std
    return torch.zeros(3, 1, 1), torch.ones(3, 1, 1)


def whole_model(model: Any, scope: str | None, with_scores: bool = False) -> ExportedModel:
    """Return a toolbox's model as a module that ``torch.export`` takes.

    Args:
        model: Classifier, segmenter or detector, in eval mode.
        scope: The toolbox: ``mmpretrain``, ``mmseg`` or ``mmdet``.
        with_scores: Whether a segmenter also returns logits.

    Raises:
        InputError: If a part of the model cannot be exported.
    """
    check_exportable(model, scope)
    network: nn.Module
    if scope == 'mmpretrain':
        network = Classifier(model)
    elif scope == 'mmseg':
        network = Segmenter(model, with_scores)
    else:
        from .exported_detectors import OneStageDetector, TwoStageDetector

        network = (TwoStageDetector if hasattr(model, 'roi_head') else OneStageDetector)(model)
    return ExportedModel(network, model.data_preprocessor).eval()
