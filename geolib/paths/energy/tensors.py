"""The path energy of a metric that comes without an immersion, from its tensors and their derivatives."""

import torch
from torch import Tensor

from geolib.paths.arrays import regular
from geolib.paths.energy.base import PathEnergy, SecondVariation
from geolib.paths.energy.expansion import Expansion
from geolib.riemannian import RiemannianMetric

# By how much coordinates turn over a segment. Where they seem to turn by more the segment sees nothing of it.
_MOST_TURN = 10.0


class TensorEnergy(PathEnergy):
    r"""Squared segments :math:`\tfrac12 \sum_i \Delta_i^T M(m_i) \Delta_i` of a metric that comes without an immersion.

    The local Hessian blocks are those of the segments, :math:`\tfrac12 \Delta^T \partial_k \partial_l M \Delta` at the
    midpoints m. The Gauss-Newton part is that of covariant derivatives; the connection terms are what is missing from
    the terms in M and :math:`\partial_k M \Delta`.
    """

    def _expand(self, points: Tensor, index: Tensor, before: tuple[Tensor, ...], keep: bool) -> Expansion:
        b, _, d = points.shape
        D = points.diff(dim=1)
        M, B = tensor_and_slopes(self.metric, (points[:, :-1] + D / 2).reshape(-1, d), D.reshape(-1, d))
        M, B = M.reshape(b, -1, d, d).contiguous(), B.reshape(b, -1, d, d)
        MD = (M @ D.unsqueeze(-1)).squeeze(-1)
        slope = (B @ D.unsqueeze(-1)).squeeze(-1)
        change = None
        if before:
            # what the slope before this step would be at the new Delta, to first order in the step
            old_D, old_B, old_slope = before
            change = (slope - old_slope) / 2 - (old_B @ (D - old_D).unsqueeze(-1)).squeeze(-1)
        # D_t delta over a segment is its difference plus what the coordinates turn, R delta_{i+1} - L delta_i
        turn = _solved(M, _along(M) + B.mT - B, _MOST_TURN) / 4
        eye = torch.eye(d, dtype=M.dtype, device=M.device)
        L, R = eye - turn, eye + turn
        gauss_newton = ((R.mT @ M @ R)[:, :-1] + (L.mT @ M @ L)[:, 1:], -(L.mT @ M @ R)[:, 1:-1])
        symmetric, skew = (B + B.mT) / 2, (B - B.mT) / 2
        known = (M[:, :-1] + M[:, 1:] + symmetric[:, :-1] - symmetric[:, 1:], skew[:, 1:-1] - M[:, 1:-1])
        quarter = slope / 4  # half the derivative in m, and half of that goes to either end
        return Expansion(
            squares=(D * MD).sum(-1),
            gradient=(quarter + MD)[:, :-1] + (quarter - MD)[:, 1:],
            gauss_newton=gauss_newton,
            connection=(known[0] - gauss_newton[0], known[1] - gauss_newton[1]),
            metric=(M[:, :-1] + M[:, 1:]) / 2,
            block_metric=M,
            memory=((D, B, slope),) if keep else (),
            change=change,
        )

    def _second_variation(self, points: Tensor, index: Tensor) -> SecondVariation:
        found = self._expand(points, index, (), keep=False)
        rest, rest_right = self.spread(self._exact_blocks(points, index))
        # what the gradient, which is not zero where the curve is no geodesic, brings in through the coordinates
        inner = points[:, 1:-1].flatten(0, 1)
        reach = points.diff(dim=1).norm(dim=-1).sum(-1, keepdim=True).expand(-1, points.shape[1] - 2).reshape(-1, 1, 1)
        q = _solved(self.metric.unchecked(inner), found.gradient.flatten(0, 1).unsqueeze(-1), reach).squeeze(-1)
        turned = christoffel_of(self.metric, inner, q).unflatten(0, found.gradient.shape[:2])
        diagonal, right = found.gauss_newton
        more, more_right = found.connection
        return SecondVariation(
            total=found.total,
            gradient=found.gradient,
            metric=found.metric,
            hessian=(diagonal + more + rest - turned, right + more_right + rest_right),
            stiffness=found.gauss_newton,
            finite=found.finite,
        )

    def _exact_blocks(self, points: Tensor, index: Tensor) -> Tensor:
        D = points.diff(dim=1)
        local = second_derivatives(self.metric, (points[:, :-1] + D / 2).flatten(0, 1), D.flatten(0, 1))
        return local.unflatten(0, D.shape[:2])

    @staticmethod
    def at_blocks(step: Tensor) -> Tensor:
        still = torch.zeros_like(step[:, :1])
        return (torch.cat([still, step], dim=1) + torch.cat([step, still], dim=1)) / 2

    @staticmethod
    def spread(local_blocks: Tensor) -> tuple[Tensor, Tensor]:
        return (local_blocks[:, :-1] + local_blocks[:, 1:]) / 4, local_blocks[:, 1:-1] / 4

    @staticmethod
    def refined(local_blocks: Tensor) -> Tensor:
        return local_blocks.repeat_interleave(2, dim=1) / 4


def tensor_and_slopes(metric: RiemannianMetric, z: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    r"""M ``(n, d, d)`` at ``z (n, d)``, and :math:`B_{kj} = \partial_k (M \Delta)_j` ``(n, d, d)``, Delta the ``step``.

    Values may be not finite. In reverse mode: not every operation in a metric's forward derivatives has a forward
    derivative itself.
    """
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        M = metric.unchecked(z)
        rows = (M @ step.unsqueeze(-1)).squeeze(-1).sum(0)
        # a metric that does not depend on z is flat
        slopes = [
            torch.autograd.grad(row, z, retain_graph=True, allow_unused=True)[0] if M.requires_grad else None
            for row in rows
        ]
    B = torch.stack([torch.zeros_like(z) if slope is None else slope for slope in slopes], dim=-1)
    return M.detach(), B.detach()


def second_derivatives(metric: RiemannianMetric, z: Tensor, step: Tensor) -> Tensor:
    r""":math:`\tfrac12 \Delta^T \partial_k \partial_l M \Delta` ``(n, d, d)`` at ``z (n, d)``, Delta the ``step``."""
    out = z.new_zeros(*z.shape, z.shape[-1])
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        M = metric.unchecked(z)
        if not M.requires_grad:
            return out
        half = torch.einsum("ni,nij,nj->", step, M, step) / 2
        (slope,) = torch.autograd.grad(half, z, create_graph=True)
        for k in range(z.shape[-1]) if slope.requires_grad else ():
            out[:, k] = torch.autograd.grad(slope[:, k].sum(), z, retain_graph=True)[0]
    return (out + out.mT) / 2


def christoffel_of(metric: RiemannianMetric, z: Tensor, v: Tensor) -> Tensor:
    r""":math:`\Gamma_{ab,l} v^l = \tfrac12 (\partial_a M_{bl} + \partial_b M_{al} - \partial_l M_{ab}) v^l` at
    ``z (n, d)``: ``(n, d, d)``."""
    _, B = tensor_and_slopes(metric, z, v)
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        M = metric.unchecked(z)
        along = torch.zeros_like(M)
        if M.requires_grad:
            # a forward derivative from two reverse ones: what multiplies the cotangent is linear in it
            cotangent = torch.zeros_like(M).requires_grad_()
            (slope,) = torch.autograd.grad(M, z, cotangent, create_graph=True)
            along = torch.autograd.grad(slope, cotangent, v, allow_unused=True)[0] if slope.requires_grad else along
    return (B + B.mT - along.detach()) / 2


def _solved(M: Tensor, right: Tensor, most: Tensor | float) -> Tensor:
    """``M^{-1} right`` for ``M (..., d, d)`` and ``right (..., d, k)``, no larger than ``most``.

    Where M is singular, ``right`` lies in its range but for what differences between points add to it. Divided by the
    rounding floor that would be all that is left.
    """
    # a device waits once here, and twice in solve_ex
    L, failed = torch.linalg.cholesky_ex(regular(M))
    found = torch.cholesky_solve(right, L)
    far = (failed > 0)[..., None, None] | ~(found.norm(dim=(-2, -1), keepdim=True) <= most)
    if not bool(far.any()):
        return found
    level = right.norm(dim=(-2, -1), keepdim=True) / most
    eye = torch.eye(M.shape[-1], dtype=M.dtype, device=M.device)
    return torch.where(far, torch.linalg.solve_ex(regular(M) + level * eye, right).result, found)


def _along(M: Tensor) -> Tensor:
    """How much the metric of segments ``(b, N, d, d)`` changes over each of them, by central differences."""
    padded = torch.cat([2 * M[:, :1] - M[:, 1:2], M, 2 * M[:, -1:] - M[:, -2:-1]], dim=1)
    return (padded[:, 2:] - padded[:, :-2]) / 2
