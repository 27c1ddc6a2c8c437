"""Shortest polygons on piecewise linear maps, whose corners lie where the map has a kink."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from geolib import jacobian
from geolib.paths import tridiagonal
from geolib.paths.interpolant import Curve
from geolib.riemannian import RiemannianMetric

_CORNERS = 2048  # most corners of a polygon
_CUT, _CUTS = 0.4, 10  # of a step that leads to a longer polygon
_ENOUGH = 0.5  # times rtol
# The length of a segment is rounded where it is zero, over this share of the polygon: first much, then little.
_ROUNDING, _LEAST_ROUNDING = 1e-4, 0.1  # that, and this times rtol
_ROUNDINGS = (1e-5, 1e-7)  # of which the one that leaves less to gain is right, as either bounds that
_ALONG = 0.999  # share of the curvature along a segment, where its length has none, that is left out
_CHUNK_BYTES = 256 * 2**20
_SAMPLES = 256
# Kinks that follow one another within this share of a polygon are looked at from several directions, from so far.
_BESIDE, _DIRECTIONS, _ASIDE = 1e-3, 3, 1e-3


class Cells:
    """A chain of affine layers, ReLU and leaky ReLU. It is affine on each of the cells that its kinks separate."""

    def __init__(self, layers: list[nn.Module]):
        self.layers = layers

    @classmethod
    def of(cls, metric: RiemannianMetric) -> "Cells | None":
        """Those of a metric's immersion, or None where it is no such chain."""
        source = metric.source
        if metric.std is not None or not hasattr(source, "mean"):
            return None
        layers = jacobian.chain(source.mean)
        if layers is not None and source.features is not None:
            features = jacobian.chain(source.features)
            layers = None if features is None else layers + features
        if layers is None or not any(isinstance(layer, (nn.ReLU, nn.LeakyReLU)) for layer in layers):
            return None
        return cls(layers)

    def smooth(self, width: float, like: Tensor) -> nn.Sequential:
        """The same chain with kinks rounded, over a ``width`` relative to the heights of standard normal points."""
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(_SAMPLES, like.shape[-1], generator=generator).to(like)
        layers = []
        for layer in self.layers:
            if jacobian.kink(layer) is not None:
                scale = float(x.square().mean().sqrt().clamp_min(torch.finfo(x.dtype).tiny))
                layers.append(jacobian.SmoothKink(jacobian.kink(layer), width * scale))
                x = torch.where(x > 0, x, jacobian.kink(layer) * x)
            else:
                x = layer(x)
                layers.append(layer)
        return nn.Sequential(*layers)

    def at(self, z: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Heights over the kinks ``(n, H)`` and images ``(n, D)`` at ``z (n, d)``, and the derivatives of both along
        ``tangents (k, n, d)``."""
        heights, slopes = [], []
        x = z
        for layer in self.layers:
            slope = jacobian.kink(layer)
            if slope is None:
                x, tangents = jacobian.push_forward(layer, x, tangents)
                continue
            heights.append(x.flatten(1))
            slopes.append(tangents.flatten(2))
            factor = torch.where(x > 0, 1.0, slope).to(x.dtype)
            x, tangents = factor * x, factor * tangents
        return torch.cat(heights, -1), x, torch.cat(slopes, -1), tangents

    def curves_at_once(self, points: Tensor) -> int:
        """How many curves like those of ``points (B, n + 1, d)`` are worked on at once, with their derivatives."""
        z = points[:1, 0]
        heights, image, _, _ = self.at(z, z.unsqueeze(0))
        d = points.shape[-1]
        per_curve = points.shape[1] * (d + 1) * (heights[0].numel() + image[0].numel()) * points.element_size()
        return max(1, _CHUNK_BYTES // per_curve)

    def sides(self, z: Tensor) -> Tensor:
        """On which side of every kink the points ``z (..., d)`` are: ``(..., H)``."""
        flat = z.reshape(-1, z.shape[-1])
        return (self.at(flat, flat.new_zeros(0, *flat.shape))[0] > 0).unflatten(0, z.shape[:-1])

    def image(self, z: Tensor) -> Tensor:
        """``(..., D)``"""
        x = z.reshape(-1, z.shape[-1])
        for layer in self.layers:
            x = layer(x)
        return x.unflatten(0, z.shape[:-1])


@dataclass(frozen=True)
class Polygons:
    """A batch of polygons with corners at the kinks they cross."""

    points: Tensor
    """(B, K + 2, d); behind a polygon's last corner its end is repeated"""
    n_corners: Tensor
    """(B,)"""
    length: Tensor
    """(B,), exact"""

    @classmethod
    def through(cls, cells: Cells, points: Tensor) -> "Polygons":
        """Of the curves that are straight between ``points (B, n + 1, d)``, without the bends inside a cell."""
        parts = [cls._through(cells, part) for part in points.split(cells.curves_at_once(points))]
        if len(parts) == 1:
            return parts[0]
        n_points = max(part.points.shape[1] for part in parts)
        return cls(
            torch.cat([_padded(part.points, n_points) for part in parts]),
            torch.cat([part.n_corners for part in parts]),
            torch.cat([part.length for part in parts]),
        )

    @classmethod
    def _through(cls, cells: Cells, points: Tensor) -> "Polygons":
        points, n = _with_crossings(cells, points)
        # not at crossings: the sides of a corner are those of the segments beside it
        sides = cells.sides((points[:, 1:] + points[:, :-1]) / 2)
        real = torch.arange(1, points.shape[1] - 1, device=points.device) <= n.unsqueeze(-1)
        kept = (sides[:, 1:] != sides[:, :-1]).any(-1) & real
        curve, k = kept.nonzero(as_tuple=True)
        points, n = _packed(points, curve, points[curve, k + 1])
        return cls(points, n, cells.image(points).diff(dim=1).norm(dim=-1).sum(-1))

    def step(self, cells: Cells, rounding: float) -> tuple[Tensor, Tensor]:
        """Newton's step ``(B, K, d)`` of the corners within their kinks, and what can be gained in the same cells,
        relative to the length ``(B,)``: there the length is a convex function, whose minimum is the shortest curve.
        """
        rows = torch.arange(len(self.length), device=self.length.device)
        parts = [self[part]._step(cells, rounding) for part in rows.split(cells.curves_at_once(self.points))]
        return tuple(torch.cat(group) for group in zip(*parts, strict=True))

    def _step(self, cells: Cells, rounding: float) -> tuple[Tensor, Tensor]:
        points = self.points
        b, n_points, d = points.shape
        if n_points == 2:
            return points[:, 1:-1], torch.zeros_like(self.length)
        middle = ((points[:, 1:] + points[:, :-1]) / 2).flatten(0, 1)
        eye = torch.eye(d, dtype=points.dtype, device=points.device)
        heights, _, slopes, J = cells.at(middle, eye.unsqueeze(1).expand(d, len(middle), d))
        J = J.flatten(2).permute(1, 0, 2)
        chords = (points.diff(dim=1).flatten(0, 1).unsqueeze(-2) @ J).squeeze(-2)
        floor = (rounding * self.length).repeat_interleave(n_points - 1)
        true_size = chords.norm(dim=-1)
        size = (true_size.square() + floor.square()).sqrt().clamp_min(torch.finfo(points.dtype).tiny)
        slope = (J @ (chords / size.unsqueeze(-1)).unsqueeze(-1)).squeeze(-1)
        stiffness = (J @ J.mT - _ALONG * slope.unsqueeze(-1) * slope.unsqueeze(-2)) / size[:, None, None]
        slope, stiffness = (x.unflatten(0, (b, n_points - 1)) for x in (slope, stiffness))
        inside = torch.arange(1, n_points - 1, device=points.device) <= self.n_corners.unsqueeze(-1)
        free = self._free(heights, slopes, inside)
        gradient = (free @ (slope[:, :-1] - slope[:, 1:]).unsqueeze(-1)).squeeze(-1)
        diagonal = free @ (stiffness[:, :-1] + stiffness[:, 1:]) @ free
        scale = diagonal.diagonal(dim1=-2, dim2=-1).mean((-2, -1)).clamp_min(torch.finfo(points.dtype).tiny)
        diagonal = diagonal + scale[:, None, None, None] * (eye - free + 1e-10 * eye)
        right = -free[:, :-1] @ stiffness[:, 1:-1] @ free[:, 1:]
        step, definite = tridiagonal.solve(diagonal, right, -gradient)
        step = torch.where(definite[:, None, None], step, 0.0)
        # what rounding hides may be gained too
        extent = (true_size > 0) * (size - true_size)
        gain = extent.unflatten(0, (b, n_points - 1)).sum(-1) - (gradient * step).sum((-2, -1)) / 2
        return step, torch.where(definite, gain / self.length.clamp_min(torch.finfo(points.dtype).tiny), torch.inf)

    def __getitem__(self, rows: Tensor) -> "Polygons":
        """Those of ``rows (b,)``."""
        return Polygons(self.points[rows], self.n_corners[rows], self.length[rows])

    def replaced(self, rows: Tensor, other: "Polygons") -> "Polygons":
        """These with those of ``rows (b,)`` replaced by the b others."""
        n_points = max(self.points.shape[1], other.points.shape[1])
        pairs = (
            (_padded(self.points, n_points), _padded(other.points, n_points)),
            (self.n_corners, other.n_corners),
            (self.length, other.length),
        )
        return Polygons(*(mine.index_copy(0, rows, new) for mine, new in pairs))

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

    def detours(self, cells: Cells) -> Iterator["Polygons"]:
        """These polygons a little to the side wherever they meet several kinks at once."""
        points = self.points
        n_points, d = points.shape[1:]
        sides = cells.sides((points[:, 1:] + points[:, :-1]) / 2)
        several = (sides[:, 1:] != sides[:, :-1]).sum(-1) > 1
        near = points.diff(dim=1).norm(dim=-1) <= _BESIDE * points.diff(dim=1).norm(dim=-1).sum(-1, keepdim=True)
        inside = torch.arange(1, n_points - 1, device=points.device) <= self.n_corners.unsqueeze(-1)
        met = (several | near[:, 1:] | near[:, :-1]) & inside
        if not bool(met.any()):
            return
        reach = points.diff(dim=1).norm(dim=-1).sum(-1)[:, None, None] * met.unsqueeze(-1)
        for k in range(min(d, _DIRECTIONS)):
            aside = torch.linspace(1, 2, d, dtype=points.dtype, device=points.device)
            aside = nn.functional.normalize(aside * (-1) ** (torch.arange(d, device=points.device) // (k + 1)), dim=0)
            for distance in (_ASIDE, -_ASIDE):
                trial = points.clone()
                trial[:, 1:-1] += distance * reach * aside
                yield Polygons.through(cells, trial)

    def _free(self, heights: Tensor, slopes: Tensor, inside: Tensor) -> Tensor:
        """Projections ``(B, K, d, d)`` to the directions along the kinks at every corner."""
        b, n = inside.shape
        sides = (heights > 0).unflatten(0, (b, n + 1))
        changed = (sides[:, 1:] != sides[:, :-1]) & inside.unsqueeze(-1)
        most = max(1, min(int(changed.sum(-1).max()), slopes.shape[0])) if n else 1
        which = changed.to(torch.uint8).topk(most, dim=-1)
        # a kink's slope is the same on either side of it, but not those of later layers
        slopes = slopes.unflatten(1, (b, n + 1))[:, :, :-1]
        index = which.indices.unsqueeze(0).expand(len(slopes), -1, -1, -1)
        normals = (slopes.gather(-1, index) * which.values).permute(1, 2, 3, 0)
        eye = torch.eye(len(slopes), dtype=slopes.dtype, device=slopes.device)
        _, s, v = torch.linalg.svd(normals, full_matrices=False)
        spanned = (s > 1e-9 * s[..., :1]) & (s > 0)
        v = v * spanned.unsqueeze(-1)
        return (eye - v.mT @ v) * inside[..., None, None]


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
    return curve.even_points(n * math.ceil(_SAMPLES / n))


def exact_length(cells: Cells, points: Tensor) -> Tensor:
    """The length ``(B,)`` of the curves that are straight between ``points (B, n + 1, d)``."""
    return cells.image(_with_crossings(cells, points)[0]).diff(dim=1).norm(dim=-1).sum(-1)


def left_to_gain(cells: Cells, points: Tensor) -> Tensor:
    """By how much the curves that are straight between ``points (B, n + 1, d)`` are longer than the shortest beside
    them, relatively: ``(B,)``.

    In the same cells that is known, as the length is convex there. Where a curve meets several kinks at once, the cells
    on other sides of that point are looked at too.
    """
    length = exact_length(cells, points)
    polygons = Polygons.through(cells, points)
    gain = _least_gain(cells, polygons)
    for trial in polygons.detours(cells):
        rows = (trial.length < polygons.length).nonzero()[:, 0]
        if len(rows):
            more = _least_gain(cells, trial[rows])
            gain[rows] = torch.maximum(gain[rows], more + 1 - trial.length[rows] / polygons.length[rows])
    scale = length.clamp_min(torch.finfo(length.dtype).tiny)
    return gain.clamp(0, 1) + (1 - polygons.length / scale).clamp_min(0)


def _least_gain(cells: Cells, polygons: Polygons) -> Tensor:
    """What can be gained in the same cells, relative to the length: ``(B,)``."""
    return torch.stack([polygons.step(cells, rounding)[1] for rounding in _ROUNDINGS]).amin(0)


def descend(cells: Cells, points: Tensor, rtol: float, max_steps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shorten the polygons through ``points (B, n + 1, d)`` until less than a part of ``rtol`` can be gained.

    Returns:
        Corners ``(B, K + 2, d)``, what may still be gained relative to the length ``(B,)``, and the steps taken
        ``(B,)``.
    """
    best = Polygons.through(cells, points)
    left = torch.full_like(best.length, torch.inf)
    n_steps = torch.zeros_like(max_steps)
    for rounding in (_ROUNDING, _LEAST_ROUNDING * rtol):
        active = torch.arange(len(points), device=points.device)
        while len(active):
            now = best[active]
            step, left[active] = now.step(cells, rounding)
            going_on = (left[active] > _ENOUGH * rtol) & (n_steps[active] < max_steps[active])
            active = active[going_on]
            if not len(active):
                break
            n_steps[active] += 1
            shorter = now[going_on].shortened(cells, step[going_on])
            moved = (shorter.length < best.length[active]).nonzero()[:, 0]
            active = active[moved]
            best = best.replaced(active, shorter[moved])
        for trial in best.detours(cells):
            rows = (trial.length < best.length).nonzero()[:, 0]
            best = best.replaced(rows, trial[rows])
    return best.points, left, n_steps


def _padded(points: Tensor, n_points: int) -> Tensor:
    more = n_points - points.shape[1]
    return torch.cat([points, points[:, -1:].expand(-1, more, -1)], dim=1) if more else points


def _crossings(cells: Cells, points: Tensor) -> tuple[Tensor, Tensor]:
    """Every inner point and every kink between points ``(B, n + 1, d)``: the curve ``(m,)``, ascending, and the place
    ``(m,)`` on it, in segments, ascending on each curve."""
    b, n = len(points), points.shape[1] - 1
    origin, chord = points[:, :-1].flatten(0, 1), points.diff(dim=1).flatten(0, 1)
    least = torch.finfo(points.dtype).eps ** 0.5 / 100
    t = points.new_zeros(b * n)
    active = (chord != 0).any(-1).nonzero()[:, 0]
    inner = torch.arange(1, n, device=points.device).repeat(b)
    curves, places = [torch.arange(b, device=points.device).repeat_interleave(n - 1)], [inner.to(points)]
    for _ in range(_CORNERS):
        if not len(active):
            break
        here = t[active] + least
        v = chord[active]
        heights, _, slopes, _ = cells.at(origin[active] + here.unsqueeze(-1) * v, v.unsqueeze(0))
        ahead = -heights / slopes[0]
        nearest = here + torch.where(ahead > 0, ahead, torch.inf).amin(-1)
        going_on = nearest < 1 - 10 * least
        crossing = going_on & (nearest > 10 * least)
        rows = active[crossing]
        curves.append(rows // n)
        places.append(rows % n + nearest[crossing])
        t[active] = nearest
        active = active[going_on]
    place, order = torch.cat(places).sort()
    curve, again = torch.cat(curves)[order].sort(stable=True)
    return curve, place[again]


def _with_crossings(cells: Cells, points: Tensor) -> tuple[Tensor, Tensor]:
    """``points (B, n + 1, d)`` and every kink between: ``(B, m + 2, d)``, and how many are inside ``(B,)``."""
    curve, place = _crossings(cells, points)
    at = place.long().clamp(max=points.shape[1] - 2)
    corners = torch.lerp(points[curve, at], points[curve, at + 1], (place - at).unsqueeze(-1))
    return _packed(points, curve, corners)


def _packed(points: Tensor, curve: Tensor, corners: Tensor) -> tuple[Tensor, Tensor]:
    """The ends of ``points (B, n + 1, d)`` with the ``corners (m, d)`` of the ascending ``curve (m,)`` between."""
    n = torch.bincount(curve, minlength=len(points))
    rank = torch.arange(len(curve), device=curve.device) - (n.cumsum(0) - n)[curve]
    out = points[:, -1:].repeat(1, int(n.max()) + 2, 1)
    out[:, 0] = points[:, 0]
    out[curve, rank + 1] = corners
    return out, n
