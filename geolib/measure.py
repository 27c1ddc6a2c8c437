"""How long smooth curves are, to a tolerance, and where their points at equal steps in length lie."""

import torch
from torch import Tensor

from geolib.curves import Metric, segment_lengths
from geolib.spline import CubicBSpline

_MAX_SEGMENTS = 4096
# One grid for every number of segments: Richardson's rule compares sums along one and the same parametrisation.
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

    A curve that was made short at equal steps of t may hurry past what lies between two of them. It cannot hide it from
    points that are evenly spread in latent space.
    """
    P = curve.control_points
    t = torch.linspace(0, 1, _LATENT_GRID + 1, dtype=P.dtype, device=P.device)
    return even_parameters(t.expand(len(P), -1), curve(t).diff(dim=-2).norm(dim=-1), n_segments)


def length_on(metric: Metric, curve: CubicBSpline, n_segments: int) -> tuple[Tensor, Tensor, Tensor]:
    """Length ``(B,)`` on segments of equal latent length, their own lengths ``(B, n_segments)`` and parameters."""
    t = latent_parameters(curve, n_segments)
    segments = segment_lengths(metric, curve.each(t))
    return segments.sum(-1), segments, t


def measure(metric: Metric, curve: CubicBSpline, n_segments: int, rtol: float) -> tuple[Tensor, Tensor, Tensor]:
    """Riemannian lengths ``(B,)`` of curves, the parameters ``(B, n_segments + 1)`` at equal steps of that length, and
    whether each length reached the tolerance ``(B,)``.

    The error of a sum over segments falls with their number squared, so two sums give a third that is better than
    both (Richardson). Segments are halved until it differs from the finer sum by less than 3 ``rtol``; its own error is
    then of the order of that difference squared. A feature of the metric narrower than 1 / (4 ``n_segments``) of the
    curve can be missed.
    """
    P = curve.control_points
    length = P.new_zeros(len(P))
    t = P.new_zeros(len(P), n_segments + 1)
    active = torch.arange(len(P), device=P.device)
    coarse, *_ = length_on(metric, curve, 2 * n_segments)
    n_fine = 4 * n_segments
    while len(active):
        fine, segments, parameters = length_on(metric, curve[active], n_fine)
        t[active] = even_parameters(parameters, segments, n_segments)
        correction = (fine - coarse) / 3
        length[active] = fine + correction
        going_on = correction.abs() > 3 * rtol * fine
        active, coarse = active[going_on], fine[going_on]
        n_fine *= 2
        if n_fine > max(_MAX_SEGMENTS, 8 * n_segments):
            break
    resolved = torch.ones_like(length, dtype=torch.bool)
    resolved[active] = False
    return length, t, resolved
