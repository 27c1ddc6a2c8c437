"""Pairs on whose way the metric is not finite: they are found by halves, and keep their straight lines."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from geolib.checks import NOT_FINITE, nan_where_not_finite
from geolib.curves import straight
from geolib.paths.interpolant import Curve
from geolib.paths.measure import measure
from geolib.paths.result import Geodesic, Status
from geolib.riemannian import RiemannianMetric

# the curves found for rows (b,), in parts with the rows of each
Solve = Callable[[Tensor], list[tuple[Tensor, Geodesic]]]


def solve_the_others(
    solve: Solve, rows: Tensor, lost: list[Tensor], finite: Callable[[Tensor], Tensor] | None = None
) -> list[tuple[Tensor, Geodesic]]:
    """``solve(rows)``, without those rows for which it fails as something is not finite. They are added to ``lost``.

    ``finite(rows)`` tells cheaply for which rows it certainly fails: those that are false.
    """
    try:
        return solve(rows)
    except NOT_FINITE:
        pass
    if finite is not None:
        kept = finite(rows)
        if not bool(kept.all()):
            lost.append(rows[~kept])
            return solve_the_others(solve, rows[kept], lost) if bool(kept.any()) else []
    if len(rows) == 1:
        lost.append(rows)
        return []
    return [part for half in rows.tensor_split(2) for part in solve_the_others(solve, half, lost)]


def finite_lines(metric: RiemannianMetric, start: Tensor, end: Tensor, n_segments: int) -> Tensor:
    """Whether the metric is finite on the straight lines between points ``(B, d)``: ``(B,)``.

    Raises:
        NotFiniteError: where it, or the image, is not finite at a start or an end, which are the caller's.
    """
    ends = torch.cat([start, end])
    metric(ends)
    metric.image_norm(ends)
    # at the middles of segments, as lengths are
    points = straight(start, end, 2 * n_segments)[:, 1::2]
    flat = points.flatten(0, 1)
    M = torch.cat([metric.unchecked(part) for part in flat.split(metric.points_at_once(flat))])
    return torch.isfinite(M).reshape(len(start), -1).all(-1)


def kept_lines(metric: RiemannianMetric, start: Tensor, end: Tensor, n_segments: int, rtol: float) -> Geodesic:
    """The straight lines between pairs ``(B, d)`` that are lost; lengths are NaN where they are not finite."""

    def measured(a: Tensor, b: Tensor) -> Tensor:
        return measure(metric, Curve.line(a, b), n_segments, rtol).length

    length = start.new_full((len(start),), math.nan)
    finite = finite_lines(metric, start, end, n_segments).nonzero()[:, 0]
    if len(finite):
        length[finite] = nan_where_not_finite(measured, (), start[finite], end[finite])
    bound = metric.chord(start, end)
    return _not_finite(start, end, n_segments, length, torch.where(length < bound, length, bound))


def finite_points(metric: RiemannianMetric, z: Tensor) -> Tensor:
    """Whether the metric and the image are finite at points ``(n, d)``: ``(n,)``."""

    def image_norm(z: Tensor) -> Tensor:
        metric(z)
        return metric.image_norm(z)

    return torch.isfinite(nan_where_not_finite(image_norm, (), z))


def pairs_off_the_domain(start: Tensor, end: Tensor, n_segments: int) -> Geodesic:
    """What is known of pairs ``(B, d)`` at whose ends the metric is not finite: nothing."""
    return _not_finite(start, end, n_segments, start.new_full((len(start),), math.nan), torch.zeros_like(start[:, 0]))


def _not_finite(start: Tensor, end: Tensor, n_segments: int, length: Tensor, bound: Tensor) -> Geodesic:
    points = straight(start, end, n_segments)
    points[:, -1] = end
    zero = torch.zeros(len(start), dtype=torch.long, device=start.device)
    residual = torch.full_like(length, math.nan)
    status = zero + Status.NOT_FINITE
    return Geodesic(points, Curve.line(start, end), length, length.clone(), bound, residual, zero, status, zero.clone())
