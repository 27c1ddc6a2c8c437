"""Evenly spaced streamlines of a direction field: lines that follow eigenvectors, which have no sign."""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator

Array = NDArray[np.float64]

_RECENT = 12  # steps, one and a half spacings


@dataclass(frozen=True)
class DirectionField:
    """Unit directions, defined up to their sign, on a regular grid of the plane.

    An average of v and -v would vanish, so what is interpolated is the double-angle vector (cos 2a, sin 2a).
    """

    x: Array
    """(nx,)"""
    y: Array
    """(ny,)"""
    directions: Array
    """(ny, nx, 2)"""

    def __post_init__(self) -> None:
        angle = 2 * np.arctan2(self.directions[..., 1], self.directions[..., 0])
        double = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        interpolator = RegularGridInterpolator((self.y, self.x), double, bounds_error=False, fill_value=np.nan)
        object.__setattr__(self, "_double", interpolator)

    def at(self, point: Array, along: Array) -> Array:
        """The direction at ``point (2,)`` with the sign that continues ``along (2,)``; NaN outside the grid."""
        c, s = self._double((point[1], point[0]))
        angle = np.arctan2(s, c) / 2
        v = np.array([np.cos(angle), np.sin(angle)])
        return -v if v @ along < 0 else v


def streamlines(
    field: DirectionField, *, spacing: float, step: float | None = None, max_steps: int = 4000
) -> list[Array]:
    """Lines that follow ``field`` and keep about ``spacing`` apart.

    Seeds are tried from the middle of the picture outwards; a line stops at the edge, and where it comes closer than
    half the spacing to an earlier line or back to itself. Integration is the midpoint rule.

    Returns:
        polylines ``(n, 2)``, none shorter than the spacing.
    """
    step = step or spacing / 8
    taken = _Neighbours(spacing / 2)
    xs = np.arange(field.x[0] + spacing / 2, field.x[-1], spacing)
    ys = np.arange(field.y[0] + spacing / 2, field.y[-1], spacing)
    centre = np.array([xs.mean(), ys.mean()])
    seeds = sorted(((x, y) for x in xs for y in ys), key=lambda p: np.hypot(*(np.array(p) - centre)))
    lines = []
    for seed in map(np.array, seeds):
        if taken.near(seed):
            continue
        first = field.at(seed, np.array([1.0, 0.0]))
        if np.isnan(first).any():
            continue
        back = _follow(field, seed, -first, step, max_steps, taken, [seed])
        ahead = _follow(field, seed, first, step, max_steps, taken, [*back[::-1], seed])
        line = np.array([*back[::-1], seed, *ahead])
        if len(line) * step >= spacing:
            taken.add(line)
            lines.append(line)
    return lines


class _Neighbours:
    """Points kept in cells as wide as a distance, so that whether one is nearer than that takes nine look-ups."""

    def __init__(self, distance: float):
        self._distance = distance
        self._cells: dict[tuple[int, int], list[Array]] = {}

    def add(self, points: Iterable[Array]) -> None:
        for point in points:
            self._cells.setdefault(self._cell(point), []).append(point)

    def near(self, point: Array) -> bool:
        i, j = self._cell(point)
        around = (self._cells.get((i + a, j + b), ()) for a in (-1, 0, 1) for b in (-1, 0, 1))
        return any(math.dist(point, other) < self._distance for cell in around for other in cell)

    def _cell(self, point: Array) -> tuple[int, int]:
        return math.floor(point[0] / self._distance), math.floor(point[1] / self._distance)


def _follow(
    field: DirectionField,
    seed: Array,
    along: Array,
    step: float,
    max_steps: int,
    taken: _Neighbours,
    before: list[Array],
) -> list[Array]:
    """Points of the line from ``seed`` on; ``before`` holds the line so far, whose last point is the seed."""
    points: list[Array] = []
    own = _Neighbours(taken._distance)
    # the latest part of the line is always near its end; what is older must not be met again
    recent = deque(before[-_RECENT:])
    own.add(before[:-_RECENT])
    point = seed
    for _ in range(max_steps):
        middle = field.at(point + step / 2 * along, along)
        point, along = point + step * middle, middle
        if np.isnan(point).any() or taken.near(point) or own.near(point):
            break
        points.append(point)
        recent.append(point)
        if len(recent) > _RECENT:
            own.add([recent.popleft()])
    return points
