"""LatentGraph, and the starts that are built on it."""

import math

import pytest
import torch
from problems import deviation, flat_plane, half_plane, linear_decoder, linear_map, mlp, sphere, two_ridges, wall_metric
from promises import assert_keeps_its_promises

from geolib import LatentGraph, PullbackMetric, Status, curve_length, geodesic
from geolib.paths.starts.bows import bowed_ways
from geolib.paths.starts.lattice import lattice_paths
from geolib.riemannian import as_metric

pytestmark = pytest.mark.smoke

DTYPE = torch.float64
IDENTITY = PullbackMetric(lambda z: z * 1.0)


def pairs(n, generator, d=2):
    return torch.randn(2, n, d, generator=generator, dtype=DTYPE)


def grid(n, low=-1.5, high=1.5):
    axis = torch.linspace(low, high, n, dtype=DTYPE)
    return torch.cartesian_prod(axis, axis)


def test_paths_run_from_start_to_end(generator):
    metric = PullbackMetric(mlp(), deviation())
    start, end = pairs(12, generator)
    paths = LatentGraph(metric, torch.randn(300, 2, generator=generator, dtype=DTYPE)).paths(start, end)
    guess = paths.points
    assert guess.shape == (12, 17, 2)
    assert guess.dtype == DTYPE
    assert torch.equal(guess[:, 0], start)
    assert torch.equal(guess[:, -1], end)
    assert paths.connected.all()


def test_a_path_does_not_depend_on_the_other_pairs(generator):
    """Of a hundred pairs, each asked for alone, from the other side, and among the others."""
    metric = PullbackMetric(mlp(), deviation())
    start, end = pairs(100, generator)
    graph = LatentGraph(metric, torch.randn(300, 2, generator=generator, dtype=DTYPE))
    together, back = graph.paths(start, end), graph.paths(end, start)
    assert together.shorter.sum() > 10
    torch.testing.assert_close(back.points.flip(1), together.points, rtol=1e-9, atol=1e-9)
    for i in range(100):
        alone = graph.paths(start[i : i + 1], end[i : i + 1])
        torch.testing.assert_close(alone.points[0], together.points[i], rtol=1e-9, atol=1e-9)
        assert alone.shorter[0] == together.shorter[i] and alone.connected[0] == together.connected[i]


def test_paths_are_the_shortest_in_the_graph(generator):
    """Against a search of its own over the same nodes and neighbours, by relaxing every edge."""
    nodes = torch.rand(40, 2, generator=generator, dtype=DTYPE)
    start, end = nodes[:8] + 1e-3, nodes[-8:] - 1e-3
    hill = PullbackMetric(lambda z: torch.cat([z, 3 * torch.exp(-20 * (z - 0.5).square().sum(-1, keepdim=True))], -1))

    def edge(p, q):
        return curve_length(hill, torch.lerp(p, q, torch.linspace(0, 1, 5, dtype=DTYPE)[:, None]))

    def nearest(z, k):
        return (nodes - z).norm(dim=-1).argsort()[:k].tolist()

    edges = {(i, j): edge(nodes[i], nodes[j]) for i in range(40) for j in nearest(nodes[i], 5)}
    around = 0
    for s, e, points in zip(start, end, LatentGraph(hill, nodes, n_neighbors=4).paths(start, end).points, strict=True):
        reached = torch.full((40,), torch.inf, dtype=DTYPE)
        for i in nearest(s, 4):
            reached[i] = edge(s, nodes[i])
        for _ in range(40):
            for (i, j), length in edges.items():
                reached[j] = min(reached[j], reached[i] + length)
                reached[i] = min(reached[i], reached[j] + length)
        arrival = min(reached[i] + edge(nodes[i], e) for i in nearest(e, 4))
        line = curve_length(hill, torch.lerp(s, e, torch.linspace(0, 1, 65, dtype=DTYPE)[:, None]))
        # smoothing cuts the corners, and a path that is longer than the line is replaced by it
        assert curve_length(hill, points) <= min(arrival, line) * 1.02
        around += int(arrival < 0.9 * line)
    assert around >= 2


def test_a_path_is_never_much_longer_than_the_line(generator):
    metric = PullbackMetric(mlp(), deviation())
    start, end = pairs(30, generator)
    paths = LatentGraph(metric, torch.randn(500, 2, generator=generator, dtype=DTYPE)).paths(start, end)
    guess = paths.points
    t = torch.linspace(0, 1, 65, dtype=DTYPE)[:, None]
    line = curve_length(metric, torch.lerp(start[:, None], end[:, None], t))
    fine = torch.lerp(guess[:, :-1, None], guess[:, 1:, None], t[:-1:8]).flatten(1, 2)
    assert (curve_length(metric, fine) <= 1.05 * line).all()
    shorter = curve_length(metric, fine) < 0.99 * line
    assert shorter.any()
    assert (shorter == paths.shorter).double().mean() > 0.8


def test_in_flat_space_the_line_is_the_guess(generator):
    start, end = pairs(5, generator)
    paths = LatentGraph(flat_plane().metric, torch.randn(50, 2, generator=generator, dtype=DTYPE)).paths(start, end)
    guess = paths.points
    assert not paths.shorter.any()
    t = torch.linspace(0, 1, 17, dtype=DTYPE)[:, None]
    torch.testing.assert_close(guess, torch.lerp(start[:, None], end[:, None], t))


@pytest.mark.slow
@pytest.mark.parametrize("init", ["graph", "best"])
def test_a_graph_leads_around_a_wall(init):
    """A ring of latents around a hill that the straight line climbs, and would sit on top of for good."""
    hill = PullbackMetric(lambda z: torch.cat([z, 3 * torch.exp(-4 * z.square().sum(-1, keepdim=True))], dim=-1))
    angle = torch.linspace(0, 2 * math.pi, 41, dtype=DTYPE)[:-1]
    ring = 1.2 * torch.stack([angle.cos(), angle.sin()], dim=-1)
    start, end = torch.tensor([-1.2, 0.0], dtype=DTYPE), torch.tensor([1.2, 0.0], dtype=DTYPE)
    over = geodesic(hill, start, end)
    around = geodesic(hill, start, end, init=init, latents=ring)
    assert around.length < 0.8 * over.line_length
    assert around.length <= over.length * (1 + 1e-4)
    assert around.converged
    assert around.points[:, 1].abs().max() > 0.5


def test_a_graph_sees_a_thin_wall():
    start, end = torch.tensor([-1.0, 0.1], dtype=DTYPE), torch.tensor([1.0, -0.1], dtype=DTYPE)
    g = geodesic(wall_metric(0.05), start, end, init="graph", latents=grid(25))
    assert g.length < 3
    assert g.line_length > 4


@pytest.mark.slow
def test_best_is_the_shorter_of_both(generator):
    metric = PullbackMetric(mlp(), deviation())
    start, end = pairs(60, generator)
    latents = torch.randn(400, 2, generator=generator, dtype=DTYPE)
    line, graph, best = (geodesic(metric, start, end, init=i, latents=latents) for i in ("line", "graph", "best"))
    shorter = torch.minimum(line.length, graph.length)
    torch.testing.assert_close(best.length, shorter, rtol=1e-6, atol=0)
    # a start at the data's own paths ends in a longer minimum only by way of exception
    assert (graph.length > line.length * (1 + 1e-3)).sum() <= 1
    assert (best.n_steps <= 100).all()


def test_graph_and_line_agree_where_there_is_one_minimum(generator):
    for space in (sphere(), half_plane(), linear_decoder("", linear_map(3, 5, 10))):
        start, end = space.sample(6, generator, DTYPE)
        latents = torch.cat([start, end, (start + end) / 2])
        g = geodesic(space.metric, start, end, init="graph", latents=latents)
        assert g.converged.all()
        torch.testing.assert_close(g.length, space.distance(start, end), rtol=3e-4, atol=0)


@pytest.mark.parametrize("method", ["newton", "spline"])
def test_a_graph_in_two_pieces_falls_back_and_says_so(method):
    left = torch.tensor([-5.0, 0.0], dtype=DTYPE) + 0.1 * grid(6)
    right = torch.tensor([5.0, 0.0], dtype=DTYPE) + 0.1 * grid(6)
    both = torch.cat([left, right])
    paths = LatentGraph(IDENTITY, both, n_neighbors=4).paths(left[:2], torch.stack([left[5], right[5]]))
    assert paths.connected.tolist() == [True, False]
    start, end = left[:2], torch.stack([left[5], right[5]])
    g = geodesic(IDENTITY, start, end, init="graph", latents=both, method=method)
    assert g.status.tolist() == [Status.CONVERGED, Status.CONVERGED_FROM_LINE]
    assert g.converged.all()
    assert "give more latents" in g.report()
    torch.testing.assert_close(g.length, (end - start).norm(dim=-1))
    assert_keeps_its_promises(IDENTITY, start, end, g)


def test_repeated_latents_and_few_of_them(generator):
    start, end = pairs(3, generator)
    metric = PullbackMetric(mlp())
    for latents in (torch.zeros(20, 2, dtype=DTYPE), torch.zeros(1, 2, dtype=DTYPE), torch.cat([start, end, start])):
        g = geodesic(metric, start, end, init="graph", latents=latents)
        assert torch.isfinite(g.length).all()
        assert g.converged.all()


def test_of_many_latents_some_are_drawn(generator):
    latents = torch.randn(500, 2, generator=generator, dtype=DTYPE)
    a, b, c = (LatentGraph(IDENTITY, latents, max_nodes=100, seed=s).nodes for s in (0, 0, 1))
    assert a.shape == (100, 2)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert (a[:, None] == latents).all(-1).any(-1).all()
    assert len(torch.unique(a, dim=0)) == 100


def test_pairs_of_any_batch_shape_and_float32(generator):
    start, end = torch.randn(2, 2, 3, 2, generator=generator)
    g = geodesic(PullbackMetric(mlp(dtype=torch.float32)), start, end, init="graph", latents=torch.randn(80, 2))
    assert g.length.shape == (2, 3)
    assert g.points.dtype == torch.float32


LATENTS = torch.zeros(4, 2)
BAD = {
    "latents: got None, expected the points": {"init": "graph"},
    "latents: got None": {"init": "best"},
    r"latents: got shape \(2, 2, 2\)": {"init": "graph", "latents": torch.zeros(2, 2, 2)},
    r"latents: got shape \(4, 3\), expected \(n, 2\)": {"init": "graph", "latents": torch.zeros(4, 3)},
    "latents: got list": {"init": "graph", "latents": [[0.0, 0.0]]},
    "latents: 1 of 8": {
        "init": "graph",
        "latents": LATENTS.index_fill(0, torch.tensor([1]), 0).where(torch.arange(8).reshape(4, 2) != 3, torch.nan),
    },
    "latents: got dtype torch.float64, expected torch.float32 like start": {
        "init": "graph",
        "latents": LATENTS.double(),
    },
    "init: got 'tree', expected one of 'auto', 'line', 'graph', 'best'": {"init": "tree", "latents": LATENTS},
}


@pytest.mark.parametrize("sentence", BAD)
def test_bad_input_is_told(sentence):
    with pytest.raises((TypeError, ValueError), match=sentence):
        geodesic(IDENTITY, torch.zeros(2), torch.ones(2), **BAD[sentence])


def test_bad_graphs_are_told():
    for name, value in (("n_neighbors", 0), ("max_nodes", 0), ("seed", -1)):
        with pytest.raises(ValueError, match=f"{name}: got {value}"):
            LatentGraph(IDENTITY, torch.zeros(5, 2), **({"max_nodes": 2} | {name: value}))
    with pytest.raises(ValueError, match=r"end: got shape \(1, 3\)"):
        LatentGraph(IDENTITY, torch.zeros(5, 2)).paths(torch.zeros(1, 2), torch.zeros(1, 3))


# Without latents


def test_by_default_a_curve_begins_on_the_side_of_the_shorter_way():
    start, end = torch.tensor([[-1.0, 0.3], [1.0, 0.3]], dtype=DTYPE)
    line, default = geodesic(two_ridges(), start, end, init="line"), geodesic(two_ridges(), start, end)
    assert line.converged and default.converged
    assert line.points[16, 1] > 0.3
    assert default.points[16, 1] < -0.3
    assert default.length < 0.9 * line.length
    assert torch.equal(default.length, geodesic(two_ridges(), start, end, init="auto").length)


def padded(plane, d):
    """A metric in the plane times ``d - 2`` flat coordinates."""
    return PullbackMetric(plane.mean, lambda z: torch.nn.functional.pad(plane.std(z[..., :2]), (0, d - 2)))


@pytest.mark.parametrize(("d", "y"), [(3, 0.2), (3, 0.3), (3, 0.4), (8, 0.2), (8, 0.3)])
def test_in_more_dimensions_a_curve_is_left_for_a_shorter_way_beside_it(d, y):
    """The square of the distance is that in the plane plus that in the flat coordinates."""
    start, end = torch.zeros(2, d, dtype=DTYPE)
    start[:3], end[:3] = torch.tensor([[-1.0, y, 0.3], [1.0, y, -0.3]], dtype=DTYPE)
    metric = padded(two_ridges(), d)
    distance = (geodesic(two_ridges(), start[:2], end[:2]).length.square() + 0.6**2).sqrt()
    line, default = geodesic(metric, start, end, init="line"), geodesic(metric, start, end)
    assert_keeps_its_promises(metric, start, end, default)
    assert line.converged and default.converged
    assert line.length > 1.1 * distance
    torch.testing.assert_close(default.length, distance, rtol=1e-4, atol=0)
    assert geodesic(metric, start, end, max_steps=8).n_steps <= 8


def test_in_more_dimensions_a_pair_has_a_result_of_its_own(generator):
    metric = padded(two_ridges(), 3)
    start, end = 0.3 * torch.randn(2, 12, 3, generator=generator, dtype=DTYPE)
    start[:, 0] -= 1
    end[:, 0] += 1
    together, lines = geodesic(metric, start, end), geodesic(metric, start, end, init="line")
    assert (together.length <= lines.length * (1 + 1e-4)).all()
    left = together.length < 0.99 * lines.length
    assert 2 <= left.sum() <= 10
    for i in (*left.nonzero()[:2, 0], *(~left).nonzero()[:2, 0]):
        alone = geodesic(metric, start[i], end[i])
        torch.testing.assert_close(alone.length, together.length[i], rtol=1e-6, atol=0)
        torch.testing.assert_close(alone.points, together.points[i], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("d", [3, 8])
def test_in_more_dimensions_looking_beside_an_easy_curve_costs_little(d, generator):
    """A solve takes thousands of evaluations, with their derivatives."""
    net, calls = mlp(d=d, gain=2.0), []

    def decode(z):
        calls.append(len(z))
        return net(z)

    start, end = pairs(40, generator, d)
    length = geodesic(PullbackMetric(net), start, end, init="line").length
    rows, _, _ = bowed_ways(as_metric(PullbackMetric(decode)), start, end, length)
    assert len(rows) <= 2
    assert sum(calls) <= 100 * len(start)


def around_a_hill(n=41):
    """Latents ``(n, 2)`` on the way above the hill of ``two_ways`` only."""
    angle = torch.linspace(0, math.pi, n, dtype=DTYPE)
    return torch.stack([angle.cos(), 1.1 * angle.sin()], dim=-1)


def two_ways(fence=0.0, top=0.12):
    """A hill in sigma between (-1, 0) and (1, 0), with a way above it and a shorter one below, across which there may
    be a fence that is too thin for a coarse lattice."""

    def std(z):
        x, y = z.split(1, dim=-1)
        hill = 2 * torch.exp(-((x / 0.35) ** 2) / 2 - (((y - top) / 0.35) ** 2) / 2)
        wire = fence * torch.exp(-(((x - 0.13) / 0.02) ** 2) / 2) * torch.sigmoid(-20 * y)
        return torch.cat([hill, wire], dim=-1)

    return PullbackMetric(lambda z: z * 1.0, std)


ENDS = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=DTYPE)


def test_with_latents_the_default_begins_with_their_graph():
    """Shown to be so in three dimensions, where nothing else leads away from a line that is a geodesic."""
    metric = padded(two_ways(), 3)
    start, end, latents = (torch.nn.functional.pad(z, (0, 1)) for z in (*ENDS, around_a_hill()))
    by_graph = geodesic(metric, start, end, init="graph", latents=latents)
    default = geodesic(metric, start, end, latents=latents)
    assert default.points[16, 1] > 0.5
    torch.testing.assert_close(default.length, by_graph.length, rtol=1e-4, atol=0)
    assert geodesic(metric, start, end).points[16, 1] < 0


def test_in_the_plane_latents_on_the_longer_way_do_not_hide_the_shorter_one():
    latents = around_a_hill()
    by_graph = geodesic(two_ways(), *ENDS, init="graph", latents=latents)
    default = geodesic(two_ways(), *ENDS, latents=latents)
    assert_keeps_its_promises(two_ways(), *ENDS, default)
    assert by_graph.points[16, 1] > 0.3 and default.points[16, 1] < -0.3
    assert default.converged
    assert default.length < 0.97 * by_graph.length


@pytest.mark.parametrize("swapped", [False, True])
def test_of_two_ways_the_one_is_followed_that_is_shorter_when_seen_closely(swapped):
    """The lattice takes the way below, as it sees nothing of the fence across it."""
    start, end = ENDS.flip(0) if swapped else ENDS
    fenced = two_ways(0.3, top=0.02)
    paths = lattice_paths(as_metric(fenced), start[None], end[None], most=2)
    assert paths.shorter.all() and paths.owner.tolist() == [0]
    assert paths.points[0, 8, 1] < -0.3 and paths.beside[0, 8, 1] > 0.3
    below = geodesic(fenced, start, end, init=paths.points[0], max_steps=30)
    default = geodesic(fenced, start, end)
    assert_keeps_its_promises(fenced, start, end, default)
    assert default.converged
    assert default.points[16, 1] > 0.3
    assert default.length < 0.95 * below.length


@pytest.mark.parametrize("max_steps", [1, 2, 7, 40])
def test_rivals_take_no_more_steps_than_allowed(max_steps):
    g = geodesic(two_ways(0.3, top=0.02), *ENDS, max_steps=max_steps)
    assert g.n_steps <= max_steps
    assert_keeps_its_promises(two_ways(0.3, top=0.02), *ENDS, g)


def test_a_pair_with_rivals_has_a_result_of_its_own(generator):
    """Among others, alone, and from the other side."""
    start, end = ENDS[:, None] + 0.1 * torch.randn(2, 4, 2, generator=generator, dtype=DTYPE)
    latents = torch.cat([around_a_hill(), torch.randn(100, 2, generator=generator, dtype=DTYPE)])
    metric = two_ways()
    for options in ({}, {"latents": latents}):
        together, back = geodesic(metric, start, end, **options), geodesic(metric, end, start, **options)
        torch.testing.assert_close(back.length, together.length, rtol=2e-4, atol=0)
        for i in (0, 3):
            alone = geodesic(metric, start[i], end[i], **options)
            torch.testing.assert_close(alone.length, together.length[i], rtol=1e-6, atol=0)


@pytest.mark.slow
def test_other_methods_begin_with_the_line(generator):
    start, end = pairs(2, generator)
    for method in ("spline", "georce", "quadratic"):
        line = geodesic(two_ridges(), start, end, method=method, init="line")
        assert torch.equal(geodesic(two_ridges(), start, end, method=method).points, line.points)


def test_a_path_over_a_lattice_is_the_pair_s_own(generator):
    metric = as_metric(PullbackMetric(mlp(gain=3.0), deviation()))
    start, end = pairs(40, generator)
    start[20:] = end[20:] + 0.01 * (start[20:] - end[20:])  # near ones share no node with the others
    together = lattice_paths(metric, start, end, most=3)
    assert len(together.owner) > 2
    assert together.shorter.sum() > 5
    assert torch.equal(together.points[:, [0, -1]], torch.stack([start, end], dim=1))
    for i in range(40):
        alone = lattice_paths(metric, start[i : i + 1], end[i : i + 1], most=3)
        torch.testing.assert_close(alone.points[0], together.points[i], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(alone.beside, together.beside[together.owner == i], rtol=1e-9, atol=1e-9)
        assert alone.shorter[0] == together.shorter[i]
    t = torch.linspace(0, 1, 65, dtype=DTYPE)[:, None]
    lines = curve_length(metric.source, torch.lerp(start[:, None], end[:, None], t))
    assert (curve_length(metric.source, together.points) < lines)[together.shorter].all()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_units_do_not_matter_to_a_lattice(scale):
    """By a power of two next to the scale, so that the lattice is the same."""
    scale = 2.0 ** round(math.log2(scale))
    ridges = two_ridges()
    scaled = as_metric(PullbackMetric(lambda z: ridges.mean(z / scale), lambda z: ridges.std(z / scale)))
    start, end = torch.tensor([[[-1.0, 0.3]], [[1.0, 0.3]]], dtype=DTYPE)
    paths = lattice_paths(as_metric(ridges), start, end)
    assert paths.shorter.all()
    torch.testing.assert_close(lattice_paths(scaled, scale * start, scale * end).points / scale, paths.points)


def test_a_lattice_that_leaves_the_metric_s_domain_does_no_harm():
    """Nodes below the half-plane have no metric."""
    start, end = torch.tensor([[[-2.0, 0.2]], [[2.0, 0.2]]], dtype=DTYPE)
    paths = lattice_paths(as_metric(half_plane().metric), start, end)
    assert paths.shorter.all()
    assert (paths.points[..., 1] > 0).all()
    g = geodesic(half_plane().metric, start, end)
    assert g.converged.all()
    torch.testing.assert_close(g.length, half_plane().distance(start, end), rtol=1e-4, atol=0)


def test_no_path_is_sought_where_the_chord_says_that_the_line_is_shortest(generator):
    calls = []

    def decode(z):
        calls.append(len(z))
        return z @ linear_map(2, 5, 20).T.to(z)

    start, end = pairs(10, generator)
    metric = as_metric(PullbackMetric(decode))
    lattice_paths(metric, start, end)
    assert sum(calls) < 10 * 64
