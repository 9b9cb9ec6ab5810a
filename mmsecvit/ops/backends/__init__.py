"""Implementations of attention inside clusters, one file each.

Each has a function ``attention(q, k, v, order, partition, scale)``. Queries, keys, values and the
result are (B, L, heads, d): the layers hold tokens first, and heads are views.
"""
