"""Initial curves in the plane where no latents are given: shortest paths over a lattice around each pair."""

import math

import torch
from torch import Tensor

from geolib.curves import straight
from geolib.paths.starts.routes import PATH_SEGMENTS, WORTHWHILE, Paths, Routes, length_or_infinity, subdivided
from geolib.riemannian import RiemannianMetric

_CELLS = 8  # of a lattice, along the line between two points, or up to twice as many
_DETOUR = 1.5  # nodes lie where the way over them is no longer than this, in latent lengths of the line
_LATTICES_AT_ONCE = 2**10
_RELAXED_AT_ONCE = 2**5  # lattices that fit the cache
_SWEEPS_SEEN = 4  # a search looks for its end after so many
_SMOOTHINGS = 6  # a lattice has corners that are its own
_LEAST_STEP = 1e-12  # relative to the longest one
_DIRECTIONS = ((1, 0), (0, 1), (1, 1), (1, -1))


@torch.no_grad()
def lattice_paths(
    metric: RiemannianMetric, start: Tensor, end: Tensor, n_segments: int = PATH_SEGMENTS, most: int = 1
) -> Paths:
    """Initial curves between points of the plane ``(B, 2)``, where no latents are given.

    Shortest paths over a square lattice around each pair, whose spacing is a power of two next to an eighth of the
    pair's distance: pairs share nodes, and yet each has the path that it would have alone. Edges have the length that
    the metric at their two ends gives them. No path is sought where the chord of the images says that none can be
    shorter than the line by 1 %.
    """
    line = straight(start, end, n_segments)
    direct = metric.length(subdivided(line, 2))
    size = (end - start).norm(dim=-1)
    worth = (metric.chord(start, end) < WORTHWHILE * direct) & (size > 0)
    level = torch.floor(torch.log2(size.double().clamp_min(torch.finfo(torch.float64).tiny) / _CELLS))
    points, beside, owner = line.clone(), [line[:0]], [torch.arange(0, device=line.device)]
    for several in level[worth].unique().tolist():
        for rows in (worth & (level == several)).nonzero()[:, 0].split(_LATTICES_AT_ONCE):
            routes = _over_lattice(metric, start[rows], end[rows], 2.0**several)
            everyone = torch.ones_like(rows, dtype=torch.bool)
            points[rows], others, whose = routes.around(line[rows], everyone, _SMOOTHINGS, most)
            beside.append(others)
            owner.append(rows[whose])
    beside, owner = torch.cat(beside), torch.cat(owner)
    moved = worth.nonzero()[:, 0]
    length = length_or_infinity(metric, subdivided(torch.cat([points[moved], beside]), 2))
    better = length <= WORTHWHILE * direct[torch.cat([moved, owner])]
    shorter = torch.zeros_like(worth).index_copy(0, moved, better[: len(moved)])
    kept = better[len(moved) :]
    return Paths(points, shorter, torch.ones_like(shorter), beside[kept], owner[kept])


def _over_lattice(metric: RiemannianMetric, start: Tensor, end: Tensor, spacing: float) -> Routes:
    """The routes over lattices around pairs ``(B, 2)`` with the same spacing."""
    a, b = start.double(), end.double()
    middle = ((a + b) / 2 / spacing).round()
    reach = math.ceil(_DETOUR * _CELLS) + 1  # the longest line has twice as many cells
    n_side = 2 * reach + 1
    side = torch.arange(-reach, reach + 1).to(middle)
    nodes = (middle.unsqueeze(1) + torch.cartesian_prod(side, side)) * spacing  # (B, K, 2)
    around = (nodes - a.unsqueeze(1)).norm(dim=-1) + (nodes - b.unsqueeze(1)).norm(dim=-1)
    inside = around <= _DETOUR * (b - a).norm(dim=-1, keepdim=True)
    shared, which = _distinct(nodes[inside])
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
    first = []
    for point in (a, b):
        at = ((point / spacing).floor() - middle + reach).unsqueeze(1) + corner
        at = (at[..., 0] * n_side + at[..., 1]).long()  # (B, 4)
        away = nodes.gather(1, at.unsqueeze(-1).expand(-1, -1, 2)) - point.unsqueeze(1)
        first.append(torch.full_like(around, torch.inf).scatter(1, at, _norms(M[number.gather(1, at)], away)))
    first = torch.stack(first).reshape(2, *half.shape[:3])
    from_middle = torch.cartesian_prod(side, side).abs().amax(-1)
    extent = torch.where(inside, from_middle, 0).amax(-1).long()
    reached, before = torch.full_like(first, torch.inf), torch.full(first.shape, -1, device=z.device)
    node = torch.arange(n_side**2, device=z.device).reshape(n_side, n_side)
    for rows in extent.argsort(stable=True).split(_RELAXED_AT_ONCE):  # those of like extent together
        widest = int(extent[rows[-1]])
        middle = slice(reach - widest, reach + widest + 1)
        part = (slice(None), rows, middle, middle)
        reached[part], before[part] = _relaxed(first[part], half[part[1:]], node[part[2:]])
    reached, before = reached.flatten(-2), before.flatten(-2)
    # where the lattice ends a node's neighbours are on its border
    at = torch.arange(n_side, device=z.device)
    row, column = ((at.unsqueeze(-1) + torch.arange(-1, 2, device=z.device)).clamp(0, n_side - 1) for _ in range(2))
    neighbours = (row[:, None, :, None] * n_side + column[None, :, None, :]).reshape(n_side**2, 9)
    return Routes(a, b, nodes, reached, before, neighbours)


def _relaxed(distance: Tensor, half: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
    """Distances over lattices ``(2, B, S, S)`` from those of the first nodes, and the ``number (S, S)`` of the node
    before each, -1 for none. ``half (B, S, S, 4)`` holds half the length of a step from each node in each direction."""
    n_side = distance.shape[-1]
    # steps without length would leave open which of two nodes is before the other
    least = _LEAST_STEP * half.masked_fill(half.isinf(), 0).flatten(1).amax(-1)[:, None, None]
    edges = []
    for k, (i, j) in enumerate(_DIRECTIONS):
        tail = (..., slice(0, n_side - i), slice(max(0, -j), n_side - max(0, j)))
        head = (..., slice(i, n_side), slice(max(0, j), n_side - max(0, -j)))
        length = torch.maximum(half[..., k][tail] + half[..., k][head], least)
        through = distance.new_empty(distance[tail].shape)
        edges += [(tail, head, length, through), (head, tail, length, through)]
    distance = distance.clone()
    for sweep in range(n_side**2):
        old = distance.clone() if sweep % _SWEEPS_SEEN == 0 else None
        for here, there, length, through in edges:
            torch.add(distance[here], length, out=through)
            torch.minimum(distance[there], through, out=distance[there])
        if old is not None and torch.equal(old, distance):
            break
    before = torch.full(distance.shape, -1, device=distance.device)
    for here, there, length, _ in edges:
        reached = (distance[here] + length == distance[there]) & (distance[here] < distance[there])
        before[there] = torch.where(reached, number[here[1:]], before[there])
    return distance, before


def _distinct(points: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct ones of ``points (n, 2)``, and which of these each is ``(n,)``: a column at a time, which is much
    faster than rows."""
    (x, column), (y, row) = (torch.unique(values, return_inverse=True) for values in points.unbind(-1))
    cells, which = torch.unique(column * len(y) + row, return_inverse=True)
    return torch.stack([x[cells // len(y)], y[cells % len(y)]], dim=-1), which


def _norms(M: Tensor, v: Tensor) -> Tensor:
    """Length of vectors ``(..., 2)`` by metric tensors ``(..., 2, 2)``: infinite where it is not a number."""
    squares = torch.einsum("...i,...ij,...j->...", v, M, v)
    return squares.clamp_min(0).sqrt().nan_to_num(torch.inf, torch.inf)
