"""The path energy of an immersion, from the chords of its images."""

from collections.abc import Iterator

import torch
from torch import Tensor

from geolib.paths.arrays import regular
from geolib.paths.energy.base import PathEnergy, SecondVariation
from geolib.paths.energy.expansion import Expansion, finite
from geolib.riemannian import ImmersedMetric


class ImmersionEnergy(PathEnergy):
    r"""Squared chords of an immersion: :math:`\tfrac12 \sum_i |f(z_{i+1}) - f(z_i)|^2`.

    The local Hessian blocks are those of the inner points. With the tangents J and the second difference
    :math:`a_i = f_{i+1} - 2 f_i + f_{i-1}`, the gradient is :math:`-J_i^T a_i`, the Gauss-Newton part has blocks
    :math:`2 J_i^T J_i` and :math:`-J_i^T J_{i+1}`, and the local blocks are :math:`-\langle a_i, f''_i \rangle`.
    """

    def __init__(self, metric: ImmersedMetric, start: Tensor, end: Tensor):
        super().__init__(metric)
        self.ends = metric.immersion(torch.stack([start, end], dim=1))

    def _along(self, points: Tensor, index: Tensor, maps: Iterator[tuple]) -> Iterator[tuple[Tensor, Tensor, list]]:
        """Chords ``(b, N, D)``, tangents at the inner points ``(b, N - 1, d, D)`` and what else there is of each map.

        One map after the other, as the mean and the deviation side by side would only be copied.
        """
        b, n_points, d = points.shape
        ends = self.ends[index]
        column = 0
        for x, tangents, *rest in maps:
            f = torch.empty(b, n_points, x.shape[-1], dtype=x.dtype, device=x.device)
            f[:, 1:-1] = x.reshape(b, n_points - 2, -1)
            f[:, 0], f[:, -1] = ends[:, :, column : column + x.shape[-1]].unbind(1)
            column += x.shape[-1]
            yield f.diff(dim=1), tangents.permute(1, 0, 2).reshape(b, n_points - 2, d, -1), rest

    def _expand(self, points: Tensor, index: Tensor, before: tuple[Tensor, ...], keep: bool) -> Expansion:
        b, n_points, d = points.shape
        n_inner = n_points - 2
        squares = points.new_zeros(b, n_points - 1)
        gradient = points.new_zeros(b, n_inner, d)
        diagonal = points.new_zeros(b, n_inner, d, d)
        right = points.new_zeros(b, n_inner - 1, d, d)
        change = torch.zeros_like(gradient) if before else None
        memory = []
        maps = self.metric.tangents(points[:, 1:-1].reshape(-1, d))
        for k, (chords, J, _) in enumerate(self._along(points, index, maps)):
            squares += torch.linalg.vecdot(chords, chords)
            a = chords.diff(dim=1)
            slope = _along_rows(a, J)
            gradient -= slope
            own, beside = _products(J)
            diagonal += own
            right -= beside
            if before:
                # the local blocks at the new second differences, along the step (Dennis, Gay & Welsch 1981)
                change -= slope - _along_rows(a, before[k])
            if keep:
                memory.append(J)
        return Expansion(
            squares, gradient, (2 * diagonal, right), None, diagonal, diagonal, (tuple(memory),) if keep else (), change
        )

    def _second_variation(self, points: Tensor, index: Tensor) -> SecondVariation:
        b, n_points, d = points.shape
        n_inner = n_points - 2
        parts = []
        squares = points.new_zeros(b, n_points - 1)
        slope = points.new_zeros(b, n_inner, d)
        metric = points.new_zeros(b, n_inner, d, d)
        beside = points.new_zeros(b, n_inner - 1, d, d)
        maps = self.metric.tangents_and_bending(points[:, 1:-1].reshape(-1, d))
        for chords, J, (bend,) in self._along(points, index, maps):
            squares += torch.linalg.vecdot(chords, chords)
            a = chords.diff(dim=1)
            slope += _along_rows(a, J)
            own, next_to_it = _products(J)
            metric += own
            beside += next_to_it
            parts.append((a, J, bend))
        # second derivatives in coordinates hold Christoffel symbols; with the normal part of a they do not
        inverse = torch.linalg.cholesky_ex(regular(metric)).L
        along = torch.cholesky_solve(slope.unsqueeze(-1), inverse).mT
        bending = sum(bend((a - (along @ J).squeeze(-2)).flatten(0, 1)) for a, J, bend in parts)
        return SecondVariation(
            total=squares.sum(-1),
            gradient=-slope,
            metric=metric,
            hessian=(2 * metric - bending.reshape(b, n_inner, d, d), -beside),
            stiffness=(_covariant(metric, beside, inverse), -beside),
            finite=finite(squares, slope, metric),
        )

    def _exact_blocks(self, points: Tensor, index: Tensor) -> Tensor:
        found = self._second_variation(points, index)
        return found.hessian[0] - 2 * found.metric

    @staticmethod
    def at_blocks(step: Tensor) -> Tensor:
        return step

    @staticmethod
    def spread(local_blocks: Tensor) -> tuple[Tensor, Tensor]:
        return local_blocks, torch.zeros_like(local_blocks[:, 1:])

    @staticmethod
    def refined(local_blocks: Tensor) -> Tensor:
        fine = local_blocks.new_zeros(len(local_blocks), 2 * local_blocks.shape[1] + 1, *local_blocks.shape[2:])
        padded = torch.cat([local_blocks[:, :1], local_blocks, local_blocks[:, -1:]], dim=1)
        fine[:, 1::2] = local_blocks
        fine[:, ::2] = (padded[:, :-1] + padded[:, 1:]) / 2
        return fine / 4


def _along_rows(a: Tensor, J: Tensor) -> Tensor:
    """The products ``(b, n, d)`` of vectors ``a (b, n, D)`` with the rows of ``J (b, n, d, D)``."""
    # in this order, which is two or three times as fast as any other for few rows
    return (a.unsqueeze(-2) @ J.mT).squeeze(-2)


def _products(J: Tensor) -> tuple[Tensor, Tensor]:
    """:math:`J_i J_i^T` ``(b, n, d, d)`` and :math:`J_i J_{i+1}^T` ``(b, n - 1, d, d)`` of ``J (b, n, d, D)``."""
    b, n, d, _ = J.shape
    rows = J.flatten(0, 1)
    # also between the last point of a curve and the first of the next, which is cut off: slices would be copied
    beside = J.new_zeros(b * n, d, d)
    torch.matmul(rows[:-1], rows[1:].mT, out=beside[:-1])
    return (rows @ rows.mT).unflatten(0, (b, n)), beside.unflatten(0, (b, n))[:, :-1]


def _covariant(metric: Tensor, beside: Tensor, factor: Tensor) -> Tensor:
    r"""Diagonal blocks ``(b, N - 1, d, d)`` of the sum of :math:`|P (J_{i+1} \delta_{i+1} - J_i \delta_i)|^2`, P the
    projection to the tangent space at either end, half of each.

    Args:
        metric: :math:`J_i^T J_i` ``(b, N - 1, d, d)``.
        beside: :math:`J_i^T J_{i+1}` ``(b, N - 2, d, d)``.
        factor: Cholesky's factor of the metric.
    """
    from_right = torch.linalg.solve_triangular(factor[:, 1:], beside.mT, upper=False)
    from_left = torch.linalg.solve_triangular(factor[:, :-1], beside, upper=False)
    out = metric.clone()
    # at the ends, where the field is zero, the only tangent space is that of the inner point
    out[:, :1] += metric[:, :1] / 2
    out[:, -1:] += metric[:, -1:] / 2
    out[:, :-1] += from_right.mT @ from_right / 2
    out[:, 1:] += from_left.mT @ from_left / 2
    return out
