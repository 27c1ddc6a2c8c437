"""What certifies a shortest curve: its residual in the geodesic equation, and the index of its second variation."""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from geolib import checks
from geolib.paths import tridiagonal
from geolib.paths.energy import path_energy
from geolib.paths.kinks.cells import Cells
from geolib.paths.kinks.descent import left_to_gain
from geolib.riemannian import Metric, RiemannianMetric, as_metric

_FLAT = 1e-2  # share of the stiffness by which a second variation must be negative to count
_ITERATIONS = 12
_FIRST_WEIGHT, _WEIGHTS_APART = 1e-12, 4.0  # of the term that keeps fields within the reach of a curve


def geodesic_residual(metric: Metric, points: Tensor) -> Tensor:
    r"""How far discrete curves are from satisfying the geodesic equation :math:`D_t \gamma' = 0`.

    The covariant acceleration :math:`D_t \gamma'` of a curve at constant speed is normal to it. It is weighed by the
    deviation that it causes: with the field :math:`\delta` along the curve that solves the Jacobi equation
    :math:`-D_t^2 \delta - R(\delta, \gamma') \gamma' = D_t \gamma'` and vanishes at both ends, and the length
    :math:`L = |\gamma'|`,

    .. math:: \rho = \frac{\pi}{L} \Big( \int_0^1 \langle \delta, D_t \gamma' \rangle dt \Big)^{1/2} .

    It has no unit. Where the acceleration is one arch of a sine it is the root mean square of the acceleration over the
    squared speed, times L: the angle, in radians, by which the curve turns over its whole length. The faster the
    acceleration changes its direction along the curve, the less it counts, and the less length it costs: :math:`\rho^2
    / (2 \pi^2)` is, to second order, by how much the curve is longer than the geodesic beside it, relatively. In flat
    space :math:`\rho = \pi \sqrt{1 - \ell^2 / L^2}` with the distance :math:`\ell` between the ends, exactly. Where
    the second variation is not positive, so that there is no shortest curve beside it, R is left out.

    The acceleration is read off the gradient of the discrete energy,
    :math:`(D_t\gamma')_i = -(N/2) M^{-1} \partial E / \partial p_i`.

    A chain of affine layers and (leaky) ReLU has no such equation, nor has a smooth map behind one. There the curve is
    taken as straight between its points, and :math:`\rho` is what its excess :math:`\rho^2 / (2 \pi^2)` over the
    shortest curve beside it says: through the same cells, on which the chain is affine (without a map behind it the
    length of polygons is convex there); where several kinks meet, also through the cells on other sides.

    Args:
        metric: a ``PullbackMetric``, or any callable ``z (..., d) -> M (..., d, d)``.
        points: ``(..., N + 1, d)`` at equal steps in length, N >= 2.

    Returns:
        ``(...)``; 0 for a geodesic, and for curves without length. Accuracy: second order in 1/N, and no better than
        the rounding floor (about 1e-6 N in float32). Features between the points are missed.

    Raises:
        TypeError, ValueError: for points of the wrong type or shape; where the metric is not finite on them.

    Source:
        The equation: Arvanitidis et al. 2018; Michelis & Becker 2021, Sec. 2.1. The weighing by the second variation
        is this project's own.
    """
    return _tried_and_certified(metric, points).residual.reshape(points.shape[:-2])


def geodesic_index(metric: Metric, points: Tensor) -> Tensor:
    r"""In how many independent directions a geodesic can be bent aside to become shorter: Morse's index.

    The number of negative eigenvalues of the second variation of the energy with fixed ends,

    .. math:: \delta \mapsto \int_0^1 |D_t \delta|^2 - \langle R(\delta, \gamma') \gamma', \delta \rangle \, dt .

    A geodesic of index 0 is a local minimum of the length; it has as many conjugate points inside as its index says. An
    eigenvalue counts where it is more negative than 1 % of :math:`\int |D_t \delta|^2`, as the discretisation cannot
    tell smaller ones from zero. On a chain of affine layers and (leaky) ReLU, also with a smooth map behind it, none
    is counted, but the residual of a curve that is no minimum is large.

    Args:
        metric: a ``PullbackMetric``, or any callable ``z (..., d) -> M (..., d, d)``, twice differentiable by torch.
        points: ``(..., N + 1, d)`` at equal steps in length, N >= 2. Of a curve that is no geodesic the index says
            little.

    Returns:
        ``(...)``, integers. Features between the points are missed.

    Raises:
        TypeError, ValueError: for points of the wrong type or shape; where the metric is not finite on them.

    Source:
        Morse's index theorem; do Carmo 1992, Riemannian Geometry, Ch. 11.
    """
    return _tried_and_certified(metric, points).index.reshape(points.shape[:-2])


@dataclass(frozen=True)
class Certificate:
    """What is known about a batch of curves as geodesics."""

    residual: Tensor
    """(B,), ``geodesic_residual``"""
    index: Tensor
    """(B,), ``geodesic_index``"""
    descent: Tensor
    """(B, N + 1, d), the field along which the second variation is most negative, zero where there is none: of length
    1 at its largest in the metric, and without a sign"""


def _tried_and_certified(metric: Metric, points: Tensor) -> Certificate:
    """The certificate of a caller's curves ``(..., N + 1, d)``, flattened."""
    metric = as_metric(metric)
    checks.latent_points("points", points, min_points=3)
    flat = points.detach().reshape(-1, *points.shape[-2:])
    if len(flat) == 0:
        none = flat.new_zeros(0)
        return Certificate(none, none.long(), flat)
    metric.try_at(flat.flatten(0, 1))
    return certify(metric, flat)


@torch.no_grad()
def certify(metric: RiemannianMetric, points: Tensor) -> Certificate:
    """The certificate of curves ``(B, N + 1, d)`` that need no check."""
    cells = Cells.of(metric, points)
    if cells is not None:
        gain = left_to_gain(cells, points)
        return Certificate(
            math.pi * (2 * gain).sqrt(), torch.zeros_like(gain, dtype=torch.long), torch.zeros_like(points)
        )
    parts = [_certificate(metric, part) for part in points.split(metric.curves_at_once(points))]
    return Certificate(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Certificate)))


def _certificate(metric: RiemannianMetric, points: Tensor) -> Certificate:
    energy = path_energy(metric, points[:, 0], points[:, -1])
    found = energy.second_variation(points, torch.arange(len(points), device=points.device))
    if not bool(found.finite.all()):
        checks.finite("metric", found.gradient.flatten(1), at=points[:, 1])
    # the component along the curve only changes the spacing of its points
    tangent = (points[:, 2:] - points[:, :-2]).unsqueeze(-1)
    cotangent = found.metric @ tangent
    size = (tangent.mT @ cotangent).squeeze(-1)
    along = (tangent * found.gradient.unsqueeze(-1)).sum(-2)
    moving = size > 0
    normal = found.gradient - torch.where(moving, along / torch.where(moving, size, 1.0), 0.0) * cotangent.squeeze(-1)

    hessian, stiffness = found.hessian, found.stiffness
    deviation, definite = tridiagonal.solve(_lifted(hessian[0]), hessian[1], normal)
    index = torch.zeros_like(definite, dtype=torch.long)
    descent = torch.zeros_like(points)
    bent = (~definite).nonzero()[:, 0]
    if len(bent):
        soft = tuple(h[bent] + _FLAT * s[bent] for h, s in zip(hessian, stiffness, strict=True))
        index[bent] = tridiagonal.negative_eigenvalues(_lifted(soft[0]), soft[1])
        deviation[bent] = tridiagonal.solve_regularised(*(s[bent] for s in stiffness), normal[bent])
        saddles = bent[index[bent] > 0]
        if len(saddles):
            field = _softest(tuple(h[saddles] for h in hessian), tuple(s[saddles] for s in stiffness))
            largest = (field.unsqueeze(-2) @ found.metric[saddles] @ field.unsqueeze(-1)).flatten(1).amax(-1)
            descent[saddles, 1:-1] = field / largest.clamp_min(torch.finfo(field.dtype).tiny).sqrt()[:, None, None]
    reach = points.diff(dim=1).norm(dim=-1).sum(-1)
    far = _size(deviation) > reach
    gain = (normal * deviation).sum((-2, -1)).clamp_min(0)
    if bool(far.any()):
        rows = far.nonzero()[:, 0]
        model = tuple(
            torch.where(definite[rows, None, None, None], h[rows], s[rows])
            for h, s in zip(hessian, stiffness, strict=True)
        )
        gain[rows] = torch.minimum(gain[rows], _gain_within(model, normal[rows], reach[rows]))
    total = found.total
    residual = torch.where(total > 0, math.pi * (gain / torch.where(total > 0, total, 1.0)).sqrt(), 0.0)
    return Certificate(residual, index, descent)


def _size(field: Tensor) -> Tensor:
    """The largest latent length ``(B,)`` of a field ``(B, n, d)``."""
    return field.norm(dim=-1).amax(-1)


def _gain_within(hessian: tuple[Tensor, Tensor], gradient: Tensor, reach: Tensor) -> Tensor:
    """What fields no longer than ``reach (B,)`` gain by the quadratic model, ``(B,)``.

    In directions in which the metric is nearly zero, the model's minimum may lie where the model says nothing.
    """
    diagonal, right = hessian
    eye = torch.eye(gradient.shape[-1], dtype=gradient.dtype, device=gradient.device)
    scale = diagonal.diagonal(dim1=-2, dim2=-1).mean((-2, -1))[:, None, None, None] * eye
    out = torch.zeros_like(reach)
    todo = torch.arange(len(reach), device=reach.device)
    weight = _FIRST_WEIGHT
    while len(todo) and weight < 1e3:
        level = weight * scale[todo]
        field, _ = tridiagonal.solve(_lifted(diagonal[todo]) + 2 * level, right[todo] - level, gradient[todo])
        bent = tridiagonal.product(diagonal[todo], right[todo], field)
        out[todo] = ((2 * gradient[todo] - bent) * field).sum((-2, -1)).clamp_min(0)
        todo = todo[_size(field) > reach[todo]]
        weight *= _WEIGHTS_APART
    return out


def _lifted(diagonal: Tensor) -> Tensor:
    """Diagonal blocks ``(B, n, d, d)`` lifted by what rounding may have taken from them."""
    eye = torch.eye(diagonal.shape[-1], dtype=diagonal.dtype, device=diagonal.device)
    kind = torch.finfo(diagonal.dtype)
    scale = diagonal.diagonal(dim1=-2, dim2=-1).mean((-2, -1)).clamp_min(kind.tiny / kind.eps)
    return diagonal + (10 * kind.eps * scale)[:, None, None, None] * eye


def _softest(hessian: tuple[Tensor, Tensor], stiffness: tuple[Tensor, Tensor]) -> Tensor:
    """The fields ``(B, N - 1, d)`` of the smallest eigenvalues of the Hessian relative to the stiffness, by inverse
    iteration."""
    shift = torch.ones_like(hessian[0][:, 0, 0, 0])
    n, d = hessian[0].shape[1:3]
    # a first field that no symmetry makes orthogonal to the one that is looked for
    field = (
        torch.linspace(1, 2, n * d, dtype=shift.dtype, device=shift.device).reshape(1, n, d).repeat(len(shift), 1, 1)
    )
    for _ in range(_ITERATIONS):
        weight = shift[:, None, None, None]
        shifted = tuple(h + weight * s for h, s in zip(hessian, stiffness, strict=True))
        better, definite = tridiagonal.solve(_lifted(shifted[0]), shifted[1], tridiagonal.product(*stiffness, field))
        shift = torch.where(definite, shift, 4 * shift)
        better = better / better.flatten(1).norm(dim=-1)[:, None, None]
        field = torch.where(definite[:, None, None], better, field)
    return field


def is_geodesic(residual: Tensor, rtol: float) -> Tensor:
    r"""Whether curves with these residuals are geodesics to a relative tolerance in length,
    :math:`\rho^2 / (2 \pi^2) \le \mathrm{rtol}`.

    The left side is, to second order in the curve's distance from the geodesic beside it, by how much the curve is
    longer, relatively. That geodesic is a minimum of the length where ``geodesic_index`` is 0.

    Args:
        residual: ``(...)``, from ``geodesic_residual``.
        rtol: relative tolerance in length.

    Returns:
        ``(...)``, boolean.

    Source:
        The second variation of the energy; in flat space its smallest eigenvalue is pi squared.
    """
    return residual.square() / (2 * math.pi**2) <= checks.positive("rtol", rtol)
