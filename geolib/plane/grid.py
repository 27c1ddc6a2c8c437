"""Shortest paths over a grid in the plane whose nodes are joined to all visible nodes nearby."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

from geolib import checks
from geolib.paths.arrays import to_numpy
from geolib.riemannian import RiemannianMetric

# From level to level the cells are halved and the reach in cells is doubled: the finer graph has every edge of the
# coarser one and a new direction in every gap between two old ones. With a smaller factor some gaps would remain, and
# the error that they cause would not show in the change from level to level.
STRIDES = (4, 2, 1)
_POINTS_AT_ONCE = 128
# SciPy treats an explicit zero as a missing edge
_TINY = np.finfo(np.float64).tiny


@dataclass(frozen=True)
class Grid:
    """Metric tensors at the nodes of a grid. The coordinates of points are in cells, from the lower corner."""

    G: np.ndarray
    """(n + 1, n + 1, 3), rows along y: the coefficients a, b, c of the squared speed a x^2 + b x y + c y^2 per cell"""
    lower: np.ndarray
    """(2,), the lower corner, in latent units"""
    step: np.ndarray
    """(2,), the sides of a cell, in latent units"""

    @classmethod
    def over(cls, metric: RiemannianMetric, lower: Tensor, upper: Tensor, n: int, reach: int) -> "Grid":
        """The grid of (n + 1)^2 nodes over a box, with ``n`` and ``reach`` checked."""
        for name, value, least in (("resolution", n, 16), ("reach", reach, 4)):
            if checks.integer(name, value, at_least=least) % STRIDES[0]:
                raise ValueError(f"{name}: got {value}, expected a multiple of {STRIDES[0]}")
        share = torch.linspace(0, 1, n + 1, dtype=lower.dtype, device=lower.device).unsqueeze(-1)
        x, y = torch.lerp(lower, upper, share).unbind(-1)
        z = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)
        with torch.no_grad():
            M = torch.cat([metric(part) for part in z.split(metric.points_at_once(z))])
        low, high, M = (to_numpy(x) for x in (lower, upper, M))
        step = (high - low) / n
        M = M * step[:, None] * step
        G = np.stack([M[:, 0, 0], M[:, 0, 1] + M[:, 1, 0], M[:, 1, 1]], axis=-1)
        return cls(G.reshape(n + 1, n + 1, 3), low, step)

    def coarser(self, stride: int) -> "Grid":
        """The grid of every ``stride``-th node."""
        return Grid(self.G[::stride, ::stride] * stride**2, self.lower, self.step * stride)

    def cells(self, z: Tensor) -> np.ndarray:
        """The coordinates of latent points ``(..., 2)`` in cells from the lower corner, clipped to the box."""
        return ((to_numpy(z) - self.lower) / self.step).clip(0, len(self.G) - 1)

    def sidestep(self, at: np.ndarray, reach: int) -> float:
        """How much longer an edge gets when its end moves one row or column to the side.

        The edge has the largest length that ``reach`` allows, and the result is the maximum along a path through
        ``(k, 2)``.
        """
        step, (x, y) = np.diff(at, axis=0), ((at[1:] + at[:-1]) / 2).round().astype(int).T
        moving = step.any(axis=1)
        step = step[moving] / abs(step[moving]).max(axis=1, keepdims=True)
        G = self.G[y, x][moving]
        size, area = reach * _speed(G, step), reach * np.sqrt(np.maximum(G[:, 0] * G[:, 2] - G[:, 1] ** 2 / 4, 0))
        side = np.divide(area, size, out=np.full_like(size, np.inf), where=size > 0)
        side = np.minimum(side, np.sqrt(G[:, 0] + G[:, 2]))
        return float((np.hypot(size, side) - size).max(initial=0))

    def edges(self, i: int, j: int) -> np.ndarray:
        """Lengths of all edges that span i columns and j rows.

        They are integrated by the trapezoidal rule over the speeds where an edge crosses the lines of the grid. (Chords
        of an immersion would be too short, and speeds are interpolated more accurately than their squares.)
        """
        speed, n = _speed(self.G, np.array([i, j], dtype=float)), max(i, abs(j))
        out = np.zeros((len(speed) - abs(j), len(speed) - i))
        for k in range(n + 1):
            (x, right), (y, up) = divmod(k * i, n), divmod(k * j + n * max(0, -j), n)
            for dx, dy, weight in _bilinear(right / n, up / n):
                if weight:
                    at = slice(y + dy, y + dy + out.shape[0]), slice(x + dx, x + dx + out.shape[1])
                    out += weight / (2 * n if k in (0, n) else n) * speed[at]
        return np.maximum(out, _TINY)

    def lengths(self, p: np.ndarray, q: np.ndarray, n: int) -> np.ndarray:
        """Lengths ``(m,)`` of straight segments between arbitrary points ``(m, 2)``, by the same rule with n steps."""
        out, G, step = np.zeros(len(p)), self.G.reshape(-1, 3), q - p
        for k in range(n + 1):
            at = p + step * (k / n)
            cell = np.minimum(at.astype(np.int64), len(self.G) - 2)
            for dx, dy, weight in _bilinear(*(at - cell).T):
                node = (cell[:, 1] + dy) * len(self.G) + cell[:, 0] + dx
                out += weight / (2 * n if k in (0, n) else n) * _speed(G[node], step)
        return np.maximum(out, _TINY)


class GridGraph:
    """The graph of a grid's nodes and one start point, each joined to the nodes within reach."""

    def __init__(self, grid: Grid, reach: int):
        n, window = len(grid.G), np.arange(-reach, reach + 1)
        self.grid, self.reach = grid, reach
        self.window = np.stack(np.meshgrid(window, window), axis=-1).reshape(-1, 2)
        offsets = [(i, j) for i, j in self.window if i >= 0 and (i or j > 0) and math.gcd(i, j) == 1]
        own = np.arange(n * n, dtype=np.int32).reshape(n, n)
        # First each node's edges to all offsets, then those back, and last the edges of the start, which every search
        # replaces; no edge leads to the start. An edge that would leave the grid is a loop of infinite length.
        ends = np.append(own.ravel().repeat(2 * len(offsets)), np.full(len(self.window), n * n, dtype=np.int32))
        weights = np.full(len(ends), np.inf)
        to, size = (x[: -len(self.window)].reshape(n, n, -1) for x in (ends, weights))
        for k, (i, j) in enumerate(offsets):
            if max(i, abs(j)) < n:
                low, high = slice(max(0, -j), n - max(0, j)), slice(max(0, j), n - max(0, -j))
                a, b = (low, slice(0, n - i)), (high, slice(i, n))
                size[(*a, k)] = size[(*b, k - len(offsets))] = grid.edges(i, j)
                to[(*a, k)], to[(*b, k - len(offsets))] = own[b], own[a]
        first = np.append(np.arange(n * n + 1) * 2 * len(offsets), len(ends)).astype(np.int32)
        self.matrix = csr_array((weights, ends, first), shape=(n * n + 1,) * 2)

    def search(self, a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distances ``(nodes,)`` from a point ``(2,)``, and the predecessor of each node on its shortest path."""
        nodes, joins = self._joins(a[None])
        self.matrix.indices[-len(self.window) :], self.matrix.data[-len(self.window) :] = nodes, joins
        start = self.matrix.shape[0] - 1
        field, before = dijkstra(self.matrix, indices=start, return_predecessors=True)
        return field[:start], before

    def shortest(self, a: np.ndarray, ends: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The shortest path from ``a (2,)`` to each of ``ends (m, 2)``: its corners and their distances from ``a``."""
        field, before = self.search(a)
        for part in np.array_split(ends, math.ceil(len(ends) / _POINTS_AT_ONCE)):
            nodes, joins = self._joins(part)
            direct = self.grid.lengths(np.broadcast_to(a, part.shape), part, self.reach)
            direct[abs(part - a).max(axis=1) > self.reach] = np.inf
            nodes = np.column_stack([nodes, np.full(len(part), len(field))])
            total = np.append(field, 0)[nodes] + np.column_stack([joins, direct])
            for b, lengths, candidates in zip(part, total, nodes, strict=True):
                path = [candidates[lengths.argmin()]]
                while path[-1] < len(field):
                    path.append(before[path[-1]])
                inner = np.array(path[-2::-1], dtype=int)
                at = np.stack(np.divmod(inner, len(self.grid.G))[::-1], axis=-1)
                yield np.concatenate([a[None], at, b[None]]), np.concatenate([[0], field[inner], [lengths.min()]])

    def _joins(self, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The nodes within reach of points ``(m, 2)`` and their distances, ``(m, (2 reach + 1)^2)`` each.

        Places beyond the border get the index of the start and an infinite distance.
        """
        n, q = len(self.grid.G), p.round()[:, None] + self.window
        exists = ((q >= 0) & (q < n)).all(axis=-1)
        lengths = np.full(exists.shape, np.inf)
        lengths[exists] = self.grid.lengths(np.broadcast_to(p[:, None], q.shape)[exists], q[exists], self.reach)
        return np.where(exists, q[..., 1] * n + q[..., 0], n * n).astype(np.int32), lengths


def _speed(G: np.ndarray, step: np.ndarray) -> np.ndarray:
    """The Riemannian length of steps ``(..., 2)`` under constant tensors ``G (..., 3)``."""
    x, y = step[..., 0], step[..., 1]
    return np.sqrt(np.maximum(G[..., 0] * x**2 + G[..., 1] * (x * y) + G[..., 2] * y**2, 0))


def _bilinear(x: float | np.ndarray, y: float | np.ndarray) -> list[tuple[int, int, float | np.ndarray]]:
    """The four nodes of a cell and their weights at a point in it."""
    return [(0, 0, (1 - x) * (1 - y)), (1, 0, x * (1 - y)), (0, 1, (1 - x) * y), (1, 1, x * y)]
