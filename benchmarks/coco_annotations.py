"""Time the check of an annotation file of COCO's size, made of random polygons.

Print the processor's seconds and the peak memory of loading it with mmdet's data set, and with the
checked one.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

CLASSES = tuple(f'class {i}' for i in range(80))


def make_file(path: Path, num_images: int, num_annotations: int, points: int = 26) -> None:
    """Write images of 640x480 and annotations with a polygon each, as COCO has them on average."""
    draw = random.Random(0)
    images = [
        dict(id=i, file_name=f'{i:012}.jpg', height=480, width=640) for i in range(num_images)
    ]
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
    with open(path, 'w') as file:
        file.write(f'{{"images": {json.dumps(images)}, "annotations": [')
        for i in range(num_annotations):
            x, y, width, height = (round(draw.uniform(5, 300), 2) for _ in range(4))
            height = min(height, 475 - y)
            corners = [x, y, x + width, y, x + width, y + height]
            inner = [
                round(value, 2)
                for _ in range(points - 3)
                for value in (draw.uniform(x, x + width), draw.uniform(y, y + height))
            ]
            annotation = dict(
                id=i + 1,
                image_id=draw.randrange(num_images),
                category_id=draw.randrange(80) + 1,
                bbox=[x, y, width, round(height, 2)],
                area=round(width * height / 2, 2),
                iscrowd=0,
                segmentation=[[round(value, 2) for value in corners] + inner],
            )
            file.write((', ' if i else '') + json.dumps(annotation))
        file.write(f'], "categories": {json.dumps(categories)}}}')


def load(path: str, kind: str) -> None:
    """Load the file and print the processor's seconds and the peak memory of this process."""
    from mmengine.registry import DATASETS, DefaultScope

    import mmsecvit.datasets.coco.checked  # noqa: F401

    options = dict(metainfo=dict(classes=CLASSES), data_prefix=dict(img=''))
    pipeline = [dict(type='LoadAnnotations', with_bbox=True, with_mask=True)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with DefaultScope.overwrite_default_scope('mmdet'):
        start = time.process_time()
        DATASETS.build(dict(type=kind, ann_file=path, pipeline=pipeline, **options))
        seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f'{kind}: {seconds:.1f} s, peak {peak / 2**20:.2f} GB, {before / 2**20:.2f} GB before')


def check(path: str) -> None:
    """Read and check the file only; print the processor's seconds and the peak memory of both."""
    from mmsecvit.datasets.coco.content import mend_coco
    from mmsecvit.datasets.coco.files import read_coco

    start = time.process_time()
    content = read_coco(path, 'ann_file')
    read = time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    findings = mend_coco(content, 'ann_file', path, CLASSES, masks=True)
    seconds = time.process_time() - read
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    print(
        f'read: {read - start:.1f} s, peak {peak / 2**20:.2f} GB; check: {seconds:.1f} s, '
        f'{more / 2**20:.2f} GB more; {len(findings)} kinds of findings'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--file', default='/tmp/coco_sized.json', help='is made if it is not there')
    parser.add_argument('--images', type=int, default=118_000)
    parser.add_argument('--annotations', type=int, default=860_000)
    parser.add_argument('--part', choices=['check', 'CocoDataset', 'CheckedCocoDataset'])
    args = parser.parse_args()
    if args.part == 'check':
        check(args.file)
    elif args.part:
        load(args.file, args.part)
    else:
        if not Path(args.file).exists():
            make_file(Path(args.file), args.images, args.annotations)
        print(f'{args.file}: {Path(args.file).stat().st_size / 2**20:.0f} MB')
        for part in ('check', 'CocoDataset', 'CheckedCocoDataset'):
            command = [sys.executable, __file__, '--file', args.file, '--part', part]
            subprocess.run(command, check=True)


if __name__ == '__main__':
    main()
