"""The geodesic equation as an ordinary differential equation of second order."""

import functools

import torch
from torch import Tensor

from geolib.paths.arrays import regular
from geolib.paths.energy.tensors import tensor_and_slopes
from geolib.riemannian import ImmersedMetric, RiemannianMetric

# steps of central differences of the acceleration, relative to their variable's size: eps^(1/3)
DIFFERENCE = {torch.float32: 5e-3, torch.float64: 6e-6}
_SINGULAR, _FLOOR = 1e5, 1e3  # times the rounding of a metric: where it may be singular, and what counts as zero there


def acceleration(metric: RiemannianMetric, z: Tensor, v: Tensor) -> Tensor:
    r"""The acceleration :math:`\gamma''` of the geodesic through a point with a velocity.

    .. math:: \gamma''^k = -\Gamma^k_{ij} v^i v^j, \qquad
              M \gamma'' = \tfrac12 \nabla_z (v^T M v) - (\partial_v M) v .

    Derivatives are exact. With an immersion f the right side is :math:`-J^T f''(v, v)`, which takes two reverse passes
    whatever the latent dimension; otherwise one a latent dimension.

    Args:
        metric: the metric.
        z: ``(n, d)``.
        v: ``(n, d)``.

    Returns:
        ``(n, d)``, not finite where the metric is not. Where the metric is singular the acceleration is not unique, and
        the smallest one is taken, to within rounding.

    Source:
        Arvanitidis et al. 2018, Eq. 9 (the same without Christoffel symbols spelled out).
    """
    size = metric.points_at_once(z)
    return torch.cat([_acceleration(metric, a, b) for a, b in zip(z.split(size), v.split(size), strict=True)])


@functools.singledispatch
def _acceleration(metric: RiemannianMetric, z: Tensor, v: Tensor) -> Tensor:
    M, B = tensor_and_slopes(metric, z, v)
    v = v.unsqueeze(-1)
    return _smallest(M, B @ v / 2 - B.mT @ v).squeeze(-1)


@_acceleration.register
def _(metric: ImmersedMetric, z: Tensor, v: Tensor) -> Tensor:
    M, force = torch.zeros(len(z), z.shape[1], z.shape[1]).to(z), torch.zeros_like(z)
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        for _, tangents in metric.tangents(z):
            J = tangents.detach()
            M += torch.einsum("anD,bnD->nab", J, J)
            if tangents.requires_grad:  # else it does not bend
                force += torch.einsum("anD,nD->na", J, _second_derivative(tangents, z, v))
    return -_smallest(M, force.unsqueeze(-1)).squeeze(-1)


def _smallest(M: Tensor, force: Tensor) -> Tensor:
    """The smallest solutions ``(n, d, 1)`` of ``M a = force``.

    Where M is singular the force is in its range but for rounding. Divided by the rounding floor that would be noise as
    large as the acceleration itself, through which no integrator finds its way.
    """
    factor, _ = torch.linalg.cholesky_ex(regular(M))
    level = torch.finfo(M.dtype).eps * M.diagonal(dim1=-2, dim2=-1).sum(-1)
    pivots = factor.diagonal(dim1=-2, dim2=-1).square().amin(-1)
    found = torch.cholesky_solve(force, factor)
    rows = (pivots < _SINGULAR * level).nonzero()[:, 0]
    if len(rows):
        values, vectors = torch.linalg.eigh(M[rows])
        floor = (_FLOOR * level[rows, None]).square().clamp_min(torch.finfo(M.dtype).tiny)
        inverse = values.clamp_min(0) / (values.square() + floor)
        found[rows] = vectors @ (inverse.unsqueeze(-1) * (vectors.mT @ force[rows]))
    return found


def _second_derivative(tangents: Tensor, z: Tensor, v: Tensor) -> Tensor:
    """f''(v, v) ``(n, D)`` from the derivatives ``tangents (d, n, D)`` at ``z``.

    A forward derivative from two reverse ones: what multiplies the cotangent is linear in it.
    """
    along = torch.einsum("na,anD->nD", v, tangents)
    cotangent = torch.zeros_like(along).requires_grad_()
    (slope,) = torch.autograd.grad(along, z, cotangent, create_graph=True, allow_unused=True)
    if slope is None or not slope.requires_grad:
        return torch.zeros_like(along)
    # none where the map is affine around every point, as ReLU and affine layers are
    second = torch.autograd.grad(slope, cotangent, v, allow_unused=True)[0]
    return torch.zeros_like(along) if second is None else second
