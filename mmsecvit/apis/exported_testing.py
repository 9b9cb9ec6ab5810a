"""Evaluate an exported file by the data and the metric of a config."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.model import BaseModel
from mmengine.structures import InstanceData, PixelData
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError
from .class_names import name_classes
from .exportable import find_task
from .exported_files import ExportedFile


def open_exported(cfg: Config, config: str | Path, path: str) -> 'ModelFromFile':
    """Return an exported file as a model that can be evaluated with a config.

    Args:
        cfg: The config.
        config: Its file, for errors.
        path: ONNX file of a whole model.

    Raises:
        FileNotFoundError: If the file does not exist.
        InputError: If it is no exported model, or its task or number of classes is not the
            config's.
    """
    file = ExportedFile(path)
    metadata = file.metadata
    if metadata.get('part') != 'model':
        raise InputError(f'{path} must be a whole model that tools/deployment/export.py wrote')
    own = dict(
        task=find_task(cfg.get('default_scope')), classes=len(name_classes(cfg, {})['classes'])
    )
    given = dict(task=metadata['task'], classes=len(metadata['classes']))
    for name, value in own.items():
        if given[name] != value:
            raise InputError(f'{path} has {name} {given[name]}, but {config} has {value}')
    align_corners = (cfg.model.get('decode_head') or {}).get('align_corners', False)
    return ModelFromFile(file, align_corners)


class ModelFromFile(BaseModel):
    """Let an exported file predict for the batches of a config's test loader.

    Args:
        file: ONNX file of a whole model.
        align_corners: How a segmenter's logits are resized to the size of the original image.
    """

    def __init__(self, file: ExportedFile, align_corners: bool = False) -> None:
        super().__init__()
        self.file, self.align_corners = file, align_corners
        metadata = file.metadata
        self.task = metadata['task']
        self.pad_value = torch.tensor(metadata['pad_value'])[:, None, None]
        if metadata.get('mask_threshold') is not None:
            from mmdet.models import FCNMaskHead

            # Only pastes: the masks of the file are of the right class.
            self.mask_head = FCNMaskHead(num_convs=0, class_agnostic=True)

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = 'tensor') -> Any:
        raise NotImplementedError('an exported file only predicts, by test_step')

    def test_step(self, data: dict) -> list:
        """Predict for images as the pipeline loads them, (3, H, W) each."""
        predict = getattr(self, f'_predict_{self.task}')
        for image, sample in zip(data['inputs'], data['data_samples'], strict=True):
            size = image.shape[1:]
            sizes = [torch.tensor(size)] if self.task == 'detection' else []
            predict(self.file(self._prepare(image, sample)[None], *sizes), sample, size)
        return data['data_samples']

    def _prepare(self, image: Tensor, sample: Any) -> Tensor:
        """Return an image as the file takes it, padded at the bottom and at the right."""
        metadata = self.file.metadata
        height, width = image.shape[1:]
        size = metadata['size'] or [-(-n // 32) * 32 for n in (height, width)]
        fits = height <= size[0] and width <= size[1]
        if self.task == 'classification':  # padding would change the scores
            fits = [height, width] == size
        if not fits:
            raise InputError(
                f'{self.file.path} takes images of {size[0]}x{size[1]}, got {height}x{width} of '
                f'{sample.get("img_path")} after the test pipeline'
            )
        padded = self.pad_value.repeat(1, *size)
        padded[:, :height, :width] = image.flip(0) if metadata['channel_order'] == 'RGB' else image
        return padded

    def _predict_classification(self, outputs: Sequence[Tensor], sample: Any, _: Any) -> None:
        ((scores,),) = outputs
        sample.set_pred_score(scores).set_pred_label(scores.argmax(0, keepdim=True))

    def _predict_segmentation(
        self, outputs: Sequence[Tensor], sample: Any, size: Sequence[int]
    ) -> None:
        labels, *logits = (x[..., : size[0], : size[1]] for x in outputs)
        if logits and logits[0].shape[1] > 1:
            resized = F.interpolate(
                logits[0], sample.ori_shape, mode='bilinear', align_corners=self.align_corners
            )
            labels = resized.argmax(1)
        else:
            labels = F.interpolate(labels[None].float(), sample.ori_shape, mode='nearest')[0].long()
        sample.set_data(dict(pred_sem_seg=PixelData(data=labels)))

    def _predict_detection(self, outputs: Sequence[Tensor], sample: Any, _: Any) -> None:
        from mmdet.models.utils import samplelist_boxtype2tensor

        boxes, scores, labels, *masks = outputs
        found = InstanceData(bboxes=boxes, scores=scores, labels=labels)
        if masks:
            threshold = self.file.metadata['mask_threshold']
            (found,) = self.mask_head.predict_by_feat(
                (masks[0][:, None],),
                [found],
                [sample.metainfo],
                rcnn_test_cfg=ConfigDict(mask_thr_binary=threshold),
                rescale=True,  # of the boxes, too
                activate_map=True,
            )
        else:
            found.bboxes = boxes / boxes.new_tensor(sample.scale_factor).repeat(2)
        sample.pred_instances = found
        samplelist_boxtype2tensor([sample])  # of the annotations, for the visualizer
