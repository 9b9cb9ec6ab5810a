"""Attention inside semantic clusters: the public face of all backends."""

import logging
from collections.abc import Callable
from numbers import Integral
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError
from .backends import reference, sdpa, triton
from .clustering import Partition, is_static, semantic_order

# Each backend takes (q, k, v, order, partition, scale) with tokens first, (B, L, heads, d), and
# returns (B, L, heads, d). Backends receive checked arguments and at least two clusters, unless the
# number is symbolic.
_BACKENDS: dict[str, Callable[..., Tensor]] = {
    'reference': reference.attention,
    'sdpa': sdpa.attention,
    'triton': triton.attention,
}

_logger = logging.getLogger('mmsecvit')


def check_backend(backend: str) -> None:
    """Raise a ValueError unless ``backend`` is ``auto`` or the name of a backend."""
    names = ['auto', *_BACKENDS]
    if backend not in names:
        raise InputError(f'backend must be one of {", ".join(names)}, got {backend!r}')


def is_count(x: Any) -> bool:
    """Return whether ``x`` is an integer of at least 1. True is not a number here."""
    return isinstance(x, Integral) and not isinstance(x, bool) and int(x) >= 1


def check_num_clusters(num_clusters: int) -> None:
    """Raise a ValueError unless ``num_clusters`` is an integer of at least 1."""
    if not is_count(num_clusters):
        raise InputError(f'num_clusters must be an integer of at least 1, got {num_clusters!r}')


def check_clusters(num_clusters: int | None, cluster_size: int | None) -> None:
    """Raise a ValueError unless one is an integer of at least 1 and the other one is None."""
    if cluster_size is not None:
        check_cluster_size(cluster_size, num_clusters)
    elif num_clusters is None:
        raise InputError('num_clusters or cluster_size must be given')
    else:
        check_num_clusters(num_clusters)


def check_cluster_size(cluster_size: int, num_clusters: Any) -> None:
    """Raise a ValueError unless ``cluster_size`` is a size and ``num_clusters`` is None."""
    if not is_count(cluster_size):
        raise InputError(f'cluster_size must be an integer of at least 1, got {cluster_size!r}')
    if num_clusters is not None:
        raise InputError(
            'cluster_size and num_clusters exclude each other: set one of them to None, got '
            f'{cluster_size!r} and {num_clusters!r}'
        )


def choose_backend(backend: str, x: Tensor) -> str:
    """Choose the backend for tensors like ``x``.

    ``auto`` asks ``triton`` and then takes ``sdpa``. The logger ``mmsecvit`` says at debug level
    why ``triton`` is not used.

    Args:
        backend: ``auto``, or the name of a backend.
        x: Queries, keys or values; their dtype, device and last dimension count.

    Returns:
        The name of a backend.

    Raises:
        ValueError: If the backend that ``backend`` names cannot run on ``x``.
    """
    if backend == 'auto':
        reason = triton.unsupported_reason(x) or triton.unproven_reason(x)
        if reason is None:
            return 'triton'
        if not torch.compiler.is_compiling():
            _logger.debug("backend 'auto' takes sdpa, because triton %s", reason)
        return 'sdpa'
    if backend == 'triton' and (reason := triton.unsupported_reason(x)):
        raise InputError(
            f"backend 'triton' {reason}, got {x.dtype} on {x.device} of the shape {tuple(x.shape)}"
        )
    return backend


def sec_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    num_clusters: int,
    *,
    scale: float | None = None,
    order: Tensor | None = None,
    backend: str = 'auto',
) -> Tensor:
    """Attend inside clusters of semantically similar tokens (Eq. 2-5).

    The function orders the tokens of each head by the similarity of their key to the mean key,
    and cuts them into ``num_clusters`` clusters whose sizes differ by at most one. A token
    attends to the tokens of its cluster. One cluster is plain attention.

    Args:
        q: Queries, (B, heads, L, d), any floating dtype, any strides. Views of (B, L, heads, d)
            are the fastest: backends take tokens first.
        k: Keys, of the shape, dtype and device of ``q``.
        v: Values, of the shape, dtype and device of ``q``.
        num_clusters: Number of clusters, at least 1. More clusters than tokens become L.
        scale: Factor on the product of queries and keys. Defaults to ``d ** -0.5``.
        order: Permutation of each head's tokens to cut into clusters, (B, heads, L), int64.
            Defaults to ``semantic_order(k)``.
        backend: ``auto``, ``reference`` (the paper line by line, any dtype, holds every
            attention matrix, differentiable twice; products of float16 must stay below 65504),
            ``sdpa`` (torch's fused attention on permuted tokens; second derivatives only under
            ``sdpa_kernel(SDPBackend.MATH)``) or ``triton`` (one fused kernel that permutes
            nothing; CUDA; float32, float16 and bfloat16; heads of at most 128 channels).
            ``auto`` is ``triton`` on GPUs of a compute capability on which its tests have passed
            (9.0; docs/gpu_kernels.md), for heads of at most 64 channels in 16 bits and 32 in
            float32, unless a graph is compiled, and else ``sdpa``.

    Returns:
        (B, heads, L, d), tokens in the order of ``q``, dtype of ``q`` or else autocast's.

    Raises:
        ValueError: If shapes, dtypes or devices disagree, ``num_clusters`` is no integer or
            below 1, ``backend`` is unknown or cannot run here, or ``order`` has the wrong shape
            or dtype.

    Example:
        >>> q, k, v = torch.randn(3, 2, 4, 100, 32)
        >>> sec_attention(q, k, v, num_clusters=8).shape
        torch.Size([2, 4, 100, 32])
    """
    if q.dim() != 4 or 0 in q.shape[1:] or not q.is_floating_point():
        raise InputError(
            'q must be floating, of the shape (B, heads, L, d) with at least one head, '
            f'token and channel, got {q.dtype} of the shape {tuple(q.shape)}'
        )
    for name, x in (('k', k), ('v', v)):
        if x.shape != q.shape:
            raise InputError(
                f'{name} must have the shape of q, {tuple(q.shape)}, got {tuple(x.shape)}'
            )
        if (x.dtype, x.device) != (q.dtype, q.device):
            raise InputError(
                f'{name} must have the dtype and device of q, {q.dtype} on {q.device}, '
                f'got {x.dtype} on {x.device}'
            )
    if is_static(num_clusters):
        check_num_clusters(num_clusters)
    check_backend(backend)
    if order is not None and (
        (order.shape, order.dtype, order.device) != (q.shape[:3], torch.int64, q.device)
    ):
        raise InputError(
            f'order must be int64 of the shape (B, heads, L), {tuple(q.shape[:3])}, on {q.device}, '
            f'got {order.dtype} of the shape {tuple(order.shape)} on {order.device}'
        )
    backend = choose_backend(backend, q)
    if scale is None:
        scale = q.shape[-1] ** -0.5

    partition = Partition.of(q.shape[2], num_clusters)
    if partition.is_single:
        if backend == 'reference':
            return reference.plain_attention(q, k, v, scale)
        return F.scaled_dot_product_attention(q, k, v, scale=scale)
    if order is None:
        order = triton.order(k.transpose(1, 2)) if backend == 'triton' else semantic_order(k)
    # (B, heads, L, d) -> (B, L, heads, d)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return _BACKENDS[backend](q, k, v, order, partition, scale).transpose(1, 2)
