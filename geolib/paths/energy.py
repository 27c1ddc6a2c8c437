"""The path energy of discrete curves to second order, for Newton steps and the geodesic equation."""

import bisect
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from geolib.riemannian import ImmersedMetric, RiemannianMetric


@dataclass
class Expansion:
    """Half the sum of squared segments of a batch of curves to second order, in three parts of the Hessian.

    The Gauss-Newton part is positive semidefinite, needs no second derivative, and measures how fast a field along the
    curve changes. The connection terms hold everything else that first derivatives of a metric determine. The rest
    holds the second derivatives: one symmetric ``d x d`` block for each inner point or segment, which ``spread`` puts
    in place. These local Hessian blocks are left to the caller, who can learn them from ``change``.
    """

    squares: Tensor
    """(B, N), squared segments"""
    gradient: Tensor
    """(B, N - 1, d), in the inner points"""
    gauss_newton: tuple[Tensor, Tensor]
    """diagonal blocks (B, N - 1, d, d) and those to their right (B, N - 2, d, d)"""
    connection: tuple[Tensor, Tensor] | None
    """the same, or None where it is zero"""
    metric: Tensor
    """(B, N - 1, d, d), at the inner points"""
    block_metric: Tensor
    """(B, S, d, d), the metric where the local blocks are"""
    memory: tuple[tuple[Tensor, ...], ...]
    """first derivatives at the local blocks, (b, ...) each; one tuple for each part that was evaluated at once"""
    change: Tensor | None
    """(B, S, d): the local blocks times the step that led here, where the derivatives before it were given"""

    @property
    def total(self) -> Tensor:
        """(B,), the sum of the squared segments: the path energy over N."""
        return self.squares.sum(-1)

    @property
    def scale(self) -> Tensor:
        """(B,), the mean of the diagonal of the Gauss-Newton part."""
        return self.gauss_newton[0].diagonal(dim1=-2, dim2=-1).mean((-2, -1))

    @property
    def finite(self) -> Tensor:
        """(B,), whether energy, gradient and metric are finite."""
        return _finite(self.squares, self.gradient, self.gauss_newton[0])

    def held(self) -> "Expansion":
        """The same with its memory in one part, so that rows can be looked up and replaced."""
        return replace(self, memory=(tuple(torch.cat(group) for group in zip(*self.memory, strict=True)),))

    def __getitem__(self, rows: Tensor) -> "Expansion":
        """Those of the curves ``rows``, of an expansion that is ``held``."""
        return self._map(lambda x: x[rows])

    def put(self, rows: Tensor, other: "Expansion", chosen: Tensor) -> None:
        """Replace the expansions of ``rows (c,)`` by those of ``other`` that are at ``chosen (c,)``, which rise; this
        one must be ``held``."""
        everything = len(chosen) == len(other.squares)
        for name in ("squares", "gradient", "gauss_newton", "connection", "metric", "block_metric"):
            for mine, new in zip(_tensors(getattr(self, name)), _tensors(getattr(other, name)), strict=True):
                mine[rows] = new if everything else new[chosen]
        places, chosen = torch.stack([rows, chosen]).tolist()
        first = last = 0
        for part in other.memory:  # never joined: a copy would cost as much as everything but the derivatives
            n = len(part[0])
            begin, last = last, bisect.bisect_left(chosen, first + n)
            here = _compact([k - first for k in chosen[begin:last]], rows)
            target = _compact(places[begin:last], rows)
            for mine, new in zip(self.memory[0], part, strict=True):
                mine[target] = new[here]
            first += n

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Expansion":
        def apply(value):
            if isinstance(value, tuple):
                return tuple(apply(x) for x in value)
            return None if value is None else function(value)

        return Expansion(**{f.name: apply(getattr(self, f.name)) for f in fields(self)})


@dataclass(frozen=True)
class SecondVariation:
    r"""The covariant second variation of half the sum of squared segments, exactly, and its gradient.

    For a field :math:`\delta` along a curve that vanishes at both ends it is, up to the factor 1/N,
    :math:`\int |D_t \delta|^2 - \langle R(\delta, \gamma') \gamma', \delta \rangle \, dt`. Where the curve is no
    geodesic the covariant derivatives leave out what only the coordinates bring in.
    """

    total: Tensor
    """(B,), the sum of the squared segments"""
    gradient: Tensor
    """(B, N - 1, d), in the inner points"""
    metric: Tensor
    """(B, N - 1, d, d), at the inner points"""
    hessian: tuple[Tensor, Tensor]
    """diagonal blocks (B, N - 1, d, d) and those to their right (B, N - 2, d, d)"""
    stiffness: tuple[Tensor, Tensor]
    r"""the same without the curvature: :math:`\int |D_t \delta|^2`, positive definite"""
    finite: Tensor
    """(B,)"""


class PathEnergy(ABC):
    """Half the sum of squared segments of a batch of curves with fixed ends."""

    def __init__(self, metric: RiemannianMetric):
        self.metric = metric

    @torch.no_grad()
    def expand(
        self,
        points: Tensor,
        index: Tensor,
        *,
        before: tuple[Tensor, ...] = (),
        rows: Tensor | None = None,
        keep: bool = True,
    ) -> Expansion:
        """Around ``points (b, N + 1, d)`` of the curves ``index (b,)``. Values may be not finite.

        Args:
            points: with the ends of those curves.
            index: which of the curves these are.
            before: the memory of the expansion one step before these points.
            rows: where in that memory these curves are, ``(b,)``.
            keep: whether to return a memory.
        """
        places = rows.tolist() if before else []
        parts = []
        for part in _parts(self.metric, points):
            here = _compact(places[part], points)
            parts.append(self._expand(points[part], index[part], tuple(x[here] for x in before), keep))
        return _joined(parts)

    @abstractmethod
    def _expand(self, points: Tensor, index: Tensor, before: tuple[Tensor, ...], keep: bool) -> Expansion:
        """``expand`` for so few curves that they fit a chunk; ``before`` is what is remembered of these."""

    @torch.no_grad()
    def second_variation(self, points: Tensor, index: Tensor) -> SecondVariation:
        """At ``points (b, N + 1, d)`` of the curves ``index (b,)``. Values may be not finite."""
        parts = [self._second_variation(points[part], index[part]) for part in _parts(self.metric, points)]
        if len(parts) == 1:
            return parts[0]
        values = {}
        for f in fields(SecondVariation):
            groups = zip(*(_tensors(getattr(part, f.name)) for part in parts), strict=True)
            joined = tuple(torch.cat(group) for group in groups)
            values[f.name] = joined if isinstance(getattr(parts[0], f.name), tuple) else joined[0]
        return SecondVariation(**values)

    @abstractmethod
    def _second_variation(self, points: Tensor, index: Tensor) -> SecondVariation:
        """``second_variation`` for so few curves that they fit a chunk."""

    @torch.no_grad()
    def exact_blocks(self, points: Tensor, index: Tensor) -> Tensor:
        """The local Hessian blocks ``(b, S, d, d)`` at ``points (b, N + 1, d)`` of the curves ``index (b,)``."""
        return torch.cat([self._exact_blocks(points[part], index[part]) for part in _parts(self.metric, points)])

    @abstractmethod
    def _exact_blocks(self, points: Tensor, index: Tensor) -> Tensor:
        """``exact_blocks`` for so few curves that they fit a chunk."""

    @staticmethod
    @abstractmethod
    def at_blocks(step: Tensor) -> Tensor:
        """How far the places of the local blocks move ``(b, S, d)`` in a step of the inner points ``(b, N - 1, d)``."""

    @staticmethod
    @abstractmethod
    def spread(local_blocks: Tensor) -> tuple[Tensor, Tensor]:
        """Diagonal blocks, and those to their right, of the Hessian with these local blocks ``(b, S, d, d)``."""

    @staticmethod
    @abstractmethod
    def refined(local_blocks: Tensor) -> Tensor:
        """The local blocks ``(b, S, d, d)`` on twice as many segments of half the length."""


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
            finite=_finite(squares, slope, metric),
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
        turn = torch.linalg.solve_ex(regular(M), _along(M) + B.mT - B).result / 4
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
        q = torch.linalg.solve_ex(regular(self.metric.unchecked(inner)), found.gradient.flatten(0, 1)).result
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


def _finite(*parts: Tensor) -> Tensor:
    """Which rows of all parts ``(B, ...)`` are finite: ``(B,)``."""
    return torch.stack([torch.isfinite(x.flatten(1).sum(-1)) for x in parts]).all(0)


def _along(M: Tensor) -> Tensor:
    """How much the metric of segments ``(b, N, d, d)`` changes over each of them, by central differences."""
    padded = torch.cat([2 * M[:, :1] - M[:, 1:2], M, 2 * M[:, -1:] - M[:, -2:-1]], dim=1)
    return (padded[:, 2:] - padded[:, :-2]) / 2


def regular(M: Tensor) -> Tensor:
    """M with a multiple of the identity at the rounding floor, which keeps it from being singular.

    A Gram matrix is rounded in proportion to its largest eigenvalue, which in low rank is many times their mean.
    """
    level = (10 * torch.finfo(M.dtype).eps * M.diagonal(dim1=-2, dim2=-1).sum(-1)).clamp_min(torch.finfo(M.dtype).tiny)
    return M + level[..., None, None] * torch.eye(M.shape[-1], dtype=M.dtype, device=M.device)


@functools.singledispatch
def path_energy(metric: RiemannianMetric, start: Tensor, end: Tensor) -> PathEnergy:
    """The energy of curves from ``start`` to ``end`` ``(B, d)``: by chords where there is an immersion."""
    return TensorEnergy(metric)


@path_energy.register
def _(metric: ImmersedMetric, start: Tensor, end: Tensor) -> PathEnergy:
    return ImmersionEnergy(metric, start, end)


def _parts(metric: RiemannianMetric, points: Tensor) -> Iterator[slice]:
    """Slices over curves ``(b, N + 1, d)`` that fit a chunk."""
    size = max(1, metric.points_at_once(points) // (points.shape[1] - 1))
    for first in range(0, len(points), size):
        yield slice(first, first + size)


def _compact(rows: list[int], like: Tensor) -> Tensor | slice:
    """The same rows as a slice where they follow one another: slices are looked at, index tensors copied."""
    if not rows or rows == list(range(rows[0], rows[0] + len(rows))):
        return slice(*((rows[0], rows[-1] + 1) if rows else (0,)))
    return torch.tensor(rows, device=like.device)


def _tensors(value: Tensor | tuple[Tensor, ...] | None) -> tuple[Tensor, ...]:
    return () if value is None else (value,) if isinstance(value, Tensor) else value


def _joined(parts: list[Expansion]) -> Expansion:
    """One expansion of all the curves."""
    if len(parts) == 1:
        return parts[0]
    values = {"memory": sum((part.memory for part in parts), ())}
    for name in ("squares", "gradient", "gauss_newton", "connection", "metric", "block_metric", "change"):
        first = getattr(parts[0], name)
        joined = tuple(torch.cat(group) for group in zip(*(_tensors(getattr(p, name)) for p in parts), strict=True))
        values[name] = joined[0] if isinstance(first, Tensor) else None if first is None else joined
    return Expansion(**values)
