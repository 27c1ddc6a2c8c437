"""Pairs so near that rounding spoils sums along a curve between them: the straight line, measured by its tangent."""

import math

import torch
from torch import Tensor

from geolib.curves import straight
from geolib.paths.certificate import is_geodesic
from geolib.paths.equation import acceleration
from geolib.paths.interpolant import Curve
from geolib.paths.result import Geodesic, Status
from geolib.riemannian import RiemannianMetric

_SIGNIFICANT = 1e2  # times the rounding of a metric, below which a direction's length is not known


def near_pairs(
    metric: RiemannianMetric, start: Tensor, end: Tensor, n_segments: int, rtol: float
) -> tuple[Tensor, Geodesic | None]:
    r"""Which of the pairs ``(B, d)`` are so near, and the straight lines between these as a ``Geodesic`` of b curves.

    A sum over n segments, each of which rounding may move aside by e, is longer by about :math:`(n e / L)^2 / 2`. Where
    that is more than ``rtol``, the line's length is :math:`|\Delta|_M`, by Simpson's rule. It is taken only where the
    metric hardly changes along the line, and where the line is a geodesic to the tolerance: with the covariant
    acceleration a, nearly constant, and its part normal to the line, its residual is
    :math:`\pi |a|_M / (\sqrt{12} |\Delta|_M)`.

    Returns:
        ``(B,)`` and the curves, or None where there are none.
    """
    step = end - start
    middle = start + step / 2
    M = metric.unchecked(middle)
    n_fine = 4 * math.ceil(n_segments / 2)
    squared = _square(step, M)
    # a direction in which the metric is zero has no length, however near its ends are
    kind = torch.finfo(start.dtype)
    known = squared > _SIGNIFICANT * kind.eps * M.diagonal(dim1=-2, dim2=-1).sum(-1) * step.square().sum(-1)
    length = squared.clamp_min(0).sqrt()
    near = known & (n_fine * metric.rounding_floor(start) > (2 * rtol) ** 0.5 * length)
    rows = near.nonzero()[:, 0]
    if not len(rows):
        return near, None
    a, b, step, middle, M = start[rows], end[rows], step[rows], middle[rows], M[rows]
    first, last = (_square(step, metric.unchecked(x)).clamp_min(0).sqrt() for x in (a, b))
    halfway = length[rows]
    length = (first + 4 * halfway + last) / 6
    # unit speed, as the square of a short step may be too small a number
    unit = step / length.unsqueeze(-1)
    turn = acceleration(metric, middle, unit)
    along = torch.einsum("ni,nij,nj->n", turn, M, unit)  # which only changes the speed
    normal = (_square(turn, M) - along.square()).clamp_min(0).sqrt()
    residual = math.pi / 12**0.5 * length * normal
    even = (first + last - 2 * halfway).abs() <= 6 * rtol * length  # else Simpson's rule may be off by more
    kept = even & is_geodesic(residual, rtol)
    near[rows[~kept]] = False
    if not bool(kept.any()):
        return near, None
    a, b, length, residual = a[kept], b[kept], length[kept], residual[kept]
    zero = torch.zeros(len(a), dtype=torch.long, device=a.device)
    bound = torch.minimum(metric.chord(a, b), length)
    points = straight(a, b, n_segments)
    points[:, -1] = b
    status = zero + Status.CONVERGED
    return near, Geodesic(points, Curve.line(a, b), length, length, bound, residual, zero, status, zero)


def _square(v: Tensor, M: Tensor) -> Tensor:
    return torch.einsum("ni,nij,nj->n", v, M, v)
