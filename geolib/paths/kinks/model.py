"""The length of polygons across kinks to second order in their corners, and what Newton's step gains."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from geolib.paths import tridiagonal
from geolib.paths.kinks.cells import Cells, Local

ALONG = 0.999  # share of the curvature along a segment, where its length has none, that is left out


@dataclass(frozen=True)
class Gain:
    """What a step is expected to gain, relative to the length."""

    step: Tensor
    """(B, K, d), of the corners within their kinks"""
    expected: Tensor
    """(B,), of the step itself; infinite where the length has no minimum"""
    rounded: Tensor
    """(B,), what rounding hides, which may be gained too"""

    @property
    def total(self) -> Tensor:
        """(B,)"""
        return self.expected + self.rounded

    def put(self, rows: Tensor, other: "Gain") -> None:
        """Replace those of ``rows (b,)`` by the b others, whose polygons may have fewer corners."""
        self.step[rows] = 0
        self.step[rows, : other.step.shape[1]] = other.step
        self.expected[rows], self.rounded[rows] = other.expected, other.rounded

    @classmethod
    def joined(cls, parts: Sequence["Gain"], n_corners: int) -> "Gain":
        """Those of all parts, with steps of so many corners."""
        step = torch.cat([nn.functional.pad(part.step, (0, 0, 0, n_corners - part.step.shape[1])) for part in parts])
        return cls(step, torch.cat([part.expected for part in parts]), torch.cat([part.rounded for part in parts]))


@dataclass(frozen=True)
class Model:
    """The length of polygons to second order in their corners. All that belongs to the m real segments is flat."""

    points: Tensor
    """(B, K + 2, d), as of ``Polygons``"""
    n_corners: Tensor
    """(B,)"""
    length: Tensor
    """(B,)"""
    real: Tensor
    """(B, K + 1), which are no repeated ends"""
    chords: Tensor
    """(m, D), in the image"""
    tangents: tuple[Tensor, Tensor]
    """(m, d, D) each, at both ends of the segments, in their cells"""
    bends: tuple[Tensor, Tensor] | None
    """(m, d, d) each, second derivatives there along the direction of the chord; None where they are zero"""
    free: Tensor
    """(B, K, d, d), projections to the directions along the kinks at every corner"""

    @classmethod
    def of(cls, cells: Cells, points: Tensor, n_corners: Tensor, length: Tensor) -> "Model":
        """Of polygons with corners ``points (B, K + 2, d)``."""
        d = points.shape[-1]
        real = torch.arange(points.shape[1] - 1, device=points.device) <= n_corners.unsqueeze(-1)
        start, end = points[:, :-1][real], points[:, 1:][real]
        eye = torch.eye(d, dtype=points.dtype, device=points.device)
        local = cells.at((start + end) / 2, eye.unsqueeze(1).expand(d, len(start), d))
        values, A = local.values, local.derivatives
        step = torch.einsum("mi,imc->mc", end - start, A)
        if cells.affine:
            J = A.permute(1, 0, 2).contiguous()
            chords, tangents, bends, inner = step, (J, J), None, None
        else:
            ends = values - step / 2, values + step / 2
            chords = cells.image(ends[1]) - cells.image(ends[0])
            direction = chords / chords.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(chords.dtype).tiny)
            found = [cells.push_forward_twice(x, A) for x in ends]
            tangents = tuple(J.permute(1, 0, 2).contiguous() for J, _ in found)
            bends = tuple(bend(direction) for _, bend in found)
            inner = (
                tangents[1][:-1] @ direction[:-1].unsqueeze(-1) + tangents[0][1:] @ direction[1:].unsqueeze(-1)
            ).squeeze(-1)
        return cls(points, n_corners, length, real, chords, tangents, bends, _along_kinks(local, real, inner))

    def __getitem__(self, rows: Tensor) -> "Model":
        """Those of ``rows (b,)``, which rise."""
        n_corners = self.n_corners[rows]
        n = int(n_corners.max()) + 1
        chosen = torch.zeros_like(self.n_corners, dtype=torch.bool).index_fill(0, rows, True)
        flat = chosen[self.real.nonzero()[:, 0]]
        return Model(
            self.points[rows, : n + 1],
            n_corners,
            self.length[rows],
            self.real[rows, :n],
            self.chords[flat],
            tuple(J[flat] for J in self.tangents),
            None if self.bends is None else tuple(bend[flat] for bend in self.bends),
            self.free[rows, : n - 1],
        )

    def gain(self, rounding: float | Tensor, along: float | Tensor = ALONG) -> Gain:
        """Newton's step and what it gains, with one ``rounding`` or those of all polygons ``(B,)``.

        The length of a segment has no curvature along it, so that nothing keeps a step from turning a short one round,
        where the model says nothing. What is left of that curvature, but for the share ``along``, does.
        """
        points, length = self.points, self.length
        tiny = torch.finfo(points.dtype).tiny
        if points.shape[1] == 2:
            return Gain(points[:, 1:-1], torch.zeros_like(length), torch.zeros_like(length))
        curve = self.real.nonzero()[:, 0]
        floor = (rounding * length)[curve]
        along = along[curve, None, None] if isinstance(along, Tensor) else along
        true_size = self.chords.norm(dim=-1)
        size = (true_size.square() + floor.square()).sqrt().clamp_min(tiny)
        unit = (self.chords / size.unsqueeze(-1)).unsqueeze(-1)
        slopes = [(J @ unit).squeeze(-1) for J in self.tangents]
        own = (
            [self._stiffness(size, slopes, along, i, i) for i in range(2)]
            if self.bends
            else [self._stiffness(size, slopes, along, 0, 0)] * 2
        )
        beside = self._stiffness(size, slopes, along, 0, 1) if self.bends else own[0]
        before, after = self._laid_out(slopes[1])[:, :-1], self._laid_out(slopes[0])[:, 1:]
        gradient = (self.free @ (before - after).unsqueeze(-1)).squeeze(-1)
        convex = own
        if self.bends is not None:
            share = (true_size / size)[:, None, None]
            own = [own[0] - share * self.bends[0], own[1] + share * self.bends[1]]
        step, definite = self._solved(own, beside, gradient)
        if self.bends is not None:
            wrong = (~definite).nonzero()[:, 0]
            if len(wrong):
                step[wrong] = self._solved(convex, beside, gradient)[0][wrong]
        else:
            step = torch.where(definite[:, None, None], step, 0.0)
        # what rounding hides may be gained too
        hidden = self._laid_out((true_size > 0) * (size - true_size)).sum(-1)
        scale = length.clamp_min(tiny)
        expected = -(gradient * step).sum((-2, -1)) / 2 / scale
        return Gain(step, torch.where(definite, expected, torch.inf), hidden / scale)

    def _stiffness(self, size: Tensor, slopes: list[Tensor], along: float | Tensor, i: int, j: int) -> Tensor:
        J, other = self.tangents[i], self.tangents[j]
        none = along * slopes[i].unsqueeze(-1) * slopes[j].unsqueeze(-2)
        return (J @ other.mT - none) / size[:, None, None]

    def _laid_out(self, x: Tensor) -> Tensor:
        """Values ``(m, ...)`` of real segments at their places ``(B, K + 1, ...)``."""
        out = x.new_zeros(*self.real.shape, *x.shape[1:])
        out[self.real] = x
        return out

    def _solved(self, own: list[Tensor], beside: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        free = self.free
        eye = torch.eye(free.shape[-1], dtype=free.dtype, device=free.device)
        diagonal = free @ (self._laid_out(own[1])[:, :-1] + self._laid_out(own[0])[:, 1:]) @ free
        scale = diagonal.diagonal(dim1=-2, dim2=-1).mean((-2, -1)).clamp_min(torch.finfo(free.dtype).tiny)
        diagonal = diagonal + scale[:, None, None, None] * (eye - free + 1e-10 * eye)
        right = -free[:, :-1] @ self._laid_out(beside)[:, 1:-1] @ free[:, 1:]
        return tridiagonal.solve(diagonal, right, -gradient)


def _along_kinks(local: Local, real: Tensor, inner: Tensor | None) -> Tensor:
    """Projections ``(B, K, d, d)`` to the directions along the kinks that are between neighbouring segments.

    A corner inside a cell moves across the curve only.

    Args:
        local: at the m real segments.
        real: ``(B, K + 1)``, where these are.
        inner: ``(m - 1, d)``, the derivative of a curve's length in moves along it, where two segments meet; None where
            no corner is inside a cell.
    """
    sides, d = local.sides, len(local.derivatives)
    curve, place = real.nonzero(as_tuple=True)
    corner = (curve[1:] == curve[:-1]).nonzero()[:, 0]
    changed = sides[corner] != sides[corner + 1]
    number = changed.sum(-1)
    # a kink's slope is the same on either side of it, but not those of later layers
    normal = local.slopes_of(corner, changed.to(torch.uint8).argmax(-1))
    normal = torch.where((number > 0).unsqueeze(-1), normal, 0.0 if inner is None else inner[corner])
    squares = normal.square().sum(-1, keepdim=True)
    normal = torch.where(squares > 0, normal / squares.sqrt(), 0.0)
    eye = torch.eye(d, dtype=normal.dtype, device=normal.device)
    free = eye - normal.unsqueeze(-1) * normal.unsqueeze(-2)
    several = (number > 1).nonzero()[:, 0]
    if len(several):
        most = min(int(number.max()), d)
        which = changed[several].to(torch.uint8).topk(most, dim=-1)
        points = corner[several].repeat_interleave(most)
        normals = local.slopes_of(points, which.indices.flatten()).unflatten(0, (-1, most))
        _, s, v = torch.linalg.svd(normals * which.values.unsqueeze(-1), full_matrices=False)
        v = v * ((s > 1e-9 * s[..., :1]) & (s > 0)).unsqueeze(-1)
        free[several] = eye - v.mT @ v
    out = free.new_zeros(len(real), real.shape[1] - 1, d, d)
    out[curve[corner], place[corner]] = free
    return out
