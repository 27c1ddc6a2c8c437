"""Curves through points at equal steps of their parameter, cubic between every two of them."""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from geolib import checks
from geolib.spline import CubicBSpline

# Curves of different numbers of segments meet on the least common multiple, or on so many times the largest if that
# is less.
_MOST_COMMON = 8
# The weights of the first 1, 2, 3 or 4 values at equal steps in the value before them, where they are those of a
# polynomial of one degree less than their number.
_BEFORE = {1: (1,), 2: (2, -1), 3: (3, -3, 1), 4: (4, -6, 4, -1)}


class Curve:
    r"""A batch of curves on [0, 1]: between neighbouring points the cubic with given slopes at both (Hermite).

    With the chord :math:`c = p_1 - p_0` of one of the n segments, its slopes :math:`s_0, s_1` and u from 0 to 1 on it,

    .. math:: C = (1 - u) p_0 + u p_1 + u (1 - u) \big( (1 - u) (s_0 / n - c) + u (c - s_1 / n) \big).

    In this form both ends are exact, and so is a straight line at constant speed. A point costs the same however many
    segments there are.

    Args:
        points: ``(..., n + 1, d)``, at equal steps of t.
        slopes: ``(..., n + 1, d)``, the derivatives there.
    """

    def __init__(self, points: Tensor, slopes: Tensor):
        self.points, self.slopes = points, slopes

    @classmethod
    def line(cls, start: Tensor, end: Tensor) -> "Curve":
        """The straight line from ``start`` to ``end`` ``(..., d)`` at constant speed: one segment."""
        slope = end - start
        return cls(torch.stack([start, end], dim=-2), torch.stack([slope, slope], dim=-2))

    @classmethod
    def through(cls, points: Tensor) -> "Curve":
        """The curve through points ``(..., n + 1, d)`` at equal steps of t, n >= 1.

        A slope is that of the polynomial through the five nearest points, or through all where there are fewer. The
        error of points falls with the fourth power of n, that of velocities with the third.
        """
        chords = points.diff(dim=-2)
        n = chords.shape[-2]
        weights = _BEFORE[min(n, 4)]
        # two more chords on either side, where the polynomial goes on, put every slope in the middle of its five points
        first, last = chords[..., : len(weights), :], chords[..., n - len(weights) :, :].flip(-2)
        outwards = list(torch.stack([first, last]).unbind(-2))
        for _ in range(2):
            beyond = weights[0] * outwards[0]
            for weight, chord in zip(weights[1:], outwards[1:], strict=False):
                beyond = beyond.add(chord, alpha=weight)
            outwards.insert(0, beyond)
        left, right = torch.stack(outwards[:2], dim=-2)
        chords = torch.cat([left, chords, right.flip(-2)], dim=-2)
        near = chords[..., 1:-2, :] + chords[..., 2:-1, :]
        far = chords[..., :-3, :] + chords[..., 3:, :]
        return cls(points, (7 * near - far) * (n / 12))

    @classmethod
    def of_spline(cls, spline: CubicBSpline, n_segments: int) -> "Curve":
        """The curve with the points and velocities of a spline at equal steps of t.

        It is the spline where that is cubic between two steps, as it is with even knots for one segment per interval.
        """
        t = torch.linspace(0, 1, n_segments + 1, dtype=spline.knots.dtype, device=spline.knots.device)
        return cls(spline(t), spline.velocity(t))

    @property
    def n_segments(self) -> int:
        """n."""
        return self.points.shape[-2] - 1

    def __call__(self, t: Tensor) -> Tensor:
        """Points ``(..., T, d)`` at parameters ``t (T,)`` in [0, 1]."""
        return self._at(checks.parameters(t, self.points), _position)

    def velocity(self, t: Tensor) -> Tensor:
        """The derivative ``(..., T, d)`` at parameters ``t (T,)`` in [0, 1]."""
        return self.n_segments * self._at(checks.parameters(t, self.points), _rate)

    def each(self, t: Tensor) -> Tensor:
        """Points ``(B, T, d)`` of B curves, each at its own parameters ``t (B, T)``."""
        return self.unchecked(checks.parameters_of_each(t, self.points))

    def unchecked(self, t: Tensor) -> Tensor:
        """``each`` at parameters that need no check."""
        return self._at(t, _position)

    def even_points(self, n_segments: int) -> Tensor:
        """Points ``(..., n_segments + 1, d)`` at equal steps of t."""
        return self._evenly(n_segments, _position, self.points)

    def subdivided(self, n_segments: int) -> "Curve":
        """The curves on another number of segments, with the same points and velocities at equal steps of t.

        They are the same curves where the number is a multiple of theirs.
        """
        n = self.n_segments
        if n_segments == n:
            return self
        return Curve(self.even_points(n_segments), n * self._evenly(n_segments, _rate, self.slopes / n))

    def __getitem__(self, rows: Tensor) -> "Curve":
        """The curves that ``rows`` selects along the first batch dimension."""
        return Curve(self.points[rows], self.slopes[rows])

    def reshaped(self, batch: tuple[int, ...]) -> "Curve":
        """The same curves in a batch of another shape."""
        return Curve(*(x.reshape(*batch, *x.shape[-2:]) for x in (self.points, self.slopes)))

    def replaced(self, rows: Tensor, other: "Curve") -> "Curve":
        """These B curves with those of ``rows (b,)`` replaced by the b others."""
        n = _common([self, other])
        mine, new = self.subdivided(n), other.subdivided(n)
        return Curve(mine.points.index_copy(0, rows, new.points), mine.slopes.index_copy(0, rows, new.slopes))

    @classmethod
    def joined(cls, parts: list["Curve"], rows: list[Tensor]) -> "Curve":
        """All the curves of parts ``(b,)`` as one batch, in which they are those of ``rows (b,)``."""
        n = _common(parts)
        like = parts[0].points
        points, slopes = like.new_empty(2, sum(len(part.points) for part in parts), n + 1, like.shape[-1])
        # a part at a time, as curves can be most of the memory that there is
        for part, places in zip(parts, rows, strict=True):
            fine = part.subdivided(n)
            points[places], slopes[places] = fine.points, fine.slopes
        return cls(points, slopes)

    @functools.cached_property
    def _segments(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Both ends of every segment, and by how much the cubic leaves them in other directions than the chord's."""
        before, after = self.points[..., :-1, :], self.points[..., 1:, :]
        chords, slopes = after - before, self.slopes / self.n_segments
        return before, after, slopes[..., :-1, :] - chords, chords - slopes[..., 1:, :]

    def _at(self, t: Tensor, value: Callable[..., Tensor]) -> Tensor:
        """Values ``(..., T, d)`` at ``t (T,)`` for all curves or, for a batch ``(B,)``, at ``t (B, T)`` for each."""
        places = t * self.n_segments
        segment = places.long().clamp(0, self.n_segments - 1)
        u = (places - segment).unsqueeze(-1)
        if t.ndim == 1:
            return value(*(x.index_select(-2, segment) for x in self._segments), u)
        index = segment.unsqueeze(-1).expand(*segment.shape, self.points.shape[-1])
        return value(*(x.gather(-2, index) for x in self._segments), u)

    def _evenly(self, n_segments: int, value: Callable[..., Tensor], at_points: Tensor) -> Tensor:
        """Values ``(..., n_segments + 1, d)`` at equal steps of t, where those at the points are known."""
        like = self.points
        times, rest = divmod(n_segments, self.n_segments)
        if rest:
            return self._at(torch.linspace(0, 1, n_segments + 1, dtype=like.dtype, device=like.device), value)
        u = torch.linspace(0, 1, times + 1, dtype=like.dtype, device=like.device)[:-1].unsqueeze(-1)
        inner = value(*(x.unsqueeze(-2) for x in self._segments), u).flatten(-3, -2)
        return torch.cat([inner, at_points[..., -1:, :]], dim=-2)


def _position(before: Tensor, after: Tensor, leaving: Tensor, arriving: Tensor, u: Tensor) -> Tensor:
    return torch.lerp(before, after, u).addcmul(u * (1 - u), torch.lerp(leaving, arriving, u))


def _rate(before: Tensor, after: Tensor, leaving: Tensor, arriving: Tensor, u: Tensor) -> Tensor:
    """The derivative in u."""
    return after - before + (1 - 2 * u) * torch.lerp(leaving, arriving, u) + u * (1 - u) * (arriving - leaving)


def _common(curves: list[Curve]) -> int:
    """The number of segments on which curves meet."""
    numbers = [curve.n_segments for curve in curves]
    return min(math.lcm(*numbers), _MOST_COMMON * max(numbers))
