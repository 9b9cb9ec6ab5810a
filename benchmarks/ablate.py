"""Train configs with several seeds, one run after the other, and compare their results.

`run` writes one JSON line for each finished run, and skips those that the file has; `time` measures
a training step and a prediction; `report` prints tables, and writes them into a page.
All other configs are compared with the first one of the file.
"""

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ablation_tables import (
    METRICS,
    draw,
    read_lines,
    read_runs,
    read_times,
    report,
    write_into,
)
from measuring import processor, take_turns
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, MODELS, DefaultScope
from mmengine.runner import Runner
from mmengine.utils import get_git_hash


@HOOKS.register_module(force=True)
class RecordHook(Hook):
    """Append each validation to a file, with the processor time of the training until then."""

    priority = 'VERY_LOW'

    def __init__(self, out: str) -> None:
        self.out = Path(out)
        self.before = 0.0  # seconds, of the parts of this run that were interrupted

    def before_train(self, runner: Runner) -> None:
        self.start = time.process_time()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint['processor_seconds'] = self.seconds()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        self.before = checkpoint.get('processor_seconds', 0.0)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        kept = {name: metrics[name] for name in METRICS if name in metrics}
        line = dict(step=runner.iter, processor_seconds=round(self.seconds(), 1), **kept)
        append(self.out, line)

    def seconds(self) -> float:
        return self.before + time.process_time() - self.start


def append(path: Path, line: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('a', encoding='utf-8') as file:
        file.write(json.dumps(line) + '\n')


def run_all(args: argparse.Namespace) -> None:
    """Run what is not in the results, each in a process of its own: all configs, seed by seed."""
    done = read_runs(args.results) if args.results.exists() else {}
    runs = [(config, seed) for seed in args.seeds for config in args.configs]
    pending = [(config, seed) for config, seed in runs if seed not in done.get(config.stem, {})]
    start, failed = time.monotonic(), []
    for i, (config, seed) in enumerate(pending):
        left = (time.monotonic() - start) / i * (len(pending) - i) / 3600 if i else None
        print(
            f'{time.strftime("%F %T")}  done: {len(runs) - len(pending) + i} of {len(runs)}  '
            f'failed: {len(failed)}  running: {config.stem}, seed {seed}  '
            f'left: {f"about {left:.1f} h" if left else "not known yet"}',
            flush=True,
        )
        work_dir = args.work_dir / f'{config.stem}_seed{seed}'
        process = multiprocessing.get_context('spawn').Process(
            target=run_one, args=(config, seed, work_dir, args.overrides, args.results)
        )
        process.start()
        process.join()
        if process.exitcode:
            failed.append(work_dir / 'log.txt')
    if failed:
        sys.exit(f'failed, run again to continue: {", ".join(map(str, failed))}')


def run_one(config: Path, seed: int, work_dir: Path, overrides: Path | None, out: Path) -> None:
    """Train and validate, or go on from the last checkpoint, and append a line to ``out``."""
    from mmsecvit.analysis import count_complexity, total
    from mmsecvit.apis import train
    from mmsecvit.apis.exported_metadata import default_size

    work_dir.mkdir(parents=True, exist_ok=True)
    sys.stdout = sys.stderr = (work_dir / 'log.txt').open('a', buffering=1, encoding='utf-8')
    record = work_dir / 'validations.jsonl'
    options = read_overrides(overrides) | {
        'randomness.seed': seed,
        'default_hooks.record': dict(type='RecordHook', out=str(record)),
    }
    runner = train(config, str(work_dir), resume='auto', cfg_options=options)
    if not record.exists() or read_lines(record)[-1]['step'] < runner.max_iters:
        runner.val()  # it was killed between the last checkpoint and its validation
    # A run that went on after an interruption may have validated twice.
    validations = {line['step']: line for line in read_lines(record)}
    size = default_size(runner.cfg)
    complexity = total(count_complexity(config, size))
    line = dict(
        config=config.stem,
        seed=seed,
        validations=[validations[step] for step in sorted(validations)],
        steps=runner.max_iters,
        batch_size=runner.cfg.train_dataloader.batch_size,
        train_images=len(runner.train_dataloader.dataset),
        test_images=len(runner.val_dataloader.dataset),
        image_size=size,
        parameters=complexity.parameters,
        flops=complexity.flops,
        commit=get_git_hash(digits=10),
        machine=processor(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        date=time.strftime('%F'),
    )
    append(out, line)


def read_overrides(path: Path | None) -> dict[str, Any]:
    return Config.fromfile(path).to_dict() if path else {}


def time_all(args: argparse.Namespace) -> None:
    """Time a training step and a prediction of one batch: the configs take turns."""
    times: dict[str, Any] = {}
    for kind in ('train', 'predict'):
        runs = {c.stem: prepare(c, args.overrides, kind == 'train') for c in args.configs}
        seconds = take_turns(runs, torch.device('cpu'), args.rounds)
        for name, all_rounds in seconds.items():
            per_image = 1000 * np.array(all_rounds) / runs[name].keywords['images']
            times.setdefault(name, {})[f'{kind}_ms'] = round(float(np.median(per_image)), 3)
    setting = dict(machine=processor(), threads=torch.get_num_threads(), rounds=args.rounds)
    out = dict(setting, torch=torch.__version__, date=time.strftime('%F'), ms_per_image=times)
    args.out.write_text(json.dumps(out, indent=2) + '\n', encoding='utf-8')


def prepare(config: Path, overrides: Path | None, training: bool) -> Callable[[], None]:
    """Return a function that trains or predicts the config's first batch, which is in memory."""
    from mmsecvit.apis.config import load_config
    from mmsecvit.apis.config_changes import without_sync_batch_norm

    cfg = load_config(config, cfg_options=read_overrides(overrides))
    loader = cfg.train_dataloader if training else cfg.val_dataloader
    loader.update(num_workers=0, persistent_workers=False)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        cfg.model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
        model = MODELS.build(without_sync_batch_norm(cfg.model)).train(training)
        batch = next(iter(Runner.build_dataloader(loader, seed=0)))
    return partial(run_batch, model, batch, training, images=len(batch['inputs']))


def run_batch(model: Any, batch: dict, training: bool, images: int) -> None:
    if not training:
        with torch.no_grad():
            model.val_step(batch)
        return
    losses = model(**model.data_preprocessor(batch, True), mode='loss')
    model.zero_grad()
    model.parse_losses(losses)[0].backward()


def report_all(args: argparse.Namespace) -> None:
    runs, times = read_runs(args.results), read_times(args.results)
    if args.plot and not times:
        sys.exit(f'--plot needs the times of {args.results}: write them with `ablate.py time`')
    text = report(runs, times)
    print(text)
    if args.page:
        write_into(args.page, args.results.name, text)
    if args.plot:
        draw(runs, times['ms_per_image'], args.plot)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser('run', help='train what the results lack')
    measure = commands.add_parser('time', help='time a step and a prediction, on a quiet machine')
    for part in (run, measure):
        part.add_argument('configs', nargs='+', type=Path, help='config files')
        part.add_argument(
            '--overrides', type=Path, help='file of settings that replace those of all'
        )
    run.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    run.add_argument('--results', type=Path, required=True, help='JSON lines to append to')
    run.add_argument('--work-dir', type=Path, default='work_dirs/ablate', help='logs, checkpoints')
    measure.add_argument('--rounds', type=int, default=15, help='timed runs of each config')
    measure.add_argument('--out', type=Path, required=True, help='RESULTS.times.json to write')
    show = commands.add_parser('report', help='compare the finished runs')
    show.add_argument('results', type=Path, help='JSON lines of `run`')
    show.add_argument('--page', type=Path, help='Markdown file to write the tables into')
    show.add_argument('--plot', type=Path, help='PNG file to write; needs RESULTS.times.json')
    for part, function in ((run, run_all), (measure, time_all), (show, report_all)):
        part.set_defaults(function=function)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    files = [*getattr(args, 'configs', ()), *filter(None, [getattr(args, 'overrides', None)])]
    for path in files or [args.results]:
        if not path.is_file():
            sys.exit(f'{path} does not exist')
    args.function(args)


if __name__ == '__main__':
    main()
