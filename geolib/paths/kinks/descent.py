"""The descent of polygons across kinks to shortest ones, and what is left to gain."""

import torch
from torch import Tensor

from geolib.paths.kinks.cells import Cells
from geolib.paths.kinks.lengths import exact_length
from geolib.paths.kinks.model import ALONG
from geolib.paths.kinks.polygons import Polygons

_ENOUGH = 0.5  # times rtol
# The length of a segment is rounded where it is zero, over this share of the polygon: first much, then little.
_ROUNDING, _LEAST_ROUNDING = 1e-4, 0.1  # that, and this times rtol
_ROUNDINGS = (1e-5, 1e-7)  # of which the one that leaves less to gain is right, as either bounds that
# Shares of the curvature along segments that are left out of the first steps, which lead far: many segments are short.
_FIRST_ALONG = (0.9, 0.99)
# Times rtol, with much rounding and with little. A polygon that gains less in a step has met that, or its cells' end.
_CREEPING = (0.1, 1e-3)


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
    shares = best.length.new_tensor([*_FIRST_ALONG, ALONG])
    coarse = torch.ones_like(max_steps, dtype=torch.bool)  # where segments are still rounded much
    active = torch.arange(len(points), device=points.device)
    aside = False
    while True:
        while len(active):
            now = best[active]
            rounded = coarse[active]
            along = shares[n_steps[active].clamp_max(len(_FIRST_ALONG))]
            gain = now.gain(cells, rounded, roundings, along, _ENOUGH * rtol)
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
