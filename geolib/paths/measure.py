"""Lengths of smooth curves to a tolerance, and their points at equal steps in length."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from geolib.riemannian import RiemannianMetric
from geolib.spline import CubicBSpline, common_knots

_MAX_SEGMENTS = 4096
# One grid for every number of segments, as Richardson's rule compares sums over the same parametrisation.
_LATENT_GRID = 512


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
    below, above = total.gather(-1, right - 1), total.gather(-1, right)
    gap = above - below
    fraction = torch.where(gap > 0, (wanted - below) / torch.where(gap > 0, gap, 1.0), 0.0).clamp(0, 1)
    even = torch.lerp(t.gather(-1, right - 1), t.gather(-1, right), fraction)
    even[:, 0], even[:, -1] = t[:, 0], t[:, -1]
    return even


def latent_parameters(curve: CubicBSpline, n_segments: int) -> Tensor:
    """Parameters ``(B, n_segments + 1)`` at about equal steps in *latent* length.

    A curve that was optimised at equal steps of t may jump over a feature between two of them. Points at equal steps in
    latent length see the feature.
    """
    P = curve.control_points
    t = torch.linspace(0, 1, _LATENT_GRID + 1, dtype=P.dtype, device=P.device)
    return even_parameters(t.expand(len(P), -1), curve(t).diff(dim=-2).norm(dim=-1), n_segments)


@dataclass(frozen=True)
class Measured:
    """A batch of curves and what was measured on them."""

    curve: CubicBSpline
    """batch of B"""
    length: Tensor
    """(B,), Riemannian"""
    t: Tensor
    """(B, n_segments + 1), parameters at equal steps of that length"""
    resolved: Tensor
    """(B,), whether the length reached the tolerance"""

    @property
    def points(self) -> Tensor:
        """(B, n_segments + 1, d), at equal steps in length"""
        return self.curve.each(self.t)

    def finer_points(self, times: int) -> Tensor:
        """(B, times n_segments + 1, d), the same and more of them between, about as evenly spaced"""
        weight = torch.arange(times, dtype=self.t.dtype, device=self.t.device) / times
        between = torch.lerp(self.t[:, :-1, None], self.t[:, 1:, None], weight).flatten(1)
        return self.curve.each(torch.cat([between, self.t[:, -1:]], dim=-1))

    def replaced(self, rows: Tensor, other: "Measured", chosen: Tensor) -> "Measured":
        """These curves with those of ``rows (b,)`` replaced by the ones of ``other`` that are ``chosen (b,)``."""
        knots = common_knots([self.curve.knots, other.curve.knots])
        values = []
        for mine, new in (
            (self.curve.with_knots(knots).control_points, other.curve.with_knots(knots).control_points),
            (self.length, other.length),
            (self.t, other.t),
            (self.resolved, other.resolved),
        ):
            value = mine.clone()
            value[rows[chosen]] = new[chosen]
            values.append(value)
        return Measured(CubicBSpline.trusted(values[0], knots), *values[1:])


def measure(metric: RiemannianMetric, curve: CubicBSpline, n_segments: int, rtol: float) -> Measured:
    """Riemannian lengths of curves, parameters at equal steps of that length, and whether it is known to ``rtol``.

    The error of a sum over segments falls with their number squared, so two sums give a third whose error falls with
    the fourth power (Richardson), and two of these differ by about 15 times the error of the better one. Segments are
    halved until they differ by less than 2 ``rtol`` and the correction is below 5 ``rtol``: farther off, sums may
    agree by chance. A feature of the metric narrower than 1 / (2 ``n_segments``) of the curve can be missed.

    Where ``rtol`` is below what rounding does to a sum, the sum is only known to that: rounding moves the ends, and it
    turns the segments, which makes them longer the shorter they are. A sum that is no larger than what rounding alone
    may make up is no length.
    """
    P = curve.control_points
    length = P.new_zeros(len(P))
    t = P.new_zeros(len(P), n_segments + 1)
    active = torch.arange(len(P), device=P.device)
    n_fine = 4 * math.ceil(n_segments / 2)
    floor = metric.rounding_floor(P[:, 0])
    shortest = n_fine * floor
    while len(active):
        parameters = latent_parameters(curve[active], n_fine)
        segments, by_two, by_four = metric.nested_lengths(curve[active].each(parameters))
        fine = segments.sum(-1)
        t[active] = even_parameters(parameters, segments, n_segments)
        better, good = fine + (fine - by_two) / 3, by_two + (by_two - by_four) / 3
        has_length = fine > shortest[active]
        length[active] = torch.where(has_length, better, 0.0)
        # a segment of length c that rounding moves aside by e is longer by e^2 / (2 c)
        rounded = floor[active] * (1 + n_fine * (n_fine * floor[active] / fine / 2))
        tolerance = torch.maximum(rtol * fine, rounded)
        close = ((better - good).abs() <= 2 * tolerance) & ((better - fine).abs() <= 5 * tolerance)
        active = active[has_length & ~close]
        n_fine *= 2
        if n_fine > max(_MAX_SEGMENTS, 8 * n_segments):
            break
    resolved = torch.ones_like(length, dtype=torch.bool)
    resolved[active] = False
    return Measured(curve, length, t, resolved)
