"""Curves that stand for polygons across kinks, and their lengths."""

import math

import torch
from torch import Tensor

from geolib.paths.interpolant import Curve
from geolib.paths.kinks.cells import Cells, Pieces, packed, pieces_of
from geolib.paths.measure import Measured, even_parameters

_SAMPLES = 256  # segments of the polygon that stands for a curve, at least
_LINE_SEGMENTS = 16  # on which a straight line's kinks are looked for, side by side
# nodes and weights of Gauss's rule on [0, 1]
_NODES = ((0.5 - math.sqrt(0.15), 5 / 18), (0.5, 4 / 9), (0.5 + math.sqrt(0.15), 5 / 18))


def polygon_curve(points: Tensor) -> Curve:
    """The polygons with corners ``points (B, n + 1, d)``, on which a point rests at every corner."""
    n = 1
    while n < points.shape[1] - 1:
        n *= 2  # so that curves meet others without loss
    points = torch.cat([points, points[:, -1:].expand(-1, n + 1 - points.shape[1], -1)], dim=1)
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
        pieces, owner = pieces_of(cells, part)
        ends = points.new_tensor([0.0, n]).expand(len(part), 2).unsqueeze(-1)
        place, _ = packed(ends, owner, (pieces.segment % n + pieces.end).unsqueeze(-1))
        length, _ = packed(torch.zeros_like(ends), owner, _lengths(cells, pieces).unsqueeze(-1))
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
        pieces, curve = pieces_of(cells, part)
        parts.append(part.new_zeros(len(part)).index_add(0, curve, _lengths(cells, pieces)))
    return torch.cat(parts)


def _lengths(cells: Cells, pieces: Pieces) -> Tensor:
    """``(p,)``"""
    chord = pieces.after - pieces.before
    if cells.affine:
        return chord.norm(dim=-1)
    return sum(
        weight * cells.push_forward(torch.lerp(pieces.before, pieces.after, node), chord.unsqueeze(0))[0].norm(dim=-1)
        for node, weight in _NODES
    )
