"""Lengths of smooth curves to a tolerance, and their points at equal steps in length."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from geolib.curves import recorded_length
from geolib.paths.interpolant import Curve
from geolib.riemannian import RiemannianMetric

_MAX_SEGMENTS = 4096
# Latent length is read off at so many steps of t, or so many times the curve's segments where that is less.
_LATENT_GRID, _LINE_GRID = 512, 32


def even_parameters(t: Tensor, lengths: Tensor, n_segments: int) -> Tensor:
    """Parameters at equal steps in length.

    Args:
        t: nondecreasing parameters ``(B, K + 1)``.
        lengths: length of each of the K segments between them, ``(B, K)``.

    Returns:
        ``(B, n_segments + 1)``, from the first of ``t`` to its last; equal steps of t for a curve without length.
    """
    total = torch.cat([torch.zeros_like(lengths[:, :1]), lengths.cumsum(-1)], dim=-1)
    empty = total[:, -1:] <= 0
    total = torch.where(empty, t - t[:, :1], total)
    share = torch.linspace(0, 1, n_segments + 1, dtype=t.dtype, device=t.device)
    wanted = total[:, -1:] * share
    right = torch.searchsorted(total.contiguous(), wanted.contiguous()).clamp(1, lengths.shape[-1])
    left = right - 1
    below, above = total.gather(-1, left), total.gather(-1, right)
    # only before a first segment without length is this 0 / 0
    fraction = ((wanted - below) / (above - below)).nan_to_num(0.0)
    even = torch.lerp(t.gather(-1, left), t.gather(-1, right), fraction)
    even[:, -1] = t[:, -1]  # behind the last segments, if these have no length
    return even


def latent_lengths(curve: Curve) -> tuple[Tensor, Tensor]:
    """Equal steps of t ``(B, K + 1)``, and the *latent* length of B curves between them ``(B, K)``.

    A curve that was optimised at equal steps of t may jump over a feature between two of them. Points at equal steps in
    latent length (``even_parameters``) see the feature.
    """
    # on one grid whatever the number of segments, as that is the batch's; one cubic is nearly always a line
    n_grid = _LINE_GRID if curve.n_segments == 1 else _LATENT_GRID
    t = torch.linspace(0, 1, n_grid + 1, dtype=curve.points.dtype, device=curve.points.device)
    t = t.expand(len(curve.points), -1)
    points = curve.unchecked(t) if n_grid % curve.n_segments else curve.even_points(n_grid)
    return t, torch.linalg.vector_norm(points.diff(dim=-2), dim=-1)


@dataclass(frozen=True)
class Measured:
    """A batch of curves and what was measured on them."""

    curve: Curve
    """batch of B"""
    length: Tensor
    """(B,), Riemannian"""
    t: Tensor
    """(B, n_segments + 1), parameters at equal steps of that length"""
    resolved: Tensor
    """(B,), whether the length reached the tolerance"""
    n_fine: Tensor
    """(B,), the segments of the last sum"""

    def __getitem__(self, rows: Tensor) -> "Measured":
        """Those of ``rows (b,)``."""
        return Measured(self.curve[rows], self.length[rows], self.t[rows], self.resolved[rows], self.n_fine[rows])

    @property
    def points(self) -> Tensor:
        """(B, n_segments + 1, d), at equal steps in length"""
        return self.curve.unchecked(self.t)

    def finer_points(self, times: int) -> Tensor:
        """(B, times n_segments + 1, d), the same and more of them between, about as evenly spaced"""
        if times == 1:
            return self.points
        weight = torch.arange(times, dtype=self.t.dtype, device=self.t.device) / times
        between = torch.lerp(self.t[:, :-1, None], self.t[:, 1:, None], weight).flatten(1)
        return self.curve.unchecked(torch.cat([between, self.t[:, -1:]], dim=-1))

    def replaced(self, rows: Tensor, other: "Measured", chosen: Tensor) -> "Measured":
        """These curves with those of the ascending ``rows (b,)`` replaced by those of ``other`` that are ``chosen``."""
        which = chosen.nonzero()[:, 0]
        if not len(which):
            return self
        if len(which) == len(self.length):
            return other
        places = rows[which]
        values = (
            getattr(self, name).index_copy(0, places, getattr(other, name)[which])
            for name in ("length", "t", "resolved", "n_fine")
        )
        return Measured(self.curve.replaced(places, other.curve[which]), *values)


def measure(metric: RiemannianMetric, curve: Curve, n_segments: int, rtol: float) -> Measured:
    """Riemannian lengths of curves, parameters at equal steps of that length, and whether it is known to ``rtol``.

    The error of a sum over segments falls with their number squared, so two sums give a third whose error falls with
    the fourth power (Richardson), and two of these differ by about 15 times the error of the better one. Segments are
    halved until they differ by less than 2 ``rtol`` and the correction is below 5 ``rtol``: farther off, sums may
    agree by chance. A feature of the metric narrower than 1 / (2 ``n_segments``) of the curve can be missed.

    Where ``rtol`` is below what rounding does to a sum, the sum is only known to that: rounding moves the ends, and it
    turns the segments, which makes them longer the shorter they are. A sum that is no larger than what rounding alone
    may make up is no length.
    """
    start = curve.points[:, 0]
    n_curves = len(start)
    length = start.new_zeros(n_curves)
    t = start.new_zeros(n_curves, n_segments + 1)
    resolved = torch.zeros(n_curves, dtype=torch.bool, device=start.device)
    n_last = torch.zeros(n_curves, dtype=torch.long, device=start.device)
    rows = torch.arange(n_curves, device=start.device)
    n_fine = 4 * math.ceil(n_segments / 2)
    floor = metric.rounding_floor(start)
    shortest = n_fine * floor
    # One grid for every n_fine, as Richardson's rule compares sums over the same parametrisation.
    left = rows, curve, *latent_lengths(curve), floor, shortest
    while True:
        rows, part, grid, latent, floor, shortest = left
        parameters = even_parameters(grid, latent, n_fine)
        segments, by_two, by_four = metric.nested_lengths(part.unchecked(parameters))
        fine = segments.sum(-1)
        better, good = fine + (fine - by_two) / 3, by_two + (by_two - by_four) / 3
        has_length = fine > shortest
        t[rows] = even_parameters(parameters, segments, n_segments)
        length[rows] = torch.where(has_length, better, 0.0)
        # a segment of length c that rounding moves aside by e is longer by e^2 / (2 c)
        tolerance = torch.maximum(rtol * fine, floor * (1 + n_fine * (n_fine * floor / fine / 2)))
        close = ((better - good).abs() <= 2 * tolerance) & ((better - fine).abs() <= 5 * tolerance)
        done = close | ~has_length
        resolved[rows] = done
        n_last[rows] = n_fine
        todo = (~done).nonzero()[:, 0]
        n_fine *= 2
        if not len(todo) or n_fine > max(_MAX_SEGMENTS, 8 * n_segments):
            return Measured(curve, length, t, resolved, n_last)
        left = tuple(x[todo] for x in left)


def differentiable_length(
    metric: RiemannianMetric,
    curve: Curve,
    length: Tensor,
    start: Tensor,
    end: Tensor,
    n_segments: int,
    rtol: float,
) -> Tensor:
    """The ``length (B,)`` of geodesics, with its first derivatives in start and end ``(B, d)`` and in the metric.

    To first order a geodesic's length changes with the metric as if the curve stayed where it is (envelope theorem),
    and with its ends as the length of any nearby curves between them does (first variation). So the length is written
    once more along the curve, at as many points as it takes to agree with what was measured, whose value it keeps.
    """
    lengths, order = [], []
    active = torch.arange(len(length), device=length.device)
    grid, latent = latent_lengths(curve)
    n_fine = 4 * math.ceil(n_segments / 2)
    while len(active):
        with torch.no_grad():
            points = curve[active].unchecked(even_parameters(grid[active], latent[active], n_fine))
            segments, by_two, _ = metric.nested_lengths(points)
            fine, goal = segments.sum(-1), length[active]
            done = ((fine + (fine - by_two) / 3 - goal).abs() <= rtol * goal) | (goal == 0)
            done |= 2 * n_fine > max(_MAX_SEGMENTS, 8 * n_segments)
        rows, points = active[done], points[done]
        if len(rows):
            # All points follow the ends, in proportion. Were only the ends to move, the derivatives would hang on the
            # curve's direction there, and were 3 to 60 times less accurate.
            share = torch.linspace(0, 1, n_fine + 1, dtype=points.dtype, device=points.device).unsqueeze(-1)
            points = points + (1 - share) * _still(start[rows]) + share * _still(end[rows])
            lengths.append(recorded_length(metric, points))
            order.append(rows)
        active = active[~done]
        n_fine *= 2
    recorded = torch.cat(lengths)[torch.cat(order).argsort()]
    return length + torch.where(length > 0, recorded - recorded.detach(), 0.0)


def _still(ends: Tensor) -> Tensor:
    """Zeros ``(B, 1, d)`` with the derivatives of ``ends (B, d)``."""
    return (ends - ends.detach()).unsqueeze(1)
