"""Riemannian length and path energy of discrete curves."""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from geolib import checks
from geolib.riemannian import Metric, RiemannianMetric, as_metric


def straight(start: Tensor, end: Tensor, n_segments: int) -> Tensor:
    """Points ``(B, n_segments + 1, d)`` at equal steps on the straight lines between ``(B, d)`` and ``(B, d)``."""
    t = torch.linspace(0, 1, n_segments + 1, dtype=start.dtype, device=start.device).unsqueeze(-1)
    return torch.lerp(start.unsqueeze(1), end.unsqueeze(1), t)


def curve_length(metric: Metric, points: Tensor) -> Tensor:
    r"""Riemannian length :math:`\int |\gamma'|_M dt` of discrete curves, Eq. 1.

    Args:
        metric: a ``PullbackMetric``, or any callable ``z (..., d) -> M (..., d, d)``.
        points: ``(..., N + 1, d)``.

    Returns:
        ``(...)``: the sum over the N segments, whose error against the smooth curve falls with N squared.

    Source:
        Michelis & Becker 2021, Eq. 1.
    """
    metric = as_metric(metric)
    checks.latent_points("points", points, min_points=2)
    return metric.length(points)


def curve_energy(metric: Metric, points: Tensor) -> Tensor:
    r"""Path energy :math:`\int |\gamma'|_M^2 dt` over t in [0, 1] of discrete curves, points at equal steps of t.

    Args:
        metric: as for ``curve_length``.
        points: ``(..., N + 1, d)``.

    Returns:
        ``(...)``: N times the sum of the squared segments. At least the squared length, and equal at constant speed.

    Source:
        Michelis & Becker 2021, Sec. 2.1 (without the factor 1/2 that others carry).
    """
    metric = as_metric(metric)
    checks.latent_points("points", points, min_points=2)
    squares = metric.squared_segments_in_blocks(points)
    return squares.shape[-1] * squares.sum(-1)


def energy_and_gradient(metric: RiemannianMetric, points: Tensor) -> tuple[Tensor, Tensor]:
    """The path energy of curves ``(B, N + 1, d)`` and its gradient in the points, with memory flat in B.

    Returns:
        energy ``(B,)``, infinite where the metric is not finite on the curve, and gradient ``(B, N + 1, d)``.
    """
    n_segments = points.shape[-2] - 1
    energy = points.new_zeros(points.shape[0])
    gradient = torch.zeros_like(points)
    for curves, piece in metric.blocks(points):
        value, slope = _squares_and_gradient(metric, points[curves, piece])
        energy[curves] += n_segments * value
        gradient[curves, piece] += n_segments * slope
    return energy, gradient


def _squares_and_gradient(metric: RiemannianMetric, points: Tensor) -> tuple[Tensor, Tensor]:
    try:
        with torch.enable_grad():
            points = points.detach().requires_grad_()
            value = metric.squared_segments(points).sum(-1)
            (slope,) = torch.autograd.grad(value.sum(), points)
        return value.detach(), slope
    except checks.NotFiniteError:  # a solver's trial points may lie anywhere
        points = points.detach()
        if len(points) == 1:
            return points.new_full((1,), torch.inf), torch.zeros_like(points)
        halves = (_squares_and_gradient(metric, half) for half in points.tensor_split(2))
        return tuple(torch.cat(x) for x in zip(*halves, strict=True))


def recorded_length(metric: RiemannianMetric, points: Tensor) -> Tensor:
    """The Riemannian length ``(B,)`` of curves ``(B, 2 K + 1, d)``, by Richardson's rule from all segments and half as
    many, with a graph back to the points and to everything that the metric is made of, such as a decoder's weights.

    In blocks that are evaluated again in the backward pass, so that memory stays flat in B where the metric allows it.
    """

    def extrapolated(part: Tensor) -> Tensor:
        fine, coarse = metric.length(part), metric.length(part[:, ::2])
        return fine + (fine - coarse) / 3

    with torch.enable_grad():
        # a PullbackMetric records its weights only where the points ask for a gradient
        points = points if points.requires_grad else points.detach().requires_grad_()
        lengths = []
        for curves, piece in metric.blocks(points, multiple_of=2):
            part = points[curves, piece]
            value = checkpoint(extrapolated, part, use_reentrant=False) if metric.repeatable else extrapolated(part)
            if piece.start == 0:
                lengths.append(value)
            else:
                lengths[-1] = lengths[-1] + value
        return torch.cat(lengths)
