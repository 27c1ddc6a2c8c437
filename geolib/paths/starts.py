"""Initial curves that go around obstacles, from shortest paths over a graph of encoded data."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import KDTree
from torch import Tensor

from geolib import checks
from geolib.curves import straight
from geolib.paths.arrays import to_numpy
from geolib.paths.measure import even_parameters
from geolib.riemannian import Metric, RiemannianMetric, as_metric

_N_NEIGHBORS, _MAX_NODES = 10, 2000
_EDGE_SEGMENTS = 4
_PATH_SEGMENTS = 16
_SMOOTHINGS = 2
_WORTHWHILE = 0.99
_EDGES_AT_ONCE = 2**14
_CELLS = 8  # of a lattice, along the line between two points, or up to twice as many
_DETOUR = 1.5  # nodes lie where the way over them is no longer than this, in latent lengths of the line
_LATTICES_AT_ONCE = 2**10
_SWEEPS_SEEN = 4  # a search looks for its end after so many
_LATTICE_SMOOTHINGS = 6  # a lattice has corners that are its own
_DIRECTIONS = ((1, 0), (0, 1), (1, 1), (1, -1))


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


class LatentGraph:
    r"""The graph that joins each latent to its nearest neighbours by straight edges, weighted by Riemannian length.

    Args:
        metric: a ``PullbackMetric``, or any callable ``z (..., d) -> M (..., d, d)``.
        latents: ``(n, d)``, such as the encoded data, or the points of a grid.
        n_neighbors: neighbours (nearest in latent space) that each latent is joined to.
        max_nodes: of more latents than that, so many are drawn, without replacement.
        seed: of that draw.

    Raises:
        TypeError, ValueError: for arguments of the wrong type, shape or range; for a metric that is not finite on an
            edge.

    Source:
        Danielou et al. 2024, Sec. 3.3; Chen et al. 2019.
    """

    def __init__(
        self,
        metric: Metric,
        latents: Tensor,
        *,
        n_neighbors: int = _N_NEIGHBORS,
        max_nodes: int = _MAX_NODES,
        seed: int = 0,
    ):
        checks.latent_points("latents", latents, min_points=1)
        if latents.ndim != 2:
            raise ValueError(f"latents: got shape {tuple(latents.shape)}, expected (n, d)")
        checks.integer("n_neighbors", n_neighbors, at_least=1)
        checks.integer("max_nodes", max_nodes, at_least=1)
        self._build(as_metric(metric), latents, n_neighbors, max_nodes, checks.integer("seed", seed, at_least=0))

    @classmethod
    def trusted(cls, metric: RiemannianMetric, latents: Tensor) -> "LatentGraph":
        """The graph with default settings, over latents that need no check."""
        graph = cls.__new__(cls)
        graph._build(metric, latents, _N_NEIGHBORS, _MAX_NODES, 0)
        return graph

    def _build(self, metric: RiemannianMetric, latents: Tensor, n_neighbors: int, max_nodes: int, seed: int) -> None:
        self.n_neighbors = n_neighbors
        self.metric = metric
        self.nodes = latents.detach()
        if len(latents) > max_nodes:
            generator = torch.Generator().manual_seed(seed)
            chosen = torch.randperm(len(latents), generator=generator)[:max_nodes].sort().values
            self.nodes = self.nodes[chosen.to(latents.device)]
        self._tree = KDTree(to_numpy(self.nodes))
        a, b = self._nearest(self.nodes, n_neighbors + 1)
        # Each edge counts once. A latent is its own nearest neighbour; equal latents are joined by edges of length 0.
        pairs = np.unique(np.sort(np.stack([a, b]), axis=0)[:, a != b], axis=1)
        self._edges = (*pairs, self._lengths(self.nodes[pairs[0]], self.nodes[pairs[1]]))

    def paths(self, start: Tensor, end: Tensor, *, n_segments: int = _PATH_SEGMENTS) -> Paths:
        """Initial curves between pairs of points.

        Args:
            start: ``(B, d)``.
            end: ``(B, d)``; both are joined to their nearest latents.
            n_segments: of the paths.

        Returns:
            the paths, smoothed, and how they compare to straight lines.
        """
        for name, z in (("start", start), ("end", end)):
            checks.latent_points(name, z)
            checks.same_kind(name, z, "latents", self.nodes)
            if z.ndim != 2 or z.shape[-1] != self.nodes.shape[-1]:
                raise ValueError(f"{name}: got shape {tuple(z.shape)}, expected (B, {self.nodes.shape[-1]})")
        return self.trusted_paths(start, end, n_segments)

    def trusted_paths(self, start: Tensor, end: Tensor, n_segments: int = _PATH_SEGMENTS) -> Paths:
        """``paths`` between points ``(B, d)`` that need no check."""
        n, n_pairs = len(self.nodes), len(start)
        both = torch.cat([start, end])
        outer, inner = self._nearest(both, self.n_neighbors)
        a, b, lengths = self._edges
        edges = np.concatenate([lengths, lengths, self._lengths(both[outer], self.nodes[inner])])
        # scipy takes an explicit zero for no edge
        edges = np.maximum(edges, np.finfo(np.float64).tiny)
        # One way out of a start and one way into an end: a path must not run through the ends of other pairs, or it
        # would depend on what else is asked.
        leaves = outer < n_pairs
        rows = np.concatenate([a, b, np.where(leaves, outer + n, inner)])
        columns = np.concatenate([b, a, np.where(leaves, inner, outer + n)])
        graph = csr_array((edges, (rows, columns)), shape=(n + 2 * n_pairs,) * 2)
        starts = np.arange(n, n + n_pairs)
        distance, before = dijkstra(graph, indices=starts, return_predecessors=True)
        position = to_numpy(torch.cat([self.nodes, both]))

        guess = straight(start, end, n_segments)
        arrival = distance[np.arange(n_pairs), starts + n_pairs]
        direct = self._lengths(start, end, n_segments=_EDGE_SEGMENTS * n_segments)
        for i in np.nonzero(arrival < direct)[0]:
            path = [starts[i] + n_pairs]
            while path[-1] != starts[i]:
                path.append(before[i, path[-1]])
            path = path[::-1]
            corners, reached = torch.from_numpy(position[path]), torch.from_numpy(distance[i, path])
            guess[i] = smoothed_polygon(corners[None], reached.diff()[None], n_segments)[0].to(guess)
        guess[:, 0], guess[:, -1] = start, end
        length = to_numpy(self.metric.length(_subdivided(guess)))
        shorter, connected = length <= _WORTHWHILE * direct, np.isfinite(arrival)
        return Paths(guess, *(torch.from_numpy(x).to(start.device) for x in (shorter & connected, connected)))

    def _nearest(self, z: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices of points, and of their k nearest nodes, one pair an edge."""
        k = min(k, len(self.nodes))
        found = self._tree.query(to_numpy(z), k=k)[1].reshape(-1)
        return np.repeat(np.arange(len(z)), k), found

    def _lengths(self, a: Tensor, b: Tensor, n_segments: int = _EDGE_SEGMENTS) -> np.ndarray:
        parts = [
            self.metric.length(straight(p, q, n_segments))
            for p, q in zip(a.split(_EDGES_AT_ONCE), b.split(_EDGES_AT_ONCE), strict=True)
            if len(p)
        ]
        return to_numpy(torch.cat(parts)) if len(a) else np.empty(0)


def lattice_paths(metric: RiemannianMetric, start: Tensor, end: Tensor, n_segments: int = _PATH_SEGMENTS) -> Paths:
    """Initial curves between points of the plane ``(B, 2)``, where no latents are given.

    Shortest paths over a square lattice around each pair, whose spacing is a power of two next to an eighth of the
    pair's distance: pairs share nodes, and yet each has the path that it would have alone. Edges have the length that
    the metric at their two ends gives them. No path is sought where the chord of the images says that none can be
    shorter than the line by 1 %.
    """
    points = straight(start, end, n_segments)
    shorter = torch.zeros(len(start), dtype=torch.bool, device=start.device)
    direct = metric.length(_subdivided(points, 2))
    size = (end - start).norm(dim=-1)
    worth = (metric.chord(start, end) < _WORTHWHILE * direct) & (size > 0)
    level = torch.floor(torch.log2(size.double().clamp_min(torch.finfo(torch.float64).tiny) / _CELLS))
    for several in level[worth].unique().tolist():
        for rows in (worth & (level == several)).nonzero()[:, 0].split(_LATTICES_AT_ONCE):
            points[rows] = _over_lattice(metric, start[rows], end[rows], points[rows], 2.0**several)
    points[:, 0], points[:, -1] = start, end
    moved = worth.nonzero()[:, 0]
    if len(moved):
        length = _length_or_infinity(metric, _subdivided(points[moved], 2))
        shorter[moved] = length <= _WORTHWHILE * direct[moved]
    return Paths(points, shorter, torch.ones_like(shorter))


def _over_lattice(metric: RiemannianMetric, start: Tensor, end: Tensor, line: Tensor, spacing: float) -> Tensor:
    """Smoothed paths ``(B, n_segments + 1, 2)``, the ``line`` where the lattice does not connect a pair."""
    a, b = start.double(), end.double()
    middle = ((a + b) / 2 / spacing).round()
    reach = math.ceil(_DETOUR * _CELLS) + 1  # the longest line has twice as many cells
    n_side = 2 * reach + 1
    side = torch.arange(-reach, reach + 1).to(middle)
    nodes = (middle.unsqueeze(1) + torch.cartesian_prod(side, side)) * spacing  # (B, K, 2)
    around = (nodes - a.unsqueeze(1)).norm(dim=-1) + (nodes - b.unsqueeze(1)).norm(dim=-1)
    inside = around <= _DETOUR * (b - a).norm(dim=-1, keepdim=True)
    shared, which = torch.unique(nodes[inside], dim=0, return_inverse=True)
    z = shared.to(start)
    M = torch.cat([metric.unchecked(part) for part in z.split(metric.points_at_once(z))]).double()
    M = torch.cat([M, torch.full_like(M[:1], torch.inf)])  # of all nodes that are outside
    number = torch.full(inside.shape, len(z), device=z.device)
    number[inside] = which

    steps = torch.tensor(_DIRECTIONS, dtype=torch.float64, device=z.device)
    half = _norms(M.unsqueeze(1), steps * spacing)[number] / 2  # (B, K, 4), of a step in each direction
    half = half.reshape(len(a), n_side, n_side, len(_DIRECTIONS))
    # the ends are joined to the corners of the cells that they lie in
    corner = torch.cartesian_prod(torch.arange(2), torch.arange(2)).to(middle)
    reached, joined = [], []
    for point in (a, b):
        at = ((point / spacing).floor() - middle + reach).unsqueeze(1) + corner
        at = (at[..., 0] * n_side + at[..., 1]).long()  # (B, 4)
        away = nodes.gather(1, at.unsqueeze(-1).expand(-1, -1, 2)) - point.unsqueeze(1)
        reached.append(_norms(M[number.gather(1, at)], away))
        joined.append(at)
    distance = torch.full_like(around, torch.inf).scatter(1, joined[0], reached[0])
    distance, before = _relaxed(distance.reshape(half.shape[:3]), half)
    arrival, last = (distance.gather(1, joined[1]) + reached[1]).min(1)
    last = joined[1].gather(1, last.unsqueeze(1))[:, 0]

    # from the end back to the start, where nothing comes before
    corners, lengths = [b], [arrival]
    everyone = torch.arange(len(a), device=z.device)
    while bool((last >= 0).any()):
        here = last.clamp_min(0)
        there = (last >= 0).unsqueeze(1)
        corners.append(torch.where(there, nodes[everyone, here], a))
        lengths.append(torch.where(there[:, 0], distance[everyone, here], 0.0))
        last = torch.where(last >= 0, before[everyone, here], last)
    corners, lengths = torch.stack([*corners, a], dim=1), torch.stack([*lengths, torch.zeros_like(arrival)], dim=1)
    path = smoothed_polygon(corners.flip(1), lengths.flip(1).diff(dim=1), line.shape[1] - 1, _LATTICE_SMOOTHINGS)
    return torch.where(torch.isfinite(arrival)[:, None, None], path.to(line), line)


def _relaxed(distance: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """Distances over lattices ``(B, K)`` from those ``(B, S, S)`` of the first nodes, and the node before each, -1 for
    none. ``half (B, S, S, 4)`` holds half the length of a step from each node in each direction."""
    n_side = distance.shape[-1]
    number = torch.arange(n_side**2, device=distance.device).reshape(n_side, n_side)
    before = torch.full(distance.shape, -1, device=distance.device)
    edges = []
    for k, (i, j) in enumerate(_DIRECTIONS):
        tail = (..., slice(0, n_side - i), slice(max(0, -j), n_side - max(0, j)))
        head = (..., slice(i, n_side), slice(max(0, j), n_side - max(0, -j)))
        length = half[..., k][tail] + half[..., k][head]
        edges += [(tail, head, length), (head, tail, length)]
    for sweep in range(n_side**2):
        old = distance.clone()
        for here, there, length in edges:
            through = distance[here] + length
            better = through < distance[there]
            distance[there] = torch.where(better, through, distance[there])
            before[there] = torch.where(better, number[here[1:]], before[there])
        if sweep % _SWEEPS_SEEN == 0 and torch.equal(old, distance):
            break
    return distance.flatten(1), before.flatten(1)


def _norms(M: Tensor, v: Tensor) -> Tensor:
    """Length of vectors ``(..., 2)`` by metric tensors ``(..., 2, 2)``: infinite where it is not a number."""
    squares = torch.einsum("...i,...ij,...j->...", v, M, v)
    return squares.clamp_min(0).sqrt().nan_to_num(torch.inf, torch.inf)


def _length_or_infinity(metric: RiemannianMetric, points: Tensor) -> Tensor:
    """Lengths ``(B,)`` of curves, infinite where the metric is not finite on them."""
    try:
        return metric.length(points)
    except ValueError:
        if len(points) == 1:
            return points.new_full((1,), torch.inf)
        return torch.cat([_length_or_infinity(metric, part) for part in points.split(1)])


def _subdivided(points: Tensor, pieces: int = _EDGE_SEGMENTS) -> Tensor:
    """Polygons ``(B, n + 1, d)`` with every edge cut into pieces."""
    weight = torch.arange(pieces, dtype=points.dtype, device=points.device).unsqueeze(-1) / pieces
    cut = torch.lerp(points[:, :-1].unsqueeze(2), points[:, 1:].unsqueeze(2), weight).flatten(1, 2)
    return torch.cat([cut, points[:, -1:]], dim=1)


def smoothed_polygon(corners: Tensor, lengths: Tensor, n_segments: int, times: int = _SMOOTHINGS) -> Tensor:
    """Points ``(B, n_segments + 1, d)`` at equal steps of length along polygons ``(B, k + 1, d)`` with edges of these
    lengths ``(B, k)``, smoothed."""
    k = lengths.shape[-1]
    t = torch.linspace(0, 1, k + 1, dtype=corners.dtype, device=corners.device).expand(len(corners), -1)
    even = even_parameters(t, lengths, n_segments) * k
    left = even.floor().long().clamp(0, k - 1)
    first, second = (corners.gather(1, (left + i).unsqueeze(-1).expand(-1, -1, corners.shape[-1])) for i in (0, 1))
    points = torch.lerp(first, second, (even - left).unsqueeze(-1))
    for _ in range(times):
        points[:, 1:-1] = (points[:, :-2] + 2 * points[:, 1:-1] + points[:, 2:]) / 4
    return points
