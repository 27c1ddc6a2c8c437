"""Polygons on maps with kinks, whose corners lie where the map has a kink."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from geolib.paths.kinks.cells import Cells, packed, pieces_of
from geolib.paths.kinks.model import ALONG, Gain, Model

_CUT, _CUTS = 0.4, 10  # of a step that leads to a longer polygon
_PARTS = 64  # of a curve, which have a corner each where the map is not affine between its kinks
# Kinks that follow one another within this share of a polygon are looked at from several directions, from so far.
_BESIDE, _DIRECTIONS, _ASIDE = 1e-3, 3, 1e-3


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
        pieces, curve = pieces_of(cells, points)
        same = curve[1:] == curve[:-1]
        crossed = (pieces.sides[1:] != pieces.sides[:-1]).sum(-1)
        kept = same & (crossed > 0)
        if not cells.affine:
            chords = points.diff(dim=1).norm(dim=-1).flatten()
            share = _shares(curve, (pieces.end - pieces.start) * chords[pieces.segment], len(points))
            part = (_PARTS * share).floor()
            kept = kept | (same & (pieces.end[:-1] == 1) & (part[1:] != part[:-1]))
        kept = kept.nonzero()[:, 0]
        segment = pieces.segment[kept]
        corners = torch.lerp(
            points[:, :-1].flatten(0, 1)[segment], points[:, 1:].flatten(0, 1)[segment], pieces.end[kept].unsqueeze(-1)
        )
        corners, n_corners = packed(points[:, [0, -1]], curve[kept], corners)
        number = torch.bincount(curve, minlength=len(points))
        last = number.cumsum(0) - 1
        ends = pieces.after.new_zeros(len(points), 2, pieces.after.shape[-1])
        some = number > 0
        ends[some] = torch.stack([pieces.before[(last - number + 1)[some]], pieces.after[last[some]]], dim=1)
        values, _ = packed(ends, curve[kept], pieces.after[kept])
        crossed, _ = packed(crossed.new_zeros(len(points), 2, 1), curve[kept], crossed[kept].unsqueeze(-1))
        length = cells.image(values).diff(dim=1).norm(dim=-1).sum(-1)
        return cls(corners, n_corners, crossed[:, 1:-1, 0], length)

    def gains(self, cells: Cells, roundings: Sequence[float]) -> list[Gain]:
        """Newton's step of the corners within their kinks and what it gains, for each of the roundings.

        On an affine map the length is a convex function of them, whose minimum is the shortest curve through the same
        cells.
        """
        found = [[model.gain(rounding) for rounding in roundings] for _, model in self._models(cells)]
        return [Gain.joined(group, self.points.shape[1] - 2) for group in zip(*found, strict=True)]

    def gain(self, cells: Cells, rounded: Tensor, roundings: tuple[float, float], along: Tensor, enough: float) -> Gain:
        """The same for the first of two roundings, and the share ``along (B,)``, where that is ``rounded (B,)``, until
        it has no more than ``enough`` to gain; then, and elsewhere, for the second. What is ``rounded`` is brought up
        to date."""
        found = []
        for rows, model in self._models(cells):
            of_part = torch.where(rounded[rows], *roundings)
            gain = model.gain(of_part, torch.where(rounded[rows], along[rows], ALONG))
            done = (rounded[rows] & (gain.expected <= enough)).nonzero()[:, 0]
            if len(done):
                rounded[rows[done]] = False
                gain.put(done, model[done].gain(roundings[1]))
            found.append(gain)
        return Gain.joined(found, self.points.shape[1] - 2)

    def _models(self, cells: Cells) -> Iterator[tuple[Tensor, Model]]:
        rows = torch.arange(len(self.length), device=self.length.device)
        for part in rows.split(cells.curves_at_once(self.points)):
            chosen = self[part]
            yield part, Model.of(cells, chosen.points, chosen.n_corners, chosen.length)

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


def _padded(points: Tensor, n_points: int) -> Tensor:
    more = n_points - points.shape[1]
    return torch.cat([points, points[:, -1:].expand(-1, more, -1)], dim=1) if more else points


def _shares(curve: Tensor, lengths: Tensor, n_curves: int) -> Tensor:
    """How much of its ``curve (p,)`` is behind each piece's end, of these ``lengths (p,)``: from 0 to 1."""
    total = lengths.new_zeros(n_curves).index_add(0, curve, lengths)
    passed = lengths.cumsum(0) - (total.cumsum(0) - total)[curve]
    return passed / total[curve]
