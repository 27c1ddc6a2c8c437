"""Initial curves that go around obstacles: shortest paths over a graph of encoded data."""

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import KDTree
from torch import Tensor

from geolib import checks
from geolib.curves import straight
from geolib.paths.arrays import to_numpy
from geolib.paths.starts.routes import (
    PATH_SEGMENTS,
    SMOOTHINGS,
    WORTHWHILE,
    Paths,
    Routes,
    length_or_infinity,
    subdivided,
)
from geolib.riemannian import Metric, RiemannianMetric, as_metric

_N_NEIGHBORS, _MAX_NODES = 10, 2000
_EDGE_SEGMENTS = 4
_EDGES_AT_ONCE, _PAIRS_AT_ONCE = 2**14, 2**8


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
        self._build(as_metric(metric), latents, n_neighbors, max_nodes, checks.seed(seed))
        a, b, lengths = self._edges
        checks.finite("metric on an edge", torch.from_numpy(lengths), at=((self.nodes[a] + self.nodes[b]) / 2).cpu())

    @classmethod
    def trusted(cls, metric: RiemannianMetric, latents: Tensor) -> "LatentGraph":
        """The graph with default settings, over latents that need no check, without edges on which the metric is not
        finite."""
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
        self._neighbours = torch.from_numpy(b.reshape(len(self.nodes), -1))
        # Each edge counts once. A latent is its own nearest neighbour; equal latents are joined by edges of length 0.
        pairs = np.unique(np.sort(np.stack([a, b]), axis=0)[:, a != b], axis=1)
        self._edges = (*pairs, self._lengths(self.nodes[pairs[0]], self.nodes[pairs[1]]))

    def paths(self, start: Tensor, end: Tensor, *, n_segments: int = PATH_SEGMENTS) -> Paths:
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

    def trusted_paths(self, start: Tensor, end: Tensor, n_segments: int = PATH_SEGMENTS, most: int = 1) -> Paths:
        """``paths`` between points ``(B, d)`` that need no check, and others beside them: at most so many a pair."""
        parts = [
            self._paths(a, b, n_segments, most)
            for a, b in zip(start.split(_PAIRS_AT_ONCE), end.split(_PAIRS_AT_ONCE), strict=True)
        ]
        return Paths.joined(parts)

    def _paths(self, start: Tensor, end: Tensor, n_segments: int, most: int) -> Paths:
        n, n_pairs = len(self.nodes), len(start)
        both = torch.cat([start, end])
        outer, inner = self._nearest(both, self.n_neighbors)
        a, b, lengths = self._edges
        edges = np.concatenate([lengths, lengths, self._lengths(both[outer], self.nodes[inner])])
        # scipy takes an explicit zero for no edge
        edges = np.maximum(edges, np.finfo(np.float64).tiny)
        # One way out of every point and none into it: a path must not run through the ends of other pairs, or it would
        # depend on what else is asked.
        rows, columns = np.concatenate([a, b, outer + n]), np.concatenate([b, a, inner])
        graph = csr_array((edges, (rows, columns)), shape=(n + 2 * n_pairs,) * 2)
        reached, before = dijkstra(graph, indices=np.arange(n, n + 2 * n_pairs), return_predecessors=True)
        before = np.where(before < n, before, -1)
        reached, before = (
            torch.from_numpy(x[:, :n]).reshape(2, n_pairs, n).to(start.device) for x in (reached, before)
        )

        nodes = self.nodes.double().expand(n_pairs, -1, -1)
        line = straight(start, end, n_segments)
        direct = self.metric.length(subdivided(line, _EDGE_SEGMENTS))
        arrival = reached.sum(0).amin(-1)
        routes = Routes(start.double(), end.double(), nodes, reached, before, self._neighbours.to(start.device))
        points, beside, owner = routes.around(line, arrival < direct, SMOOTHINGS, most)
        length = length_or_infinity(self.metric, subdivided(torch.cat([points, beside]), _EDGE_SEGMENTS))
        shorter, kept = (length <= WORTHWHILE * torch.cat([direct, direct[owner]])).tensor_split([n_pairs])
        connected = torch.isfinite(arrival)
        return Paths(points, shorter & connected, connected, beside[kept], owner[kept])

    def _nearest(self, z: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices of points, and of their k nearest nodes, one pair an edge."""
        k = min(k, len(self.nodes))
        found = self._tree.query(to_numpy(z), k=k)[1].reshape(-1)
        return np.repeat(np.arange(len(z)), k), found

    def _lengths(self, a: Tensor, b: Tensor) -> np.ndarray:
        parts = [
            length_or_infinity(self.metric, straight(p, q, _EDGE_SEGMENTS))
            for p, q in zip(a.split(_EDGES_AT_ONCE), b.split(_EDGES_AT_ONCE), strict=True)
            if len(p)
        ]
        return to_numpy(torch.cat(parts)) if len(a) else np.empty(0)
