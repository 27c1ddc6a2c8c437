"""How often a local minimum is not the global one: geodesics from several starts beside distances over a grid."""

from dataclasses import dataclass

import torch
from torch import Tensor

from geolib import checks, geodesic, global_distances
from geolib.companion.cache import progress
from geolib.paths.result import Geodesic
from geolib.plane.distances import GlobalDistances
from geolib.riemannian import Metric

LONGER = 0.01
STARTS = ("line", "graph", "best")
_SEGMENTS = 32
_DRAWN = 128


@dataclass(frozen=True)
class Curves:
    """One curve for each of P pairs."""

    points: Tensor
    """``(P, N + 1, 2)``, close enough for a drawing"""
    length: Tensor
    """``(P,)``"""
    converged: Tensor
    """``(P,)``; of those alone it is said that they are local minima"""

    @classmethod
    def of(cls, found: Geodesic) -> "Curves":
        """Those of a ``Geodesic`` of batch shape ``(P,)``."""
        t = torch.linspace(0, 1, _DRAWN + 1, dtype=found.points.dtype, device=found.points.device)
        return cls(found.curve(t), found.length, found.converged)

    def or_shorter(self, other: "Curves") -> "Curves":
        """Of every pair the shorter of two curves."""
        other_is = other.length < self.length
        return Curves(
            torch.where(other_is[:, None, None], other.points, self.points),
            torch.where(other_is, other.length, self.length),
            torch.where(other_is, other.converged, self.converged),
        )


@dataclass(frozen=True)
class GlobalityStudy:
    """Local minima and global distances of the same P pairs. ``init`` is one of ``STARTS``.

    That a curve is too long needs a shorter one at hand; that it is not takes a bound from below. So a curve is surely
    longer than the global distance, or surely about as long, or the bound is too loose to say.
    """

    start: Tensor
    """``(P, 2)``"""
    end: Tensor
    """``(P, 2)``"""
    distances: GlobalDistances
    """over the grid, batch shape ``(P,)``"""
    polished: Curves
    """geodesics that begin as the grid's shortest paths"""
    local: dict[str, Curves]
    """geodesics by where they begin"""
    line_length: Tensor
    """``(P,)``, of the straight lines"""

    @property
    def bounded(self) -> Tensor:
        """``(P,)``, whether the grid's error is a bound: its levels contract, and a larger box has nothing shorter."""
        return self.distances.contracting & self.distances.inside

    @property
    def shortest(self) -> Tensor:
        """``(P,)``, surely no shorter than the global distance: the length of the shortest geodesic from any start, or
        the grid's distance and its error, where that is a bound and less."""
        found = [torch.where(c.converged, c.length, torch.inf) for c in (self.polished, *self.local.values())]
        grid = torch.where(self.bounded, self.distances.distance + self.distances.error, torch.inf)
        return torch.stack([*found, grid]).amin(0)

    @property
    def at_least(self) -> Tensor:
        """``(P,)``, surely no longer than the global distance; 0 where the grid's error is no bound."""
        below = torch.where(self.bounded, self.distances.distance - self.distances.error, 0.0).clamp(min=0)
        return torch.minimum(below, self.shortest)

    @property
    def error(self) -> Tensor:
        """``(P,)``, the error of the grid's distances, relative to them; 0 where start and end are one point."""
        distance, error = self.distances.distance, self.distances.error
        return torch.where(distance > 0, error / distance, 0.0)

    def excess(self, init: str) -> Tensor:
        """``(P,)``, by how much a local minimum is longer than the global distance at the least: 0.01 is 1 %. NaN where
        the curve is no local minimum, as it did not converge."""
        return self._excess(init, self.shortest)

    def possible_excess(self, init: str) -> Tensor:
        """``(P,)``, and by how much at the most; infinite where the grid's error is no bound."""
        return self._excess(init, self.at_least)

    def longer(self, init: str, by: float = LONGER) -> Tensor:
        """``(P,)``, whether the curve is a local minimum and surely not the global one."""
        return self.excess(init) > by

    def as_short(self, init: str, by: float = LONGER) -> Tensor:
        """``(P,)``, whether the curve is a local minimum and surely longer than the global distance by no more."""
        return self.possible_excess(init) <= by

    def undecided(self, init: str, by: float = LONGER) -> Tensor:
        """``(P,)``, whether the curve is a local minimum, and the grid too coarse to say which."""
        return self.local[init].converged & ~self.longer(init, by) & ~self.as_short(init, by)

    def worst(self, init: str) -> int:
        """The pair whose local minimum is longer by the most, for sure."""
        return int(self.excess(init).nan_to_num(nan=-1.0).argmax())

    def largest_excess(self, init: str) -> float:
        """That pair's excess; 0 where no curve converged."""
        return float(self.excess(init).nan_to_num(nan=0.0).max())

    def drawn(self, pair: int, init: str) -> Tensor:
        """``(n, 2)``, all points of a pair's line, local minimum and global path: what a close-up has to show."""
        ends = torch.stack([self.start[pair], self.end[pair]])
        return torch.cat([ends, self.local[init].points[pair], self.polished.points[pair]])

    def report(self, by: float = LONGER) -> str:
        """A line for each start: how many of its curves are surely longer, undecided, and not converged."""
        lines = [f"of {len(self.start)} pairs, with local minima over {100 * by:g} % longer than the global distance:"]
        for init, found in self.local.items():
            parts = (self.longer(init, by), self.undecided(init, by), ~found.converged)
            longer, undecided, unfinished = (int(part.sum()) for part in parts)
            lines.append(f"{init:>5}: {longer} surely, {undecided} undecided; {unfinished} curves did not converge")
        return "\n".join(lines)

    def _excess(self, init: str, distance: Tensor) -> Tensor:
        found = self.local[init]
        ratio = torch.where(distance > 0, found.length / distance, torch.where(found.length > 0, torch.inf, 1.0))
        return torch.where(found.converged, ratio - 1, torch.nan)


def pairs(latents: Tensor, n_starts: int, n_ends: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Pairs of latents, few of whose starts differ, as the time for global distances goes with their number.

    Args:
        latents: ``(m, d)``.
        n_starts: drawn from them without replacement.
        n_ends: of each start, drawn without replacement from the others.
        seed: of the draws, which are made on the CPU and are the same on every device.

    Returns:
        start and end, ``(n_starts * n_ends, d)`` each.

    Raises:
        ValueError: for more than there are latents.
    """
    n = len(latents)
    checks.integer("n_starts", n_starts, at_least=1)
    checks.integer("n_ends", n_ends, at_least=1)
    if n_starts > n or n_ends > n - 1:
        raise ValueError(f"n_starts, n_ends: got {n_starts} and {n_ends}, expected at most {n} and {n - 1}")
    generator = torch.Generator().manual_seed(seed)
    first = torch.randperm(n, generator=generator)[:n_starts]
    others = torch.stack([torch.randperm(n - 1, generator=generator)[:n_ends] for _ in range(n_starts)])
    second = others + (others >= first[:, None])
    return latents[first].repeat_interleave(n_ends, dim=0), latents[second.reshape(-1)]


def box(latents: Tensor, *, margin: float = 0.1) -> tuple[Tensor, Tensor]:
    """Corners ``(2,)`` of a square around latents ``(m, 2)``, with a margin on each side as a share of their extent."""
    low, high = latents.amin(0), latents.amax(0)
    half = (0.5 + margin) * (high - low).max()
    return (low + high) / 2 - half, (low + high) / 2 + half


def study(
    metric: Metric,
    start: Tensor,
    end: Tensor,
    *,
    latents: Tensor,
    lower: Tensor,
    upper: Tensor,
    resolution: int = 256,
    reach: int = 12,
) -> GlobalityStudy:
    """Geodesics from each of ``STARTS``, and the global distances of the same pairs.

    Args:
        metric: a ``PullbackMetric``, or any callable ``z (..., 2) -> M (..., 2, 2)``, differentiable by torch.
        start, end: ``(P, 2)``.
        latents: ``(n, 2)``, such as the encoded training data: where paths over a graph may lead.
        lower, upper: ``(2,)``, corners of the box that the grid covers.
        resolution, reach: of the grid, as for ``global_distances``.

    Returns:
        a ``GlobalityStudy``.

    Raises:
        TypeError, ValueError: as ``geodesic`` and ``global_distances``.

    Source:
        This project's own; the question is one that Michelis & Becker 2021 leave open.
    """
    box = {"lower": lower, "upper": upper, "resolution": resolution, "reach": reach}
    progress.say(f"global distances of {len(start)} pairs over a grid of {resolution} x {resolution}")
    distances = global_distances(metric, start, end, **box, n_segments=_SEGMENTS)

    found = []
    for name, init in (("lines", "line"), ("paths over a graph", "graph"), ("paths over the grid", distances.paths)):
        progress.say(f"geodesics of {len(start)} pairs from {name}")
        found.append(geodesic(metric, start, end, init=init, latents=latents, n_segments=_SEGMENTS))
    line, graph, polished = map(Curves.of, found)
    # init="best" would find both once more, to keep the shorter one
    local = dict(zip(STARTS, (line, graph, line.or_shorter(graph)), strict=True))
    return GlobalityStudy(start, end, distances, polished, local, found[0].line_length)
