"""The residual of curves in the geodesic equation, and the residual below which a curve counts as a geodesic."""

import math

import torch
from torch import Tensor

from geolib import checks
from geolib.paths import tridiagonal
from geolib.paths.energy import path_energy
from geolib.riemannian import Metric, RiemannianMetric, as_metric


def geodesic_residual(metric: Metric, points: Tensor) -> Tensor:
    r"""How far discrete curves are from satisfying the geodesic equation :math:`D_t \gamma' = 0`.

    The covariant acceleration :math:`D_t \gamma'` of a curve at constant speed is normal to it. It is weighed by the
    deviation that it causes: with the field :math:`\delta` along the curve that solves :math:`-D_t^2 \delta = D_t
    \gamma'` and vanishes at both ends, and the length :math:`L = |\gamma'|`,

    .. math:: \rho = \pi \, \| D_t \delta \| / L, \qquad \| \cdot \|^2 = \int_0^1 | \cdot |_M^2 dt .

    It has no unit. Where the acceleration is one arch of a sine it is the root mean square of the acceleration over the
    squared speed, times L: the angle, in radians, by which the curve turns over its whole length. The faster the
    acceleration changes its direction along the curve, the less it counts, and the less length it costs: in flat space
    :math:`\rho = \pi \sqrt{1 - \ell^2 / L^2}` with the distance :math:`\ell` between the ends, exactly. With an
    immersion the field's rate of change is taken in the output space, where it may be larger than the covariant one.

    The acceleration is read off the gradient of the discrete energy,
    :math:`(D_t\gamma')_i = -(N/2) M^{-1} \partial E / \partial p_i`.

    Args:
        metric: a ``PullbackMetric``, or any callable ``z (..., d) -> M (..., d, d)``.
        points: ``(..., N + 1, d)`` at equal steps in length, N >= 2.

    Returns:
        ``(...)``; 0 for a geodesic, and for curves without length. Accuracy: second order in 1/N, and no better than
        the rounding floor (about 1e-6 N in float32). Features between the points are missed.

    Raises:
        TypeError, ValueError: for points of the wrong type or shape; where the metric is not finite on them.

    Source:
        The equation: Arvanitidis et al. 2018; Michelis & Becker 2021, Sec. 2.1. The weighing is this project's own.
    """
    metric = as_metric(metric)
    checks.latent_points("points", points, min_points=3)
    flat = points.detach().reshape(-1, *points.shape[-2:])
    return residual_of(metric, flat).reshape(points.shape[:-2])


@torch.no_grad()
def residual_of(metric: RiemannianMetric, points: Tensor) -> Tensor:
    """``geodesic_residual`` of curves ``(B, N + 1, d)`` that need no check: ``(B,)``."""
    return torch.cat([_residual(metric, part) for part in points.split(metric.curves_at_once(points))])


def _residual(metric: RiemannianMetric, points: Tensor) -> Tensor:
    energy = path_energy(metric, points[:, 0], points[:, -1])
    found = energy.expand(points, torch.arange(len(points), device=points.device), keep=False)
    if not bool(found.finite.all()):
        checks.finite("metric", found.gradient.flatten(1), at=points[:, 1])
    # the component along the curve only changes the spacing of its points
    tangent = (points[:, 2:] - points[:, :-2]).unsqueeze(-1)
    cotangent = found.metric @ tangent
    size = (tangent.mT @ cotangent).squeeze(-1)
    along = (tangent * found.gradient.unsqueeze(-1)).sum(-2)
    moving = size > 0
    normal = found.gradient - torch.where(moving, along / torch.where(moving, size, 1.0), 0.0) * cotangent.squeeze(-1)
    deviation = tridiagonal.solve_regularised(*found.gauss_newton, normal)
    gain = (normal * deviation).sum((-2, -1)).clamp_min(0)
    total = found.total
    return torch.where(total > 0, math.pi * (gain / torch.where(total > 0, total, 1.0)).sqrt(), 0.0)


def is_geodesic(residual: Tensor, rtol: float) -> Tensor:
    r"""Whether curves with these residuals are geodesics to a relative tolerance in length,
    :math:`\rho^2 / (2 \pi^2) \le \mathrm{rtol}`.

    In flat space the left side is, to first order, by how much the curve is longer than the straight line, relatively.
    It is too on a curved space where that is small against a period of its curvature; near a conjugate point the
    excess may be larger.

    Args:
        residual: ``(...)``, from ``geodesic_residual``.
        rtol: relative tolerance in length.

    Returns:
        ``(...)``, boolean.

    Source:
        The second variation of the energy in flat space, whose smallest eigenvalue is pi squared.
    """
    return residual.square() / (2 * math.pi**2) <= checks.positive("rtol", rtol)
