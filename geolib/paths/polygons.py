"""Shortest polygons on maps with kinks, whose corners lie where the map has a kink."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from geolib.paths import tridiagonal
from geolib.paths.cells import Cells, Local, Pieces
from geolib.paths.interpolant import Curve
from geolib.paths.measure import Measured, even_parameters

_CUT, _CUTS = 0.4, 10  # of a step that leads to a longer polygon
_ENOUGH = 0.5  # times rtol
# The length of a segment is rounded where it is zero, over this share of the polygon: first much, then little.
_ROUNDING, _LEAST_ROUNDING = 1e-4, 0.1  # that, and this times rtol
_ROUNDINGS = (1e-5, 1e-7)  # of which the one that leaves less to gain is right, as either bounds that
# Times rtol, with much rounding and with little. A polygon that gains less in a step has met that, or its cells' end.
_CREEPING = (0.1, 1e-3)
_ALONG = 0.999  # share of the curvature along a segment, where its length has none, that is left out
_SAMPLES = 256  # segments of the polygon that stands for a curve, at least
_LINE_SEGMENTS = 16  # on which a straight line's kinks are looked for, side by side
_PARTS = 64  # of a curve on a map that is not affine between its kinks
# Kinks that follow one another within this share of a polygon are looked at from several directions, from so far.
_BESIDE, _DIRECTIONS, _ASIDE = 1e-3, 3, 1e-3
# nodes and weights of Gauss's rule on [0, 1]
_NODES = ((0.5 - math.sqrt(0.15), 5 / 18), (0.5, 4 / 9), (0.5 + math.sqrt(0.15), 5 / 18))


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
class Polygons:
    """A batch of polygons with corners at the kinks they cross."""

    points: Tensor
    """(B, K + 2, d); behind a polygon's last corner its end is repeated"""
    n_corners: Tensor
    """(B,)"""
    crossed: Tensor
    """(B, K), how many kinks each corner is on"""
    length: Tensor
    """(B,), of the chords in the image, exact where the map is affine between its kinks"""

    @classmethod
    def through(cls, cells: Cells, points: Tensor) -> "Polygons":
        """Of the curves that are straight between ``points (B, n + 1, d)``, without the bends inside a cell, where the
        map is affine, or without those that are close to others, where it is not."""
        parts = [cls._through(cells, part) for part in points.split(cells.curves_at_once(points))]
        if len(parts) == 1:
            return parts[0]
        n_points = max(part.points.shape[1] for part in parts)
        return cls(*(torch.cat(group) for group in zip(*(part._padded(n_points) for part in parts), strict=True)))

    @classmethod
    def _through(cls, cells: Cells, points: Tensor) -> "Polygons":
        pieces, curve = _pieces(cells, points)
        same = curve[1:] == curve[:-1]
        crossed = (pieces.sides[1:] != pieces.sides[:-1]).sum(-1)
        kept = same & (crossed > 0)
        if not cells.affine:
            chords = points.diff(dim=1).norm(dim=-1).flatten()
            part = (
                2 * _PARTS * _shares(curve, (pieces.end - pieces.start) * chords[pieces.segment], len(points))
            ).floor()
            kept = kept | (same & (pieces.end[:-1] == 1) & (part[1:] != part[:-1]))
        kept = kept.nonzero()[:, 0]
        segment = pieces.segment[kept]
        corners = torch.lerp(
            points[:, :-1].flatten(0, 1)[segment], points[:, 1:].flatten(0, 1)[segment], pieces.end[kept].unsqueeze(-1)
        )
        corners, n_corners = _packed(points[:, [0, -1]], curve[kept], corners)
        number = torch.bincount(curve, minlength=len(points))
        last = number.cumsum(0) - 1
        ends = pieces.after.new_zeros(len(points), 2, pieces.after.shape[-1])
        some = number > 0
        ends[some] = torch.stack([pieces.before[(last - number + 1)[some]], pieces.after[last[some]]], dim=1)
        values, _ = _packed(ends, curve[kept], pieces.after[kept])
        crossed, _ = _packed(crossed.new_zeros(len(points), 2, 1), curve[kept], crossed[kept].unsqueeze(-1))
        length = cells.image(values).diff(dim=1).norm(dim=-1).sum(-1)
        return cls(corners, n_corners, crossed[:, 1:-1, 0], length)

    def gains(self, cells: Cells, roundings: Sequence[float]) -> list["Gain"]:
        """Newton's step of the corners within their kinks and what it gains, for each of the roundings.

        On an affine map the length is a convex function of them, whose minimum is the shortest curve through the same
        cells.
        """
        found = [[model.gain(rounding) for rounding in roundings] for _, model in self._models(cells)]
        return [Gain.joined(group, self.points.shape[1] - 2) for group in zip(*found, strict=True)]

    def gain(self, cells: Cells, rounded: Tensor, roundings: tuple[float, float], enough: float) -> "Gain":
        """The same for the first of two roundings where that is ``rounded (B,)``, until it has no more than ``enough``
        to gain; then, and elsewhere, for the second. What is ``rounded`` is brought up to date."""
        found = []
        for rows, model in self._models(cells):
            of_part = torch.where(rounded[rows], *roundings)
            gain = model.gain(of_part)
            done = (rounded[rows] & (gain.expected <= enough)).nonzero()[:, 0]
            if len(done):
                rounded[rows[done]] = False
                gain.put(done, model[done].gain(roundings[1]))
            found.append(gain)
        return Gain.joined(found, self.points.shape[1] - 2)

    def _models(self, cells: Cells) -> Iterator[tuple[Tensor, "_Model"]]:
        rows = torch.arange(len(self.length), device=self.length.device)
        for part in rows.split(cells.curves_at_once(self.points)):
            yield part, _Model.of(cells, self[part])

    def __getitem__(self, rows: Tensor) -> "Polygons":
        """Those of ``rows (b,)``."""
        n_corners = self.n_corners[rows]
        most = int(n_corners.max()) if len(n_corners) else 0
        return Polygons(self.points[rows, : most + 2], n_corners, self.crossed[rows, :most], self.length[rows])

    def replaced(self, rows: Tensor, other: "Polygons") -> "Polygons":
        """These with those of ``rows (b,)`` replaced by the b others."""
        n_points = max(self.points.shape[1], other.points.shape[1])
        pairs = zip(self._padded(n_points), other._padded(n_points), strict=True)
        return Polygons(*(mine.index_copy(0, rows, new) for mine, new in pairs))

    def _padded(self, n_points: int) -> tuple[Tensor, ...]:
        more = n_points - self.points.shape[1]
        crossed = nn.functional.pad(self.crossed, (0, more))
        return _padded(self.points, n_points), self.n_corners, crossed, self.length

    def shortened(self, cells: Cells, step: Tensor) -> "Polygons":
        """After as much of the ``step (B, K, d)`` as makes each shorter, or unchanged where none does."""
        out = self
        todo = torch.arange(len(self.length), device=step.device)
        for k in range(_CUTS):
            trial = self.points[todo].clone()
            trial[:, 1:-1] += _CUT**k * step[todo]
            found = Polygons.through(cells, trial)
            shorter = found.length < self.length[todo]
            chosen = shorter.nonzero()[:, 0]
            out = out.replaced(todo[chosen], found[chosen])
            todo = todo[~shorter]
            if not len(todo):
                break
        return out

    def beside(self, cells: Cells) -> tuple[Tensor, "Polygons"]:
        """The polygons ``rows (b,)`` that are shorter a little to the side where they meet several kinks at once, and
        what they are there."""
        points = self.points
        d = points.shape[-1]
        chords = points.diff(dim=1).norm(dim=-1)
        total = chords.sum(-1)
        inside = torch.arange(1, points.shape[1] - 1, device=points.device) <= self.n_corners.unsqueeze(-1)
        near = chords <= _BESIDE * total.unsqueeze(-1)
        met = inside & (near[:, 1:] | near[:, :-1] | (self.crossed > 1))
        windows = _Windows.of(points, met)
        if windows is None:
            return self.n_corners[:0], self[self.n_corners[:0]]
        best, shortest = windows.points, Polygons.through(cells, windows.points).length
        reach = (total[windows.curve])[:, None, None] * windows.inside.unsqueeze(-1)
        for k in range(min(d, _DIRECTIONS)):
            aside = torch.linspace(1, 2, d, dtype=points.dtype, device=points.device)
            aside = nn.functional.normalize(aside * (-1) ** (torch.arange(d, device=points.device) // (k + 1)), dim=0)
            for distance in (_ASIDE, -_ASIDE):
                trial = windows.points + distance * reach * aside
                length = Polygons.through(cells, trial).length
                shorter = length < shortest
                best = torch.where(shorter[:, None, None], trial, best)
                shortest = torch.where(shorter, length, shortest)
        moved = (best != windows.points).flatten(1).any(-1)
        rows = windows.curve[moved].unique()
        if not len(rows):
            return rows, self[rows]
        found = Polygons.through(cells, windows.put(points, best)[rows])
        shorter = (found.length < self.length[rows]).nonzero()[:, 0]
        return rows[shorter], found[shorter]


@dataclass(frozen=True)
class _Windows:
    """Parts of curves around points that follow one another."""

    curve: Tensor
    """(w,)"""
    place: Tensor
    """(w, r + 2), of its points in the curve's; behind its last one that is repeated"""
    points: Tensor
    """(w, r + 2, d)"""
    inside: Tensor
    """(w, r + 2), all of the former but both ends"""

    @classmethod
    def of(cls, points: Tensor, chosen: Tensor) -> "_Windows | None":
        """Around the inner points of ``points (B, K + 2, d)`` that are ``chosen (B, K)``."""
        before = nn.functional.pad(chosen, (1, 0))[:, :-1]
        after = nn.functional.pad(chosen, (0, 1))[:, 1:]
        curve, first = (chosen & ~before).nonzero(as_tuple=True)
        if not len(curve):
            return None
        last = (chosen & ~after).nonzero(as_tuple=True)[1]
        number = last - first + 1
        rank = torch.arange(int(number.max()) + 2, device=points.device)
        place = first.unsqueeze(-1) + torch.minimum(rank, number.unsqueeze(-1) + 1)
        inside = (rank >= 1) & (rank <= number.unsqueeze(-1))
        return cls(curve, place, points[curve.unsqueeze(-1), place], inside)

    def put(self, points: Tensor, values: Tensor) -> Tensor:
        """``points (B, K + 2, d)`` with the ``values (w, r + 2, d)`` in these windows."""
        out = points.clone()
        window, rank = self.inside.nonzero(as_tuple=True)
        out[self.curve[window], self.place[window, rank]] = values[window, rank]
        return out


@dataclass(frozen=True)
class _Model:
    """The length of polygons to second order in their corners. All that belongs to the m real segments is flat."""

    polygons: Polygons
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
    def of(cls, cells: Cells, polygons: Polygons) -> "_Model":
        points = polygons.points
        d = points.shape[-1]
        real = torch.arange(points.shape[1] - 1, device=points.device) <= polygons.n_corners.unsqueeze(-1)
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
        return cls(polygons, real, chords, tangents, bends, _along_kinks(local, real, inner))

    def __getitem__(self, rows: Tensor) -> "_Model":
        """Those of ``rows (b,)``, which rise."""
        polygons = self.polygons[rows]
        chosen = torch.zeros_like(self.polygons.n_corners, dtype=torch.bool).index_fill(0, rows, True)
        flat = chosen[self.real.nonzero()[:, 0]]
        n = polygons.points.shape[1] - 1
        return _Model(
            polygons,
            self.real[rows, :n],
            self.chords[flat],
            tuple(J[flat] for J in self.tangents),
            None if self.bends is None else tuple(bend[flat] for bend in self.bends),
            self.free[rows, : n - 1],
        )

    def gain(self, rounding: float | Tensor) -> Gain:
        """Newton's step and what it gains, with one ``rounding`` or those of all polygons ``(B,)``."""
        points, length = self.polygons.points, self.polygons.length
        tiny = torch.finfo(points.dtype).tiny
        if points.shape[1] == 2:
            return Gain(points[:, 1:-1], torch.zeros_like(length), torch.zeros_like(length))
        floor = (rounding * length)[self.real.nonzero()[:, 0]]
        true_size = self.chords.norm(dim=-1)
        size = (true_size.square() + floor.square()).sqrt().clamp_min(tiny)
        unit = (self.chords / size.unsqueeze(-1)).unsqueeze(-1)
        slopes = [(J @ unit).squeeze(-1) for J in self.tangents]
        own = (
            [self._stiffness(size, slopes, i, i) for i in range(2)]
            if self.bends
            else [self._stiffness(size, slopes, 0, 0)] * 2
        )
        beside = self._stiffness(size, slopes, 0, 1) if self.bends else own[0]
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

    def _stiffness(self, size: Tensor, slopes: list[Tensor], i: int, j: int) -> Tensor:
        J, other = self.tangents[i], self.tangents[j]
        along = _ALONG * slopes[i].unsqueeze(-1) * slopes[j].unsqueeze(-2)
        return (J @ other.mT - along) / size[:, None, None]

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


def polygon_curve(points: Tensor) -> Curve:
    """The polygons with corners ``points (B, n + 1, d)``, on which a point rests at every corner."""
    n = 1
    while n < points.shape[1] - 1:
        n *= 2  # so that curves meet others without loss
    points = _padded(points, n + 1)
    return Curve(points, torch.zeros_like(points))


def polyline(curve: Curve) -> Tensor:
    """Points ``(B, n + 1, d)`` between which curves are straight, or nearly so: all corners of a ``polygon_curve``."""
    n = curve.n_segments
    if not bool(curve.slopes.any()):
        return curve.points
    if n == 1 and torch.equal(curve.slopes, curve.points.diff(dim=1).expand_as(curve.slopes)):
        return curve.even_points(_LINE_SEGMENTS)
    return curve.even_points(n * math.ceil(_SAMPLES / n))


def measured(cells: Cells, curve: Curve, n_segments: int) -> Measured:
    """Lengths of ``polyline(curve)``, which see all kinks between its points."""
    points = polyline(curve)
    b, n = len(points), points.shape[1] - 1
    lengths, places = [], []
    for part in points.split(cells.curves_at_once(points)):
        pieces, owner = _pieces(cells, part)
        ends = points.new_tensor([0.0, n]).expand(len(part), 2).unsqueeze(-1)
        place, _ = _packed(ends, owner, (pieces.segment % n + pieces.end).unsqueeze(-1))
        length, _ = _packed(torch.zeros_like(ends), owner, _lengths(cells, pieces).unsqueeze(-1))
        lengths.append(length.sum((1, 2)))
        places.append(even_parameters(place.squeeze(-1), length[:, 1:].squeeze(-1), n_segments))
    place = torch.cat(places)
    if points is curve.points:
        # at rest at both ends of a segment, a curve is behind or ahead of constant speed
        segment = place.long().clamp(max=n - 1)
        share = (place - segment).clamp(0, 1)
        place = segment + 0.5 - torch.sin(torch.asin(1 - 2 * share) / 3)
    length = torch.cat(lengths)
    resolved = torch.ones_like(length, dtype=torch.bool)
    return Measured(curve, length, place / n, resolved, torch.full((b,), n, device=points.device))


def exact_length(cells: Cells, points: Tensor) -> Tensor:
    """The length ``(B,)`` of the curves that are straight between ``points (B, n + 1, d)``."""
    parts = []
    for part in points.split(cells.curves_at_once(points)):
        pieces, curve = _pieces(cells, part)
        parts.append(part.new_zeros(len(part)).index_add(0, curve, _lengths(cells, pieces)))
    return torch.cat(parts)


def left_to_gain(cells: Cells, points: Tensor) -> Tensor:
    """By how much the curves that are straight between ``points (B, n + 1, d)`` are longer than the shortest beside
    them, relatively: ``(B,)``.

    In the same cells that is known, as the length is convex there. Where a curve meets several kinks at once, the cells
    on other sides of that point are looked at too.
    """
    length = exact_length(cells, points)
    polygons = Polygons.through(cells, points)
    gain = _least_gain(cells, polygons)
    rows, other = polygons.beside(cells)
    if len(rows):
        more = _least_gain(cells, other)
        gain[rows] = torch.maximum(gain[rows], more + 1 - other.length / polygons.length[rows])
    scale = length.clamp_min(torch.finfo(length.dtype).tiny)
    return gain.clamp(0, 1) + (1 - polygons.length / scale).clamp_min(0)


def _least_gain(cells: Cells, polygons: Polygons) -> Tensor:
    """What can be gained in the same cells, relative to the length: ``(B,)``."""
    return torch.stack([gain.total for gain in polygons.gains(cells, _ROUNDINGS)]).amin(0)


def descend(cells: Cells, points: Tensor, rtol: float, max_steps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shorten the polygons through ``points (B, n + 1, d)`` until less than a part of ``rtol`` can be gained.

    Returns:
        Corners ``(B, K + 2, d)``, what may still be gained relative to the length ``(B,)``, and the steps taken
        ``(B,)``.
    """
    best = Polygons.through(cells, points)
    left = torch.full_like(best.length, torch.inf)
    n_steps = torch.zeros_like(max_steps)
    roundings = _ROUNDING, _LEAST_ROUNDING * rtol
    coarse = torch.ones_like(max_steps, dtype=torch.bool)  # where segments are still rounded much
    active = torch.arange(len(points), device=points.device)
    aside = False
    while True:
        while len(active):
            now = best[active]
            rounded = coarse[active]
            gain = now.gain(cells, rounded, roundings, _ENOUGH * rtol)
            coarse[active], left[active] = rounded, gain.total
            going_on = (rounded | (gain.total > _ENOUGH * rtol)) & (n_steps[active] < max_steps[active])
            step = gain.step[going_on]
            active, now = active[going_on], now[going_on]
            if not len(active):
                break
            n_steps[active] += 1
            shorter = now.shortened(cells, step[:, : now.points.shape[1] - 2])
            best = best.replaced(active, shorter)
            rounded = coarse[active]
            creeping = shorter.length >= now.length * (1 - rtol * torch.where(rounded, *_CREEPING))
            coarse[active] = rounded & ~creeping
            active = active[rounded | ~creeping]
        if aside:
            return best.points, left, n_steps
        active, shorter = best.beside(cells)
        best = best.replaced(active, shorter)
        aside = True


def _padded(points: Tensor, n_points: int) -> Tensor:
    more = n_points - points.shape[1]
    return torch.cat([points, points[:, -1:].expand(-1, more, -1)], dim=1) if more else points


def _pieces(cells: Cells, points: Tensor) -> tuple[Pieces, Tensor]:
    """Those of the curves that are straight between ``points (B, n + 1, d)``, and the curve ``(p,)`` of each."""
    pieces = cells.pieces(points[:, :-1].flatten(0, 1), points[:, 1:].flatten(0, 1))
    return pieces, pieces.segment // (points.shape[1] - 1)


def _lengths(cells: Cells, pieces: Pieces) -> Tensor:
    """``(p,)``"""
    chord = pieces.after - pieces.before
    if cells.affine:
        return chord.norm(dim=-1)
    return sum(
        weight * cells.push_forward(torch.lerp(pieces.before, pieces.after, node), chord.unsqueeze(0))[0].norm(dim=-1)
        for node, weight in _NODES
    )


def _shares(curve: Tensor, lengths: Tensor, n_curves: int) -> Tensor:
    """How much of its ``curve (p,)`` is behind each piece's end, of these ``lengths (p,)``: from 0 to 1."""
    total = lengths.new_zeros(n_curves).index_add(0, curve, lengths)
    passed = lengths.cumsum(0) - (total.cumsum(0) - total)[curve]
    return passed / total[curve]


def _packed(ends: Tensor, curve: Tensor, inner: Tensor) -> tuple[Tensor, Tensor]:
    """The ``ends (B, 2, k)`` with ``inner (m, k)`` of the ascending ``curve (m,)`` between, and their number ``(B,)``.

    Behind the last one of each, its end is repeated.
    """
    n = torch.bincount(curve, minlength=len(ends))
    rank = torch.arange(len(curve), device=curve.device) - (n.cumsum(0) - n)[curve]
    out = ends[:, 1:].repeat(1, int(n.max()) + 2, 1)
    out[:, 0] = ends[:, 0]
    out[curve, rank + 1] = inner
    return out, n
