"""Notebook 08: how often a local minimum is not the global one, by geodesics from several initial curves and a grid."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geolib import checks, distance_field, geodesic, global_distances, magnification_factor
from geolib.companion.cache import progress
from geolib.companion.models.generators import Generator
from geolib.companion.models.grid import LatentGrid
from geolib.companion.studies import summaries
from geolib.companion.studies.evidence import Claim, number
from geolib.paths.result import Geodesic
from geolib.plane.distances import GlobalDistances
from geolib.riemannian import Metric

LONGER = 0.01
STARTS = ("line", "graph", "best")
_SEGMENTS = 32
_DRAWN = 128
_APART = 0.1  # of the distance between the ends; curves farther apart than that take different ways

NOT_GLOBAL = Claim(
    "B-2",
    "the curves that are found need not be the shortest of all (Michelis & Becker 2021)",
    f"from straight lines, at least 1 % of the pairs end surely more than {100 * LONGER:g} % longer than the global "
    "distance; no verdict where undecided pairs could make up what is missing",
    lambda longer: longer >= 1,
)


@dataclass(frozen=True)
class Curves:
    """One curve for each of P pairs."""

    points: Tensor
    """``(P, N + 1, 2)``, close enough for a drawing"""
    length: Tensor
    """``(P,)``"""
    converged: Tensor
    """``(P,)``; only these are called local minima"""

    @classmethod
    def of(cls, found: Geodesic) -> "Curves":
        """Those of a ``Geodesic`` of batch shape ``(P,)``."""
        t = torch.linspace(0, 1, _DRAWN + 1, dtype=found.points.dtype, device=found.points.device)
        return cls(found.curve(t), found.length, found.converged)

    def or_shorter(self, other: "Curves") -> "Curves":
        """The shorter of two curves, pair by pair."""
        other_is = other.length < self.length
        return Curves(
            torch.where(other_is[:, None, None], other.points, self.points),
            torch.where(other_is, other.length, self.length),
            torch.where(other_is, other.converged, self.converged),
        )


@dataclass(frozen=True)
class LocalMinima:
    """Local minima and global distances of the same P pairs. ``init`` is one of ``STARTS``.

    To show that a curve is too long takes a shorter one; to show that it is not takes a lower bound. So a curve is
    surely longer than the global distance, or surely about as long, or the bound is too loose to decide.
    """

    metric: Metric
    lower: Tensor
    """``(2,)``, corner of the box that the grid covers"""
    upper: Tensor
    """``(2,)``"""
    resolution: int
    """cells along each side of the box"""
    start: Tensor
    """``(P, 2)``"""
    end: Tensor
    """``(P, 2)``"""
    distances: GlobalDistances
    """over the grid, batch shape ``(P,)``"""
    polished: Curves
    """geodesics whose initial curves are the grid's shortest paths"""
    local: dict[str, Curves]
    """geodesics by their initial curves"""
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
        """``(P,)``, the least by which a local minimum is longer than the global distance: 0.01 is 1 %. NaN where the
        curve did not converge, and so is no local minimum."""
        return self._excess(init, self.shortest)

    def possible_excess(self, init: str) -> Tensor:
        """``(P,)``, the most by which it may be longer; infinite where the grid's error is no bound."""
        return self._excess(init, self.at_least)

    def longer(self, init: str, by: float = LONGER) -> Tensor:
        """``(P,)``, whether the curve is a local minimum and surely not the global one."""
        return self.excess(init) > by

    def as_short(self, init: str, by: float = LONGER) -> Tensor:
        """``(P,)``, whether the curve is a local minimum and surely exceeds the global distance by at most ``by``."""
        return self.possible_excess(init) <= by

    def undecided(self, init: str, by: float = LONGER) -> Tensor:
        """``(P,)``, whether the curve is a local minimum and the grid is too coarse to decide between the two."""
        return self.local[init].converged & ~self.longer(init, by) & ~self.as_short(init, by)

    def worst(self, init: str) -> int:
        """The pair with the largest sure excess."""
        return int(self.excess(init).nan_to_num(nan=-1.0).argmax())

    def largest_excess(self, init: str) -> float:
        """That pair's excess; 0 where no curve converged."""
        return float(self.excess(init).nan_to_num(nan=0.0).max())

    def apart(self, pair: int, init: str) -> float:
        """The largest distance from a point of the pair's local minimum to its global path, as a share of the distance
        between its ends in the latent plane."""
        between = torch.cdist(self.local[init].points[pair], self.polished.points[pair]).amin(-1).max()
        return float(between / (self.end[pair] - self.start[pair]).norm())

    def ways(self, pair: int, init: str) -> str:
        """How the local minimum and the global path run to each other, in words."""
        apart = self.apart(pair, init)
        if apart > _APART:
            return f"take different ways, up to {100 * apart:.0f} % of the distance between their ends apart"
        return f"run side by side, nowhere more than {100 * apart:.1g} % of the distance between their ends apart"

    def field(self, pair: int) -> tuple[LatentGrid, Tensor]:
        """Global distances ``(ny, nx)`` from the start of a pair to the nodes of the grid."""
        box = {"lower": self.lower, "upper": self.upper, "resolution": self.resolution}
        x, y, distance = distance_field(self.metric, self.start[pair], **box)
        return LatentGrid(x, y), distance

    def volume(self, pair: int, init: str, *, resolution: int) -> tuple[LatentGrid, Tensor]:
        """The logarithm of the magnification factor around all curves of a pair."""
        ends = torch.stack([self.start[pair], self.end[pair]])
        curves = torch.cat([ends, self.local[init].points[pair], self.polished.points[pair]])
        grid = LatentGrid.around(curves, resolution=resolution, margin=0.2)
        return grid, magnification_factor(self.metric(grid.points)).log()

    def count(self, init: str) -> str:
        """How many pairs are surely longer, in words: a count, and a share where there are enough of them."""
        longer, n = int(self.longer(init).sum()), len(self.start)
        return f"{longer} of {n}" + (f" ({100 * longer / n:.1f} %)" if n >= 50 else "")

    @property
    def graph_against_line(self) -> str:
        """Whether fewer curves are too long from the graph than from the line, in words."""
        line, graph = (int(self.longer(init).sum()) for init in ("line", "graph"))
        return "fewer" if graph < line else "more" if graph > line else "as many"

    @property
    def median_error(self) -> float:
        """The median error of the grid's distances, in per cent of them."""
        return 100 * summaries.median(self.error)

    def report(self, by: float = LONGER) -> str:
        """One line per initial curve: how many of its curves are surely longer, undecided, and not converged."""
        lines = [f"of {len(self.start)} pairs, with local minima over {100 * by:g} % longer than the global distance:"]
        for init, found in self.local.items():
            parts = (self.longer(init, by), self.undecided(init, by), ~found.converged)
            longer, undecided, unfinished = (int(part.sum()) for part in parts)
            lines.append(f"{init:>5}: {longer} surely, {undecided} undecided; {unfinished} curves did not converge")
        return "\n".join(lines)

    @property
    def numbers(self) -> list[dict[str, Any]]:
        """Rows of the numbers table."""
        longer = f"pairs whose local minimum is over {100 * LONGER:g} % longer than the global distance, init"
        largest = "largest excess of a local minimum over the global distance, init"
        rows = [(f"{largest} {init}", self.largest_excess(init), "") for init in ("line", "best")]
        rows += [(f"{longer} {init}", summaries.share(self.longer(init)), "") for init in STARTS]
        rows += [
            (
                "pairs undecided, init line",
                summaries.share(self.undecided("line")),
                f"the error of the grid's distance is too large to exclude a curve shorter by {100 * LONGER:g} %",
            ),
            ("pairs undecided, init best", summaries.share(self.undecided("best")), ""),
            (
                "curves whose solver converged, init line",
                summaries.share(self.local["line"].converged),
                "the others are no local minima, and counted as neither longer nor undecided",
            ),
            ("curves whose solver converged, init best", summaries.share(self.local["best"].converged), ""),
            ("median relative error of the grid's distances", self.median_error / 100, ""),
            ("pairs for which that error is a bound", summaries.share(self.bounded), ""),
            ("global paths that keep off the border of the grid", summaries.share(self.distances.inside), ""),
        ]
        return [number("B-2", quantity, 100 * value, unit="%", note=note) for quantity, value, note in rows]

    @property
    def claims(self) -> list[dict[str, Any]]:
        """The verdict on the paper's claim."""
        longer, undecided = (100 * summaries.share(x("line")) for x in (self.longer, self.undecided))
        decided = longer >= 1 or longer + undecided < 1
        ours = f"{longer:.1f} %, and {undecided:.1f} % undecided"
        return [NOT_GLOBAL.decide(ours, longer=longer if decided else float("nan"))]

    def _excess(self, init: str, distance: Tensor) -> Tensor:
        found = self.local[init]
        ratio = torch.where(distance > 0, found.length / distance, torch.where(found.length > 0, torch.inf, 1.0))
        return torch.where(found.converged, ratio - 1, torch.nan)


def pairs(latents: Tensor, n_starts: int, n_ends: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Pairs of latents with few different starts, as the time for global distances goes with the number of starts.

    Args:
        latents: ``(m, d)``.
        n_starts: drawn from them without replacement.
        n_ends: drawn for each start without replacement from the others.
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


def compare(
    metric: Metric,
    start: Tensor,
    end: Tensor,
    *,
    latents: Tensor,
    lower: Tensor,
    upper: Tensor,
    resolution: int = 256,
    reach: int = 12,
) -> LocalMinima:
    """Geodesics from each of ``STARTS``, and the global distances of the same pairs.

    Args:
        metric: a ``PullbackMetric``, or any callable ``z (..., 2) -> M (..., 2, 2)``, differentiable by torch.
        start, end: ``(P, 2)``.
        latents: ``(n, 2)``, such as the encoded training data: the nodes of the graph.
        lower, upper: ``(2,)``, corners of the box that the grid covers.
        resolution, reach: of the grid, as for ``global_distances``.

    Returns:
        a ``LocalMinima``.

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
    length = found[0].line_length
    return LocalMinima(metric, lower, upper, resolution, start, end, distances, polished, local, length)


def measure(g: Generator, *, n_starts: int, n_ends: int, grid: int, seed: int) -> LocalMinima:
    """``compare`` on pairs of encoded test images, over a grid that covers all latents.

    Args:
        g: the generator.
        n_starts, n_ends: ``n_ends`` pairs for each of ``n_starts`` test images.
        grid: cells along each side of the box.
        seed: of the pairs.
    """
    start, end = pairs(g.test_latents, n_starts, n_ends, seed=seed)
    lower, upper = box(torch.cat([g.train_latents, g.test_latents]))
    return compare(g.metric, start, end, latents=g.train_latents, lower=lower, upper=upper, resolution=grid)
