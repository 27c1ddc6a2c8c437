"""Any input to any public function: it works, or raises an error that begins with the name of an argument."""

import inspect
import math
import re
import time

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from project import SOAK
from properties import BATCHES, FLOATS, SCALES, mostly, tensors
from torch import nn

import geolib
from geolib import PullbackMetric, Status
from geolib.paths.flow import FlowStatus

pytestmark = [
    pytest.mark.slow,
    pytest.mark.soak,
    pytest.mark.filterwarnings("ignore"),  # of anything: what is warned of is tested where it belongs
]

SECONDS = 30.0  # of CPU, which no call here may take: 9,000 evaluations of the geodesic equation are allowed
FEWER = {"geodesic": 10, "logmap": 2, "expmap": 8, "compare_models": 8, "relative_improvement": 8}  # in make test
NO_FUNCTIONS = {
    "METHODS": "a tuple of names, all of which are drawn for geodesic",
    "FlatMetricWarning": "a warning",
    "Geodesic": "what geodesic returns, and checked there",
    "GeodesicError": "what geodesic raises with throw, and checked there",
    "Status": "an enumeration",
}
SIZES = mostly([2, 2, 3, 1], [7, 0])
COUNTS = mostly([4, 5, 8], [3, 1, 0, -1, 2.5, None, True])
TOLERANCES = mostly([1e-4, 1e-2, 1e-6], [1e-20, 1e20, 0.0, -1.0, math.nan, math.inf, "small"])
SEEDS = mostly([0, 1], [2**32 - 1, 2**32, -1, 0.5, None])


# Metrics, of any latent dimension


def weights(z, n=5):
    generator = torch.Generator().manual_seed(z.shape[-1])
    return torch.randn(z.shape[-1], n, generator=generator, dtype=torch.float64).to(z)


def decoder(scale):
    return lambda z: scale * (z @ weights(z) + torch.tanh(z @ weights(z)))  # which does not saturate: that takes long


def bowl(scale):
    return lambda z: (scale * (1 + z.square().sum(-1)))[..., None, None] * torch.eye(z.shape[-1], dtype=z.dtype)


def half_space(z):
    """Not finite where the last coordinate is zero."""
    return torch.eye(z.shape[-1], dtype=z.dtype) / z[..., -1, None, None].square()


def network(kind, dtype):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 5), kind(), nn.Linear(5, 4)).to(dtype).requires_grad_(False)


@st.composite
def metrics(draw):
    scale = draw(SCALES)
    kind = draw(st.sampled_from(["decoder"] * 4 + ["std", "features", "tanh", "relu", "bowl", "bowl", "half-space"]))
    if kind == "bowl":
        return bowl(scale)
    if kind == "half-space":
        return half_space
    if kind in ("tanh", "relu"):
        return PullbackMetric(network({"tanh": nn.Tanh, "relu": nn.ReLU}[kind], draw(st.sampled_from(FLOATS))))
    more = {
        "decoder": {},
        "std": {"std": lambda z: (z @ weights(z)).sigmoid()},
        "features": {"features": lambda x: x[..., :3].sin()},
    }[kind]
    return PullbackMetric(decoder(scale), chunk_size=draw(st.sampled_from([None, None, 1, 3])), **more)


@st.composite
def kinds(draw, *shapes):
    """Tensors of these shapes, as a rule of one dtype."""
    dtype = draw(mostly(FLOATS, [None]))
    return [draw(tensors(shape, dtype)) for shape in shapes]


@st.composite
def points(draw, *, rows=(9, 2, 3, 1, 0, 4, 9), huge=100):
    """Points of curves ``(..., n, d)``."""
    shape = (*draw(BATCHES), draw(st.sampled_from(rows)), draw(SIZES))
    if draw(mostly([False], [True])):
        shape = (huge, 9, 2)
    return draw(kinds(shape))[0]


@st.composite
def pairs(draw, sizes=SIZES):
    """Two batches of points, as a rule of one dimension, and whose shapes broadcast."""
    d, batch = draw(sizes), draw(BATCHES)
    other = draw(st.sampled_from([batch] * 4 + [(), (1,), (2,)] + [batch] * 4)), draw(mostly([d], [3]))
    return draw(kinds((*batch, d), (*other[0], other[1])))


def like(value, x, shape):
    assert value.shape == torch.Size(shape)
    assert value.dtype == x.dtype
    assert value.layout == torch.strided


def finite(*values):
    for value in values:
        assert torch.isfinite(value).all()


def not_nan(*values):
    for value in values:
        assert not value.isnan().any()


# What each does with what is drawn, and what holds of its result


def pullback_metric(draw):
    anything = mostly([decoder(1.0)], [None, 3, "decoder", torch.zeros(2)])
    size = draw(mostly([None, None, 1, 7], [0, -1, 2.5]))
    metric = PullbackMetric(draw(anything), draw(anything | st.none()), draw(st.none() | anything), chunk_size=size)
    z = draw(points(huge=1000))
    M = metric(z)
    like(M, z, (*z.shape, z.shape[-1]))
    finite(M)
    x = metric.immersion(z)
    like(x, z, (*z.shape[:-1], x.shape[-1]))


def of_tensors(function, n_vectors=0):
    def case(draw):
        (A,) = draw(kinds((*draw(BATCHES), draw(SIZES), draw(SIZES))))
        M = A @ A.mT if draw(mostly([True], [False])) and A.is_floating_point() else A
        result = function(M)
        if n_vectors:
            for vector in result:
                like(vector, M, M.shape[:-1])
                not_nan(vector)
        else:
            like(result, M, M.shape[:-2])
            not_nan(result)

    return case


def of_curves(function, dtype=None):
    def case(draw):
        metric, z = draw(metrics()), draw(points())
        value = function(metric, z)
        assert value.shape == z.shape[:-2]
        assert value.dtype == (dtype or z.dtype)
        not_nan(value)
        assert (value >= 0).all()

    return case


def is_geodesic(draw):
    (residual,) = draw(kinds(draw(BATCHES)))
    found = geolib.is_geodesic(residual, draw(TOLERANCES))
    assert found.shape == residual.shape
    assert found.dtype == torch.bool
    assert not found[residual.isnan()].any()


def spline(draw):
    P = draw(points(rows=(4, 5, 8, 3, 0, 8, 5, 4)))
    t = draw(mostly([torch.linspace(0, 1, 7)], [torch.tensor(x) for x in ([], [1.5], [math.nan])]))
    knots = None
    if draw(mostly([False], [True])):
        knots = draw(tensors((P.shape[-2] + 4,), P.dtype))
    curve = geolib.CubicBSpline(P, knots)
    for one in (curve, curve.insert_knot()):
        for value in (one(t), one.velocity(t)):
            like(value, P, (*P.shape[:-2], len(t), P.shape[-1]))
            not_nan(value)


METHODS_DRAWN = mostly(["newton", *geolib.METHODS], ["simplex", None])


def geodesic(draw):
    metric, (a, b) = draw(metrics()), draw(pairs())
    options = {
        "method": draw(METHODS_DRAWN),
        "n_segments": draw(COUNTS),
        "max_steps": draw(mostly([20], [1, 0, None])),
        "rtol": draw(TOLERANCES),
        "init": draw(mostly(["auto", "line", "best", "graph"], ["spiral", None])),
        "throw": draw(st.booleans()),
        "differentiable": draw(st.booleans()),
    }
    options = {name: options[name] for name in draw(st.sets(st.sampled_from([*options])))}
    if draw(st.integers(0, 3)) == 0:
        options["latents"] = draw(tensors((20, a.shape[-1]), a.dtype))
    options.setdefault("n_segments", 8)
    options.setdefault("max_steps", 20)
    g = geolib.geodesic(metric, a, b, **options)
    d, batch = a.shape[-1], torch.broadcast_shapes(a.shape, b.shape)[:-1]
    like(g.points, a, (*batch, options["n_segments"] + 1, d))
    for value in (g.length, g.line_length, g.lower_bound, g.residual, g.improvement):
        like(value, a, batch)
    for value in (g.index, g.status, g.n_steps, g.converged):
        assert value.shape == batch
    assert {*g.status.flatten().tolist()} <= {*Status}
    finite(g.points)
    found = g.status != Status.NOT_FINITE
    for value in (g.length, g.line_length, g.lower_bound, g.residual):
        assert torch.isfinite(value[found]).all()
    assert g.length.requires_grad == options.get("differentiable", False)
    g.report()


def flow(function):
    def case(draw):
        metric, (a, b) = draw(metrics()), draw(pairs())
        options = {"rtol": draw(TOLERANCES)} if draw(st.booleans()) else {}
        if function is geolib.logmap:
            options["n_segments"] = 8
        if draw(st.integers(0, 3)) == 0:
            like(function(metric, a, b, **options), a, torch.broadcast_shapes(a.shape, b.shape))
            return
        value, status = function(metric, a, b, return_status=True, **options)
        like(value, a, torch.broadcast_shapes(a.shape, b.shape))
        assert status.shape == value.shape[:-1]
        assert {*status.flatten().tolist()} <= {*FlowStatus}
        finite(value[status == FlowStatus.REACHED])

    return case


def random_walk(draw):
    metric = draw(st.none() | metrics())
    (start,) = draw(kinds((*draw(BATCHES), draw(SIZES))))
    n_steps = draw(mostly([1, 10, 50], [0, 2.5]))
    walk = geolib.random_walk(
        metric,
        start,
        n_steps=n_steps,
        step_size=draw(st.one_of(SCALES, TOLERANCES)),
        max_stride=draw(st.one_of(SCALES, TOLERANCES)),
        seed=draw(SEEDS),
    )
    like(walk.points, start, (*start.shape[:-1], n_steps + 1, start.shape[-1]))
    finite(walk.points)
    assert torch.equal(walk.points[..., 0, :], start)
    for value in (walk.status, walk.n_steps, walk.n_clipped):
        assert value.shape == start.shape[:-1]


def relative_improvement(draw):
    dtype = draw(mostly(FLOATS, [None, torch.int64]))
    n = draw(mostly([2, 4, 1], [0, 2.5]))
    found = geolib.relative_improvement(
        draw(metrics()),
        n_samples=n,
        until=draw(mostly([None, None, 0.5], [0.0])),
        max_samples=draw(mostly([8], [0])),
        step_size=draw(st.one_of(SCALES, TOLERANCES)),
        seed=draw(SEEDS),
        latent_dim=draw(mostly([2], [3, None, 0])),
        dtype=dtype,
        n_segments=8,
        max_steps=20,
    )
    assert found.start.shape == found.end.shape
    assert dtype in (None, found.start.dtype)
    assert n <= len(found.start) <= 8
    finite(found.start, found.end)
    low, high = found.bounds
    assert 0 <= low <= high <= 1
    assert found.n_pairs == 0 or 0 <= found.mean <= 1
    found.report()


def compare_models(draw):
    models = []
    for _ in "ab":
        shape = draw(mostly([(2, 2)], [(2, 3), (3, 2), (2,), (0, 2)]))
        models.append((draw(metrics()), *draw(kinds(shape, shape))))
    found = geolib.compare_models(*models, threshold=draw(TOLERANCES), n_segments=8, max_steps=20)
    assert found.comparable.dtype == torch.bool
    assert found.comparable.shape == (len(models[0][1]),)


def latent_graph(draw):
    d = draw(SIZES)
    n = draw(mostly([30, 5], [1, 0]))
    latents, a, b = draw(kinds((n, d), (2, d), (2, d)))
    graph = geolib.LatentGraph(
        draw(metrics()), latents, n_neighbors=draw(COUNTS), max_nodes=draw(COUNTS), seed=draw(SEEDS)
    )
    assert len(graph.nodes) <= n
    like(graph.nodes, latents, graph.nodes.shape)
    paths = graph.paths(a, b, n_segments=8)
    like(paths.points, a, (2, 9, d))
    finite(paths.points)


@st.composite
def boxes(draw):
    """Two corners, and a point between them."""
    lower, size = draw(kinds((2,), (2,)))
    if not (lower.is_floating_point() and size.is_floating_point()):
        return lower, size, lower
    upper = lower + (1 + size.abs() if draw(mostly([True], [False])) else size)
    return lower, upper, (lower + upper) / 2


RESOLUTIONS = mostly([16], [20, 12, 0, None])


def tabulate(draw):
    lower, upper, _ = draw(boxes())
    table = geolib.tabulate(draw(metrics()), lower, upper, resolution=draw(RESOLUTIONS))
    z = draw(tensors((*draw(BATCHES), 2), lower.dtype))
    M = table(z)
    like(M, z, (*z.shape, 2))
    inside = ((lower <= z) & (z <= upper)).all(-1)
    finite(M[inside])
    assert M[~inside].isnan().all()


def distance_field(draw):
    lower, upper, start = draw(boxes())
    if draw(mostly([False], [True])):
        (start,) = draw(kinds((2,)))
    n = draw(RESOLUTIONS)
    x, y, distance = geolib.distance_field(
        draw(metrics()), start, lower=lower, upper=upper, resolution=n, reach=draw(mostly([4, 8], [5]))
    )
    for value, shape in ((x, (n + 1,)), (y, (n + 1,)), (distance, (n + 1, n + 1))):
        like(value, start, shape)
        finite(value)
    assert (distance >= 0).all()


def global_distances(draw):
    a, b = draw(pairs(mostly([2], [1, 3])))
    box = dict(zip(("lower", "upper"), draw(boxes())[:2], strict=True)) if draw(mostly([False], [True])) else {}
    n = draw(mostly([8], [3, None]))
    found = geolib.global_distances(
        draw(metrics()), a, b, resolution=draw(RESOLUTIONS), reach=draw(st.sampled_from([4, 4, 8])), n_segments=n, **box
    )
    batch = torch.broadcast_shapes(a.shape, b.shape)[:-1]
    for value in (found.distance, found.error):
        like(value, a, batch)
        finite(value)
    like(found.paths, a, (*batch, n + 1, 2))
    finite(found.paths)


def ensemble(draw):
    member = st.sampled_from([decoder(1.0), decoder(-2.0), torch.sin, None, "decoder"])
    members = draw(st.lists(member, max_size=3) | st.sampled_from([None, decoder(1.0), (decoder(1.0),) * 2]))
    together = geolib.ensemble(members)
    (z,) = draw(kinds((draw(mostly([4, 1], [0])), draw(SIZES))))
    M = PullbackMetric(together)(z)
    like(M, z, (*z.shape, z.shape[-1]))
    finite(M)


def fit_rbf_precision(draw):
    n, d, D = draw(mostly([10, 30], [2, 1, 0])), draw(SIZES), draw(mostly([3, 1], [0]))
    z, target = draw(kinds((n, d), (n, D)))
    if draw(mostly([True], [False])) and target.is_floating_point():
        target = target.abs()
    sigma = geolib.fit_rbf_precision(
        z,
        target,
        n_centers=draw(COUNTS),
        curvature=draw(st.one_of(SCALES, TOLERANCES)),
        zeta=draw(st.one_of(SCALES, TOLERANCES)),
        seed=draw(SEEDS),
    )
    like(sigma(z), z, (n, D))
    for value in (sigma(z), sigma.precision(z), sigma.weights, sigma.centers, sigma.bandwidths):
        finite(value)


def rbf_precision(draw):
    d, k = draw(SIZES), draw(mostly([4, 1], [0]))
    c, bandwidths, w, z = draw(kinds((k, d), (k,), (k, 3), (*draw(BATCHES), d)))
    if draw(mostly([True], [False])) and w.is_floating_point():
        bandwidths, w = bandwidths.abs(), w.abs()
    sigma = geolib.RBFPrecision(c, bandwidths, w, draw(st.one_of(SCALES, TOLERANCES)))
    like(sigma(z), z, (*z.shape[:-1], 3))


CASES = {
    "PullbackMetric": pullback_metric,
    "condition_number": of_tensors(geolib.condition_number),
    "magnification_factor": of_tensors(geolib.magnification_factor),
    "extremal_directions": of_tensors(geolib.extremal_directions, 2),
    "curve_length": of_curves(geolib.curve_length),
    "curve_energy": of_curves(geolib.curve_energy),
    "geodesic_residual": of_curves(geolib.geodesic_residual),
    "geodesic_index": of_curves(geolib.geodesic_index, torch.int64),
    "is_geodesic": is_geodesic,
    "CubicBSpline": spline,
    "geodesic": geodesic,
    "expmap": flow(geolib.expmap),
    "logmap": flow(geolib.logmap),
    "random_walk": random_walk,
    "relative_improvement": relative_improvement,
    "compare_models": compare_models,
    "LatentGraph": latent_graph,
    "tabulate": tabulate,
    "distance_field": distance_field,
    "global_distances": global_distances,
    "ensemble": ensemble,
    "fit_rbf_precision": fit_rbf_precision,
    "RBFPrecision": rbf_precision,
}


def test_every_public_name_is_drawn_for_or_is_no_function():
    assert sorted([*CASES, *NO_FUNCTIONS]) == sorted(geolib.__all__)


def names_of(function):
    """The arguments that its errors may begin with: its own, those of ``geodesic`` where it passes options on, those of
    what metrics are made of, and those of the calls of what it returns."""
    names = {*inspect.signature(function).parameters, "mean", "std", "features", "metric", "t", "z", "start", "end"}
    if "options" in names:
        names |= {*inspect.signature(geolib.geodesic).parameters}
    return names


def outcomes(name):
    """What came of every example: "works", or the argument that an error names."""
    seen = []

    @given(st.data())
    def tried(data):
        begun = time.process_time()
        try:
            CASES[name](data.draw)
            seen.append("works")
        except (ValueError, TypeError) as error:
            named = re.match(r"\w*", str(error)).group()
            if named not in names_of(getattr(geolib, name)):
                raise
            seen.append(named)
        except geolib.GeodesicError:
            assert name in ("geodesic", "logmap")
            seen.append("GeodesicError")
        assert time.process_time() - begun < SECONDS

    if name in FEWER and not SOAK:
        tried = settings(max_examples=FEWER[name])(tried)
    tried()
    return seen


@pytest.mark.parametrize("name", CASES)
def test_it_works_or_raises_an_error_that_names_an_argument(name):
    seen = outcomes(name)
    assert seen.count("works") >= len(seen) / 5
