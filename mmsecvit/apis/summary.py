"""Summarize a training run at its end."""

import os
import shlex
from pathlib import Path

from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from ..visualization.log_curves import HEADLINE_METRIC


def summarize(runner: Runner) -> str:
    """Return the best checkpoint, its metric, the log, and the command that evaluates it.

    The best checkpoint is the one that ``default_hooks.checkpoint.save_best`` keeps (for the
    first metric, if it names several). Without ``save_best``, it is the last checkpoint, with the
    metrics of the last validation.

    Args:
        runner: The runner, after training.

    Returns:
        Lines of text; the command comes last. Without a checkpoint, only the log.
    """
    info = runner.message_hub.runtime_info
    # A config may switch checkpoints off.
    hook = next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)
    names = hook.key_indicators if hook and hook.save_best else []
    # mmengine adds the metric to these names only if there are several metrics.
    suffix = f'_{names[0]}' if len(names) > 1 else ''
    if f'best_ckpt{suffix}' in info:
        which, checkpoint = 'Best', info[f'best_ckpt{suffix}']
        metrics = {names[0]: info[f'best_score{suffix}']}
    else:
        which, checkpoint = 'Last', info.get('last_ckpt')
        metrics = {
            name.removeprefix('val/'): history.current()
            for name, history in runner.message_hub.log_scalars.items()
            if name.startswith('val/') and HEADLINE_METRIC.search(name)
        }
    log = Path(runner.log_dir) / f'{runner.timestamp}.log'
    lines = [f'Log: {os.path.relpath(log)}']
    if checkpoint:
        found = ''.join(f', {name} {value:.4g}' for name, value in metrics.items())
        lines.insert(0, f'{which} checkpoint: {os.path.relpath(checkpoint)}{found}')
        # The run wrote its config, with all options, next to the checkpoints.
        config = Path(runner.work_dir) / Path(runner.cfg.filename).name
        command = ['python', 'tools/test.py', os.path.relpath(config), os.path.relpath(checkpoint)]
        lines.append(f'Evaluate it with: {shlex.join(command)}')
    return '\n'.join(['Training is complete.', *lines])
