"""The paper's numbers for its networks: Tables 1, 3, 4, 5 and 8, top-1 of Table 2 too."""

from typing import NamedTuple


class PaperRow(NamedTuple):
    """One network as the paper reports it.

    Attributes:
        tables: The tables that have the row.
        config: Name of the config file that states the network, without its suffix.
        shape: Height and width in pixels at which the paper counts FLOPs.
        parameters: Parameters in millions.
        flops: Multiply-adds in 10^9 of modules: without both products of attention.
        results: Metrics in per cent, by the names that the toolboxes' evaluators use.
    """

    tables: str
    config: str
    shape: tuple[int, int]
    parameters: float
    flops: float
    results: dict[str, float]


def top1(accuracy: float) -> dict[str, float]:
    """Name the result of an ImageNet row."""
    return {'accuracy/top1': accuracy}


def masks(*ap: float) -> dict[str, float]:
    """Name the results of a COCO row with boxes and masks."""
    names = [f'coco/{kind}_mAP{at}' for kind in ('bbox', 'segm') for at in ('', '_50', '_75')]
    return dict(zip(names, ap, strict=True))


def boxes(*ap: float) -> dict[str, float]:
    """Name the results of a COCO row with boxes alone."""
    names = [f'coco/bbox_mAP{at}' for at in ('', '_50', '_75', '_s', '_m', '_l')]
    return dict(zip(names, ap, strict=True))


def miou(miou: float) -> dict[str, float]:
    """Name the result of an ADE20K row, at a single scale."""
    return {'mIoU': miou}


IMAGENET = (224, 224)
COCO = (800, 1280)
ADE20K = (512, 2048)
ADE20K_SQUARE = (512, 512)

ROWS: tuple[PaperRow, ...] = (
    PaperRow('1, 8', 'secvit_t_in1k', IMAGENET, 15, 2.5, top1(82.6)),
    PaperRow('1, 8', 'secvit_s_in1k', IMAGENET, 27, 4.4, top1(84.2)),
    PaperRow('1, 8', 'secvit_b_in1k', IMAGENET, 55, 9.7, top1(85.0)),
    PaperRow('1, 8', 'secvit_l_in1k', IMAGENET, 96, 18.1, top1(85.6)),
    PaperRow('2, 8', 'sec_swin_t_in1k', IMAGENET, 29, 4.9, top1(83.6)),
    PaperRow('2, 8', 'sec_swin_s_in1k', IMAGENET, 50, 9.3, top1(84.8)),
    PaperRow('2, 8', 'sec_fastervit_0_in1k', IMAGENET, 25, 3.6, top1(82.6)),
    PaperRow('2, 8', 'sec_fastervit_1_in1k', IMAGENET, 41, 5.6, top1(83.8)),
    PaperRow(
        '3', 'mask_rcnn_secvit_s_3x', COCO, 45, 259, masks(51.3, 72.4, 55.9, 45.4, 69.7, 48.8)
    ),
    PaperRow(
        '3', 'mask_rcnn_secvit_b_3x', COCO, 73, 368, masks(52.5, 73.4, 57.6, 46.1, 70.6, 49.8)
    ),
    PaperRow(
        '3',
        'cascade_mask_rcnn_secvit_s_3x',
        COCO,
        83,
        738,
        masks(53.9, 72.6, 58.6, 46.7, 70.1, 51.1),
    ),
    PaperRow(
        '3',
        'cascade_mask_rcnn_secvit_b_3x',
        COCO,
        111,
        847,
        masks(55.1, 73.9, 59.8, 47.6, 71.5, 51.6),
    ),
    PaperRow(
        '4', 'mask_rcnn_secvit_t_1x', COCO, 34, 221, masks(47.7, 69.5, 52.6, 42.9, 66.4, 46.1)
    ),
    PaperRow(
        '4', 'mask_rcnn_secvit_s_1x', COCO, 45, 259, masks(49.7, 70.8, 54.7, 44.2, 68.1, 48.0)
    ),
    PaperRow(
        '4', 'mask_rcnn_secvit_b_1x', COCO, 73, 368, masks(51.2, 72.7, 56.4, 45.4, 69.7, 49.0)
    ),
    PaperRow(
        '4', 'mask_rcnn_secvit_l_1x', COCO, 115, 546, masks(51.9, 73.4, 57.0, 46.1, 70.4, 49.6)
    ),
    PaperRow(
        '4', 'retinanet_secvit_t_1x', COCO, 24, 202, boxes(45.6, 66.8, 48.9, 28.8, 49.8, 60.7)
    ),
    PaperRow(
        '4', 'retinanet_secvit_s_1x', COCO, 35, 240, boxes(48.1, 69.3, 51.8, 31.3, 53.0, 63.6)
    ),
    PaperRow(
        '4', 'retinanet_secvit_b_1x', COCO, 63, 349, boxes(48.9, 70.2, 52.7, 32.0, 53.6, 64.6)
    ),
    PaperRow(
        '4', 'retinanet_secvit_l_1x', COCO, 105, 527, boxes(49.9, 71.2, 53.7, 33.0, 54.5, 66.1)
    ),
    PaperRow('5', 'semantic_fpn_secvit_t_80k', ADE20K_SQUARE, 18, 34, miou(47.2)),
    PaperRow('5', 'semantic_fpn_secvit_s_80k', ADE20K, 29, 177, miou(49.5)),
    PaperRow('5', 'semantic_fpn_secvit_b_80k', ADE20K, 57, 288, miou(50.7)),
    PaperRow('5', 'semantic_fpn_secvit_l_80k', ADE20K, 99, 471, miou(52.0)),
    PaperRow('5', 'upernet_secvit_s_160k', ADE20K, 56, 933, miou(50.6)),
    PaperRow('5', 'upernet_secvit_b_160k', ADE20K, 84, 1046, miou(52.0)),
    PaperRow('5', 'upernet_secvit_l_160k', ADE20K, 130, 1256, miou(53.6)),
)
