"""Shortest paths by way of nodes, and paths that are nearly as short and lead elsewhere."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from geolib import checks
from geolib.paths.measure import even_parameters
from geolib.riemannian import RiemannianMetric

PATH_SEGMENTS = 16
SMOOTHINGS = 2
WORTHWHILE = 0.99
_LONGER = 0.02  # a path that is longer than the shortest one by more, relatively, is none beside it
_ROUNDED = 1e-9  # nodes of one path have the same detour but for rounding
WAYS = 2  # paths of a pair, at most
_APART = 0.05  # of the latent length of a path: how far another one leads away from it


@dataclass(frozen=True)
class Paths:
    """Initial curves between B pairs of points."""

    points: Tensor
    """(B, n_segments + 1, d), at equal steps of Riemannian length; the straight line where no path is shorter"""
    shorter: Tensor
    """(B,), whether the path is at least 1 % shorter than the line. Paths nearly as long as the line led to a longer
    geodesic as often as to a shorter one."""
    connected: Tensor
    """(B,), whether the graph connects the pair"""
    beside: Tensor
    """(m, n_segments + 1, d), paths that are clearly shorter than the line too, and lead elsewhere"""
    owner: Tensor
    """(m,), whose they are"""

    @property
    def rivalled(self) -> Tensor:
        """(B,), whether there are paths beside a pair's."""
        return torch.zeros_like(self.shorter).index_fill(0, self.owner, True)

    def rivals(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """``owner`` and ``beside`` of the ``chosen (B,)`` pairs, counted among these."""
        kept = chosen[self.owner]
        return (chosen.cumsum(0) - 1)[self.owner[kept]], self.beside[kept]

    def and_also(self, other: "Paths") -> "Paths":
        """These paths; as rivals those of another search that lead elsewhere, where either is shorter than the line.

        Where only one of them is, that is no proof: the other one may be the line.
        """
        shorter = self.shorter | other.shorter
        chosen = self.shorter | ~other.shorter
        points, last = (
            torch.where(chosen[:, None, None], a, b)
            for a, b in ((self.points, other.points), (other.points, self.points))
        )
        apart = (last - points).norm(dim=-1).amax(-1) > _APART * points.diff(dim=1).norm(dim=-1).sum(-1)
        more = (shorter & apart).nonzero()[:, 0]
        return Paths(
            points,
            shorter,
            self.connected,
            torch.cat([self.beside, last[more], other.beside]),
            torch.cat([self.owner, more, other.owner]),
        )

    @classmethod
    def joined(cls, parts: list["Paths"]) -> "Paths":
        """One batch after the other."""
        first = torch.tensor([0] + [len(part.points) for part in parts[:-1]]).cumsum(0).tolist()
        values = {f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)}
        owner = torch.cat([part.owner + n for part, n in zip(parts, first, strict=True)])
        return cls(**values | {"owner": owner})


@dataclass(frozen=True)
class Routes:
    """How the nodes around B pairs of points are reached from both: ``K`` nodes a pair, float64."""

    start: Tensor
    """(B, d)"""
    end: Tensor
    """(B, d)"""
    nodes: Tensor
    """(B, K, d)"""
    reached: Tensor
    """(2, B, K), length of the shortest path from the start, and from the end; infinite where there is none"""
    before: Tensor
    """(2, B, K), the node before on that path, -1 where that is the start, or the end"""
    neighbours: Tensor
    """(K, m), the nodes next to each, with itself"""

    def around(self, line: Tensor, sought: Tensor, smoothings: int, most: int) -> tuple[Tensor, Tensor, Tensor]:
        """For those pairs whose paths are ``sought (B,)`` the shortest one, for others the ``line (B, n + 1, d)``; and
        paths beside the shortest ``(m, n + 1, d)`` with their owners ``(m,)``, at most ``most - 1`` a pair.

        The next path leads by way of the node of the least detour among those that are off all earlier paths and of a
        less detour than all nodes around: such a node lies in a valley of its own.
        """
        length = self.reached.sum(0)
        others = length
        if most > 1:
            least = length[:, self.neighbours].amin(-1)
            others = torch.where(length <= least * (1 + _ROUNDED), length, torch.inf)
        rows = sought.nonzero()[:, 0]
        limit = torch.full_like(length[:, 0], torch.finfo(length.dtype).max)
        apart = torch.zeros_like(limit)
        paths, owners = [line], [torch.arange(len(line), device=line.device)]
        for k in range(most):
            shortest, by = (others if k else length)[rows].min(-1)
            found = (shortest <= limit[rows]).nonzero()[:, 0]
            rows, by = rows[found], by[found]
            if not len(rows):
                break
            path = self._by_way_of(rows, by, line.shape[1] - 1, smoothings)
            if k == 0:
                limit[rows] = (1 + _LONGER) * shortest[found]
                apart[rows] = _APART * path.diff(dim=1).norm(dim=-1).sum(-1)
            if k + 1 < most:
                near = torch.cdist(self.nodes[rows], path).amin(-1) < apart[rows].unsqueeze(-1)
                others[rows] = others[rows].masked_fill(near, torch.inf)
            path = torch.cat([line[rows, :1], path[:, 1:-1].to(line), line[rows, -1:]], dim=1)
            if k == 0:
                paths[0] = line.index_copy(0, rows, path)
            else:
                paths.append(path)
                owners.append(rows)
        return paths[0], torch.cat([line[:0], *paths[1:]]), torch.cat([owners[0][:0], *owners[1:]])

    def _by_way_of(self, rows: Tensor, node: Tensor, n_segments: int, smoothings: int) -> Tensor:
        """The shortest paths ``(b, n_segments + 1, d)`` of pairs ``rows (b,)`` through their nodes ``(b,)``."""
        halves = []
        for ends, reached, before in zip((self.start, self.end), self.reached, self.before, strict=True):
            here, corners, lengths = node, [], []
            while bool((here >= 0).any()):
                at, there = here.clamp_min(0), here >= 0
                corners.append(torch.where(there.unsqueeze(1), self.nodes[rows, at], ends[rows]))
                lengths.append(torch.where(there, reached[rows, at], 0.0))
                here = torch.where(there, before[rows, at], here)
            corners.append(ends[rows])
            lengths.append(torch.zeros_like(lengths[0]))
            halves.append((torch.stack(corners, dim=1), torch.stack(lengths, dim=1)))
        (first, there), (second, back) = halves
        corners = torch.cat([first.flip(1), second[:, 1:]], dim=1)
        edges = torch.cat([there.flip(1).diff(dim=1), -back.diff(dim=1)], dim=1)
        return smoothed_polygon(corners, edges, n_segments, smoothings)


def smoothed_polygon(corners: Tensor, lengths: Tensor, n_segments: int, times: int = SMOOTHINGS) -> Tensor:
    """Points ``(B, n_segments + 1, d)`` at equal steps of length along polygons ``(B, k + 1, d)`` with edges of these
    lengths ``(B, k)``, smoothed so many times."""
    k = lengths.shape[-1]
    t = torch.linspace(0, 1, k + 1, dtype=corners.dtype, device=corners.device).expand(len(corners), -1)
    even = even_parameters(t, lengths, n_segments) * k
    left = even.floor().long().clamp(0, k - 1)
    first, second = (corners.gather(1, (left + i).unsqueeze(-1).expand(-1, -1, corners.shape[-1])) for i in (0, 1))
    points = torch.lerp(first, second, (even - left).unsqueeze(-1))
    for _ in range(times):
        points[:, 1:-1] = (points[:, :-2] + 2 * points[:, 1:-1] + points[:, 2:]) / 4
    return points


def subdivided(points: Tensor, pieces: int) -> Tensor:
    """Polygons ``(B, n + 1, d)`` with every edge cut into pieces."""
    weight = torch.arange(pieces, dtype=points.dtype, device=points.device).unsqueeze(-1) / pieces
    cut = torch.lerp(points[:, :-1].unsqueeze(2), points[:, 1:].unsqueeze(2), weight).flatten(1, 2)
    return torch.cat([cut, points[:, -1:]], dim=1)


def length_or_infinity(metric: RiemannianMetric, points: Tensor) -> Tensor:
    """Lengths ``(B,)`` of curves, infinite where the metric is not finite on them."""
    if not len(points):
        return points.new_empty(0)
    try:
        return metric.length(points)
    except checks.NotFiniteError:
        if len(points) == 1:
            return points.new_full((1,), torch.inf)
        return torch.cat([length_or_infinity(metric, part) for part in points.tensor_split(2)])
