"""Global distances in two latent dimensions by shortest paths over grids, to check geodesics that are local minima."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from geolib import checks
from geolib.paths.starts.routes import smoothed_polygon
from geolib.plane.grid import STRIDES, Grid, GridGraph
from geolib.riemannian import Metric, as_metric

_MARGIN = 0.25
# The bound on the error is the sum of two terms. The first is twice the last change of the length, at least half the
# change before (an error proportional to 1 / reach^2 falls to a quarter). Levels may agree by chance along a direction
# between two edges; the second term is therefore the cost of two steps to the next row or column. On 6,000 pairs in
# each of 12 spaces the error exceeded the first term by at most 1.5 such steps.
_SAFETY = 2.0
_STEPS = 2.0


@dataclass(frozen=True)
class GlobalDistances:
    """Global distances with error bounds. ``(...)`` is the broadcast batch shape of start and end."""

    distance: Tensor
    """``(...)``, Riemannian length of the shortest path over the finest graph"""
    error: Tensor
    """``(...)``, bound on the difference from the length of the shortest curve in the box, in the same unit"""
    contracting: Tensor
    """``(...)``, whether the second refinement changed the distance clearly less than the first. Where it did not, the
    metric has features about as narrow as a cell, and ``error`` is larger but not a bound: raise ``resolution``."""
    inside: Tensor
    """``(...)``, whether the path stays off the box's border; where it does not, a larger box may have a shorter one"""
    paths: Tensor
    """``(..., n_segments + 1, 2)``, the smoothed paths at equal steps of length, as ``init`` for ``geodesic``"""


def global_distances(
    metric: Metric,
    start: Tensor,
    end: Tensor,
    *,
    lower: Tensor | None = None,
    upper: Tensor | None = None,
    resolution: int = 256,
    reach: int = 12,
    n_segments: int = 32,
) -> GlobalDistances:
    r"""The length of the shortest curve between points of the plane, :math:`\min_\gamma \int |\gamma'|_M dt`.

    Straight edges join each node of a grid to every visible node up to ``reach`` rows and columns away. The weight of
    an edge is the integral along it of the speed :math:`\sqrt{D^T M D}`, interpolated between nodes. Dijkstra's
    algorithm finds the shortest path. The changes under two refinements, each of which halves the cells and keeps the
    length of the edges, give a bound on the error.

    Args:
        metric: a ``PullbackMetric``, or any callable ``z (..., 2) -> M (..., 2, 2)``. It is evaluated once, at the
            (``resolution`` + 1)^2 nodes, and must be finite there.
        start: ``(..., 2)``; broadcast against ``end``. The time is proportional to the number of different starts.
        end: ``(..., 2)``.
        lower, upper: ``(2,)``, corners of the box that curves may not leave; by default a square around all points with
            a margin of a quarter of their extent.
        resolution: cells along each side of the box on the finest grid, a multiple of 4.
        reach: largest number of cells that an edge of the finest graph spans, a multiple of 4.
        n_segments: number of segments of the returned paths.

    Returns:
        a ``GlobalDistances`` with the dtype and device of ``start``.

    Raises:
        TypeError, ValueError: for arguments of the wrong type, shape, dtype or device; for a latent dimension other
            than 2; for points outside the box; where the metric is not finite at a node.

    Note:
        With the default settings, on spheres, half-planes and flat planes and for pairs spread over the box,
        ``distance`` was too long by 0.02 % on average and by 0.3 % at most, and too short by at most 0.002 %. The
        median ``error`` was 0.2 % of the distance. The bound held for all of 72,000 pairs on these spaces and on linear
        decoders with condition numbers from 3 to 300. It failed for one pair in 10,000 where a condition number of 30
        was aligned with the grid. It cannot account for changes of the metric between the nodes.
        Time: 1.5 s and 0.15 s per start, without the evaluation of the metric. Memory: 0.4 GB. Both are proportional to
        ``resolution``^2 ``reach``^2.

    Source:
        This project. Paths over graphs as geodesics: Chen et al. 2019.
    """
    metric = as_metric(metric)
    start, end, batch = checks.pairs(start, end)
    lower, upper = _check_box(lower, upper, "start, end", torch.cat([start, end]))
    checks.integer("n_segments", n_segments, at_least=4)
    grid = Grid.over(metric, lower, upper, resolution, reach)
    starts, which = start.unique(dim=0, return_inverse=True)
    a, b, which = grid.cells(starts), grid.cells(end), which.cpu().numpy()
    lengths, routes = np.empty((3, len(b))), [None] * len(b)
    for level, stride in enumerate(STRIDES):
        graph = GridGraph(grid.coarser(stride), reach // stride)
        for k in range(len(a)):
            pairs = np.nonzero(which == k)[0]
            for pair, route in zip(pairs, graph.shortest(a[k] / stride, b[pairs] / stride), strict=True):
                lengths[level, pair], routes[pair] = route[1][-1], route

    before, last = abs(np.diff(lengths, axis=0))
    hidden = _STEPS * np.array([grid.sidestep(at, reach) for at, _ in routes])
    contracting = last <= before / 2 + hidden
    error = np.where(contracting, 1, 2) * _SAFETY * np.maximum(last, before / 4) + hidden
    inside = np.array([((at[1:-1] > 0) & (at[1:-1] < resolution)).all() for at, _ in routes])
    corners = [(torch.from_numpy(x) for x in (grid.lower + at * grid.step, np.diff(s))) for at, s in routes]
    paths = torch.cat([smoothed_polygon(path[None], s[None], n_segments) for path, s in corners]).to(start)
    paths[:, 0], paths[:, -1] = start, end
    found = [torch.from_numpy(x).to(start) for x in (lengths[-1], error)]
    flags = [torch.from_numpy(x).to(start.device) for x in (contracting, inside)]
    return GlobalDistances(*(x.reshape(batch + x.shape[1:]) for x in (*found, *flags, paths)))


def distance_field(
    metric: Metric, start: Tensor, *, lower: Tensor, upper: Tensor, resolution: int = 256, reach: int = 12
) -> tuple[Tensor, Tensor, Tensor]:
    """Global distances from one point to every node of a grid. Their level sets are geodesic circles.

    Args:
        metric, resolution, reach: as for ``global_distances``.
        start: ``(2,)``.
        lower, upper: ``(2,)``, corners of the box that the grid covers and that curves may not leave.

    Returns:
        ``x (n + 1,)``, ``y (n + 1,)`` and ``distance (n + 1, n + 1)`` with rows along y, in the layout of
        matplotlib's ``contour``. The accuracy is that of ``global_distances``.

    Raises:
        TypeError, ValueError: as ``global_distances``.

    Source:
        As for ``global_distances``.
    """
    metric = as_metric(metric)
    checks.latent_points("start", start)
    if start.ndim != 1:
        raise ValueError(f"start: got shape {tuple(start.shape)}, expected (2,)")
    grid = Grid.over(metric, *_check_box(lower, upper, "start", start.detach().unsqueeze(0)), resolution, reach)
    nodes = np.arange(resolution + 1)[:, None] * grid.step + grid.lower
    field, _ = GridGraph(grid, reach).search(grid.cells(start))
    return tuple(torch.from_numpy(v).to(start) for v in (*nodes.T, field.reshape(grid.G.shape[:2])))


def _check_box(lower: Tensor | None, upper: Tensor | None, name: str, points: Tensor) -> tuple[Tensor, Tensor]:
    """The corners of the box, checked to contain the points ``(m, 2)``; by default those of a square around them."""
    if points.shape[-1] != 2:
        raise ValueError(f"{name}: got latent dimension {points.shape[-1]}, expected 2")
    if lower is None and upper is None:
        low, high = points.amin(dim=0), points.amax(dim=0)
        half = (0.5 + _MARGIN) * (float((high - low).max()) or 1.0)
        return (low + high) / 2 - half, (low + high) / 2 + half
    for side, z in (("lower", lower), ("upper", upper)):
        checks.latent_points(side, z)
        checks.same_kind(side, z, name, points)
        if z.shape != (2,):
            raise ValueError(f"{side}: got shape {tuple(z.shape)}, expected (2,)")
    box = f"from {lower.tolist()} to {upper.tolist()}"
    if not bool((lower < upper).all()):
        raise ValueError(f"lower, upper: got a box {box}, expected lower < upper")
    outside = points[((points < lower) | (points > upper)).any(dim=-1)]
    if len(outside):
        first = f"{len(outside)} of {len(points)} points outside the box {box}, first {outside[0].tolist()}"
        raise ValueError(f"{name}: got {first}; expected all inside")
    return lower.detach(), upper.detach()
