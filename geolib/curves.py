"""Length and path energy of discrete curves, and how far they are from a geodesic."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from geolib import checks
from geolib.metric import PullbackMetric

Metric = PullbackMetric | Callable[[Tensor], Tensor]

# how many points a callable z -> M that is not a PullbackMetric is given at once
_CHUNK_OF_CALLABLES = 4096
# a chunk fits the cache; so many fit the memory without being noticed (a GPU's chunks are larger)
_CHUNKS_KEPT_CPU = 24
_CHUNKS_KEPT_GPU = 4
# with few outputs it is not a point's Jacobian that takes the memory but all else, up to 2 KiB
_POINTS_KEPT = 2**18


def has_immersion(metric: Metric) -> bool:
    """Whether ``metric`` is the pull-back of a map that can be evaluated."""
    return isinstance(metric, PullbackMetric) and metric.has_immersion


def metric_tensor(metric: Metric, z: Tensor) -> Tensor:
    """``metric(z)`` ``(..., d, d)`` with its shape and finiteness checked."""
    if isinstance(metric, PullbackMetric):
        return metric(z)
    if not callable(metric):
        raise TypeError(f"metric: got {type(metric).__name__}, expected a PullbackMetric or a callable z -> M")
    M = metric(z)
    expected = (*z.shape, z.shape[-1])
    if not isinstance(M, Tensor) or M.shape != expected:
        got = tuple(M.shape) if isinstance(M, Tensor) else type(M).__name__
        raise ValueError(f"metric: returned {got} for points {tuple(z.shape)}, expected {expected}")
    checks.same_kind("metric's value", M, "z", z)
    checks.finite("metric", M.reshape(-1, *M.shape[-2:]), at=z.reshape(-1, z.shape[-1]))
    return M


def unchecked_tensor(metric: Metric, z: Tensor) -> Tensor:
    """``metric(z)`` ``(n, d, d)`` at ``z (n, d)``, finite or not: a solver's trial point may lie anywhere."""
    return metric.unchecked(z) if isinstance(metric, PullbackMetric) else metric(z)


def squared_segments(metric: Metric, points: Tensor) -> Tensor:
    """Squared Riemannian length of every segment of discrete curves, to second order in the segments.

    Where the metric is the pull-back of an immersion f: the squared chord ``|f(p_{i+1}) - f(p_i)|^2`` (one evaluation
    of f a point and no Jacobian). Otherwise ``D^T M(m) D`` with the segment D and its middle m.

    Args:
        points: ``(..., N + 1, d)``.

    Returns:
        ``(..., N)``; differentiable with respect to ``points``.
    """
    if has_immersion(metric):
        return metric.immersion(points).diff(dim=-2).square().sum(-1)
    step = points.diff(dim=-2)
    middle = points[..., :-1, :] + step / 2
    M = metric_tensor(metric, middle)
    # a metric that rounds to slightly indefinite must not give a negative square
    return torch.einsum("...i,...ij,...j->...", step, M, step).clamp_min(0)


def _safe_sqrt(x: Tensor) -> Tensor:
    """The root, with gradient zero instead of NaN at zero."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1.0).sqrt(), 0.0)


def straight(start: Tensor, end: Tensor, n_segments: int) -> Tensor:
    """Points ``(B, n_segments + 1, d)`` at equal steps on the straight lines between ``(B, d)`` and ``(B, d)``."""
    t = torch.linspace(0, 1, n_segments + 1, dtype=start.dtype, device=start.device).unsqueeze(-1)
    return torch.lerp(start.unsqueeze(1), end.unsqueeze(1), t)


def points_at_once(metric: Metric, points: Tensor) -> int:
    """How many points like those of ``points (..., d)`` the metric is given at once."""
    return metric.chunk_size(points) if isinstance(metric, PullbackMetric) else _CHUNK_OF_CALLABLES


def curves_at_once(metric: Metric, points: Tensor) -> int:
    """How many curves like those of ``points (B, N + 1, d)`` may be worked on at once, their derivatives kept."""
    n_chunks = _CHUNKS_KEPT_CPU if points.device.type == "cpu" else _CHUNKS_KEPT_GPU
    return max(1, min(n_chunks * points_at_once(metric, points), _POINTS_KEPT) // points.shape[-2])


def _blocks(metric: Metric, points: Tensor, *, whole: int = 1) -> Iterator[tuple[slice, slice]]:
    """Slices over curves and points of ``(B, N + 1, d)`` that fit a chunk; pieces of a curve share their end point, and
    have a number of segments that ``whole`` divides."""
    size = points_at_once(metric, points)
    n_curves, n_points, _ = points.shape
    n_segments = min(n_points - 1, max((size - 1) // whole, 1) * whole)
    curves = max(1, size // (n_segments + 1))
    for first in range(0, n_curves, curves):
        for left in range(0, n_points - 1, n_segments):
            yield slice(first, first + curves), slice(left, min(left + n_segments, n_points - 1) + 1)


def segment_lengths(metric: Metric, points: Tensor) -> Tensor:
    """Riemannian length of every segment of discrete curves ``(..., N + 1, d)``: ``(..., N)``."""
    return _safe_sqrt(_segments_in_blocks(metric, points))


def nested_lengths(metric: Metric, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Riemannian length of every segment of curves ``(B, 4 K + 1, d)``, and the lengths of the curves through every
    second and through every fourth point: ``(B, 4 K)``, ``(B,)``, ``(B,)``.

    With an immersion all three come from the same images. No gradients.
    """
    if not has_immersion(metric):
        return segment_lengths(metric, points), *(curve_length(metric, points[:, ::stride]) for stride in (2, 4))
    n_curves, n_points, _ = points.shape
    fine, by_two, by_four = points.new_empty(n_curves, n_points - 1), *points.new_zeros(2, n_curves)
    with torch.no_grad():
        for curves, piece in _blocks(metric, points, whole=4):
            images = metric.immersion(points[curves, piece])
            chords = images.diff(dim=1)
            fine[curves, piece.start : piece.stop - 1] = chords.norm(dim=-1)
            chords = chords[:, ::2] + chords[:, 1::2]
            by_two[curves] += chords.norm(dim=-1).sum(-1)
            by_four[curves] += (chords[:, ::2] + chords[:, 1::2]).norm(dim=-1).sum(-1)
    return fine, by_two, by_four


def _segments_in_blocks(metric: Metric, points: Tensor) -> Tensor:
    """``squared_segments`` with flat memory where no gradient is asked for."""
    checks.latent_points("points", points, min_points=2)
    flat = points.reshape(-1, *points.shape[-2:])
    if torch.is_grad_enabled() and points.requires_grad:
        out = squared_segments(metric, flat)
    else:
        out = flat.new_empty(flat.shape[0], flat.shape[1] - 1)
        with torch.no_grad():
            for curves, piece in _blocks(metric, flat):
                out[curves, piece.start : piece.stop - 1] = squared_segments(metric, flat[curves, piece])
    return out.reshape(*points.shape[:-2], -1)


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
    return segment_lengths(metric, points).sum(-1)


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
    squares = _segments_in_blocks(metric, points)
    return squares.shape[-1] * squares.sum(-1)


def energy_and_gradient(metric: Metric, points: Tensor) -> tuple[Tensor, Tensor]:
    """The path energy of curves ``(B, N + 1, d)`` and its gradient in the points, with memory flat in B.

    Returns:
        energy ``(B,)`` and gradient ``(B, N + 1, d)``.
    """
    n_segments = points.shape[-2] - 1
    energy = points.new_zeros(points.shape[0])
    gradient = torch.zeros_like(points)
    for curves, piece in _blocks(metric, points):
        with torch.enable_grad():
            part = points[curves, piece].detach().requires_grad_()
            value = n_segments * squared_segments(metric, part).sum(-1)
            (slope,) = torch.autograd.grad(value.sum(), part)
        energy[curves] += value.detach()
        gradient[curves, piece] += slope
    return energy, gradient
