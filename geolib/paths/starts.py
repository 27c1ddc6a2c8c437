"""Initial curves that go around obstacles, from shortest paths over a graph of encoded data."""

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
            guess[i] = smoothed_polygon(corners, reached.diff(), n_segments).to(guess)
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


def _subdivided(points: Tensor) -> Tensor:
    """Polygons ``(B, n + 1, d)`` with every edge cut into pieces."""
    weight = torch.arange(_EDGE_SEGMENTS, dtype=points.dtype, device=points.device).unsqueeze(-1) / _EDGE_SEGMENTS
    pieces = torch.lerp(points[:, :-1].unsqueeze(2), points[:, 1:].unsqueeze(2), weight).flatten(1, 2)
    return torch.cat([pieces, points[:, -1:]], dim=1)


def smoothed_polygon(corners: Tensor, lengths: Tensor, n_segments: int) -> Tensor:
    """Points at equal steps of length along a polygon ``(k + 1, d)`` with edges of these lengths, smoothed."""
    t = torch.linspace(0, 1, len(corners), dtype=corners.dtype)
    even = even_parameters(t.unsqueeze(0), lengths.unsqueeze(0), n_segments)[0] * (len(corners) - 1)
    left = even.floor().long().clamp(0, len(corners) - 2)
    points = torch.lerp(corners[left], corners[left + 1], (even - left).unsqueeze(-1))
    for _ in range(_SMOOTHINGS):
        points[1:-1] = (points[:-2] + 2 * points[1:-1] + points[2:]) / 4
    return points
