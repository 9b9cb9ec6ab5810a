"""Attention inside semantic clusters: the public face of all backends."""

from collections.abc import Callable
from numbers import Integral

import torch
from torch import Tensor

from .backends import reference_attention, sdpa_attention, triton_attention, triton_obstacle
from .clustering import semantic_order

# Each backend takes (q, k, v, order, num_clusters, scale), has nothing left to check, and returns
# (B, heads, L, d). `order` is None where there is one cluster and so nothing to order.
_BACKENDS: dict[str, Callable[..., Tensor]] = {
    'reference': reference_attention,
    'sdpa': sdpa_attention,
    'triton': triton_attention,
}


def check_backend(backend: str) -> None:
    """Raise a ValueError unless ``backend`` is ``auto`` or the name of a backend."""
    names = ['auto', *_BACKENDS]
    if backend not in names:
        raise ValueError(f'backend must be one of {", ".join(names)}, got {backend!r}')


def check_num_clusters(num_clusters: int) -> None:
    """Raise a ValueError unless ``num_clusters`` is an integer of at least 1."""
    if not isinstance(num_clusters, Integral) or num_clusters < 1:
        raise ValueError(f'num_clusters must be an integer of at least 1, got {num_clusters!r}')


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
    """Self-attention inside clusters of semantically similar tokens (Eq. 2-5).

    The tokens of each head are ordered by the similarity of their key to the mean key, cut
    into ``num_clusters`` clusters whose sizes differ by at most one, and attend within their
    cluster only. One cluster is plain attention.

    Args:
        q: Queries, (B, heads, L, d), any floating dtype, any strides.
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
            ``auto`` is ``sdpa``: ``triton`` has been tested in Triton's interpreter only, not
            yet on a GPU.

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
        raise ValueError(
            'q must be floating, of the shape (B, heads, L, d) with at least one head, '
            f'token and channel, got {q.dtype} of the shape {tuple(q.shape)}'
        )
    for name, x in (('k', k), ('v', v)):
        if x.shape != q.shape:
            raise ValueError(
                f'{name} must have the shape of q, {tuple(q.shape)}, got {tuple(x.shape)}'
            )
        if (x.dtype, x.device) != (q.dtype, q.device):
            raise ValueError(
                f'{name} must have the dtype and device of q, {q.dtype} on {q.device}, '
                f'got {x.dtype} on {x.device}'
            )
    check_num_clusters(num_clusters)
    check_backend(backend)
    if order is not None and (
        (order.shape, order.dtype, order.device) != (q.shape[:3], torch.int64, q.device)
    ):
        raise ValueError(
            f'order must be int64 of the shape (B, heads, L), {tuple(q.shape[:3])}, on {q.device}, '
            f'got {order.dtype} of the shape {tuple(order.shape)} on {order.device}'
        )

    if backend == 'auto':
        backend = 'sdpa'
    elif backend == 'triton' and (obstacle := triton_obstacle(q)):
        raise ValueError(
            f"backend 'triton' {obstacle}, got {q.dtype} on {q.device} "
            f'of the shape {tuple(q.shape)}'
        )

    num_clusters = min(num_clusters, q.shape[2])
    if num_clusters == 1:
        order = None
    elif order is None:
        order = semantic_order(k)
    if scale is None:
        scale = q.shape[-1] ** -0.5
    return _BACKENDS[backend](q, k, v, order, num_clusters, scale)
