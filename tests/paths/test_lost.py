"""Pairs on whose way the metric is not finite cost no other pair its result, and are never called converged."""

import pytest
import torch
from problems import half_plane, mlp

from geolib import (
    METHODS,
    GeodesicError,
    LatentGraph,
    PullbackMetric,
    Status,
    expmap,
    geodesic,
    geodesics,
    random_walk,
    tabulate,
)
from geolib.checks import NOT_FINITE
from geolib.curves import straight
from geolib.paths.flow import FlowStatus
from geolib.paths.problem import Solution
from geolib.solvers import SOLVERS
from geolib.walks import WalkStatus

pytestmark = pytest.mark.smoke

DTYPE = torch.float64


def around_a_hole(z):
    """No number within 0.2 of the origin."""
    M = torch.eye(2, dtype=z.dtype) * (1 + z[..., :1, None].square())
    return M * torch.where(z.square().sum(-1) > 0.04, 1.0, torch.nan)[..., None, None]


net = mlp(gain=1)
HOLES = {
    "callable": around_a_hole,
    "decoder": PullbackMetric(lambda z: net(z) * torch.where(z.square().sum(-1, keepdim=True) > 0.04, 1.0, torch.nan)),
}
START = torch.tensor([[-1.0, 1.0], [-1.0, 0.01], [-1.0, -1.0], [0.5, 0.5]], dtype=DTYPE)
END = torch.tensor([[1.0, 0.8], [1.0, 0.02], [0.9, -1.0], [0.5, 0.5]], dtype=DTYPE)
OTHERS = [0, 2, 3]


@pytest.mark.parametrize(("what", "method"), [*(("callable", m) for m in METHODS), ("decoder", "newton")])
def test_a_line_over_a_hole_costs_nobody_else_anything(what, method):
    metric = HOLES[what]
    options = {"method": method, "max_steps": 10, "latents": START if method == "graph" else None}
    g = geodesic(metric, START, END, **options)
    assert g.status[1] == Status.NOT_FINITE and g.status[3] == Status.SAME_POINT
    for values in (g.length, g.line_length, g.residual, g.improvement):
        assert values.isnan().tolist() == [False, True, False, False]
    torch.testing.assert_close(g.points[1], straight(START[1:2], END[1:2], 32)[0])
    alone = geodesic(metric, START[OTHERS], END[OTHERS], **options)
    torch.testing.assert_close(g.length[OTHERS], alone.length, rtol=1e-6, atol=0)
    assert torch.equal(g.status[OTHERS], alone.status)
    assert not g.converged[1]
    assert "1 of 4: the metric is not finite" in g.report()
    one = geodesic(metric, START[1], END[1], **options)
    assert one.status == Status.NOT_FINITE
    with pytest.raises(GeodesicError, match="1 of 4: the metric is not finite"):
        geodesic(metric, START, END, throw=True, **options)


@pytest.fixture
def leaving(monkeypatch):
    """A method that finds the line, but is led to where nothing is a number for starts left of -2."""

    def solve(problem):
        points = problem.points()
        points[problem.start[:, 0] < -2, 1:-1] = torch.nan
        done = torch.zeros_like(problem.max_steps)
        return Solution.through(problem, points, done + Status.CONVERGED, done + 1)

    monkeypatch.setitem(SOLVERS, "spline", solve)


def flat(z):
    return torch.eye(2, dtype=z.dtype).expand(*z.shape, 2) + 0 * (z.square().sum(-1) + z.prod(-1))[..., None, None]


@pytest.mark.usefixtures("leaving")
def test_a_pair_that_runs_away_keeps_its_line():
    start = torch.tensor([[float(-k), 1.0] for k in range(1, 9)], dtype=DTYPE)
    g = geodesic(flat, start, start.new_zeros(2), method="spline")
    away = start[:, 0] < -2
    assert torch.equal(g.status == Status.NOT_FINITE, away)
    assert torch.equal(g.converged, ~away)
    torch.testing.assert_close(g.length, start.norm(dim=-1))
    assert torch.equal(g.length, g.line_length)
    torch.testing.assert_close(g.points, straight(start, torch.zeros_like(start), 32))
    assert torch.equal(g.residual.isnan(), away)
    torch.testing.assert_close(g.lower_bound, torch.zeros(8, dtype=DTYPE))


def test_what_was_certified_before_stays_converged(monkeypatch):
    """The straight line leads the method to a geodesic; the path over the graph to where nothing is a number."""
    newton = SOLVERS["newton"]

    def solve(problem):
        found = newton(problem)
        if problem.init is not None:
            found.curve.points[:, 1:-1] = torch.nan
        return found

    monkeypatch.setitem(SOLVERS, "spline", solve)
    space = half_plane()
    start, end = torch.tensor([[-3.0, 0.5], [3.0, 0.5]], dtype=DTYPE)
    side = torch.linspace(-3.5, 3.5, 15, dtype=DTYPE)
    latents = torch.cartesian_prod(side, side[side > 0])
    g = geodesic(space.metric, start, end, method="spline", init="best", latents=latents)
    assert g.status == Status.CONVERGED
    torch.testing.assert_close(g.length, space.distance(start, end), rtol=1e-4, atol=0)
    lost = geodesic(space.metric, start, end, method="spline", init="graph", latents=latents)
    assert lost.status == Status.NOT_FINITE
    assert lost.length < lost.line_length  # the path itself


@pytest.mark.parametrize("method", ["quadratic", "network", "spline", "discrete"])
def test_a_trial_point_where_the_metric_is_not_finite_is_a_step_too_long(method):
    """The first steps lead 700 and more away, where the metric ends."""

    def metric(z):
        shape = (1 / (1 + z[..., 1].square()))[..., None, None]
        return torch.eye(2, dtype=z.dtype) * shape.where(z[..., 1:, None].abs() < 700, torch.nan)

    start = torch.tensor([[-20.0, 0.3], [-9.0, -0.2]], dtype=DTYPE)
    g = geodesic(metric, start, start * start.new_tensor([-1.0, 1.0]), method=method, max_steps=40)
    assert not (g.status == Status.NOT_FINITE).any()
    assert (g.length < 0.5 * g.line_length).all()


@pytest.mark.parametrize("metric", HOLES.values(), ids=HOLES)
def test_ends_off_the_domain_are_the_caller_s(metric):
    with pytest.raises(NOT_FINITE, match=r"metric: not finite at 1 of 8 points, first at z = \[0\.1, 0\]"):
        geodesic(metric, START, END.index_fill(0, torch.tensor([2]), 0.0) + END.new_tensor([0.1, 0.0]))


@pytest.mark.parametrize("method", ["newton", "spline", "georce"])
def test_an_edge_of_the_box_of_a_table(method):
    """Beyond it the table is NaN, and the shortest ways lead there."""
    table = tabulate(half_plane().metric, *torch.tensor([[-2.0, 0.5], [2.0, 1.0]], dtype=DTYPE), resolution=16)
    start, end = torch.tensor([[[-1.9, 0.9], [-0.3, 0.6]], [[1.9, 0.9], [0.2, 0.7]]], dtype=DTYPE)
    options = {"method": method, "max_steps": 20}
    g = geodesic(table, start, end, **options)
    assert torch.isfinite(g.length).all() and (g.length <= g.line_length).all()
    assert not g.converged[0]
    torch.testing.assert_close(g.length[1], geodesic(table, start[1], end[1], **options).length)


def test_a_graph_goes_without_edges_on_which_the_metric_is_not_finite():
    side = torch.linspace(-1, 1, 9, dtype=DTYPE)
    latents = torch.cartesian_prod(side, side)
    latents = latents[latents.norm(dim=-1) > 0.2]
    g = geodesic(around_a_hole, START[[0, 2]], END[[0, 2]], latents=latents, init="graph")
    assert g.converged.all()
    with pytest.raises(ValueError, match="metric on an edge: not finite at"):
        LatentGraph(around_a_hole, latents)


def factorised(z):
    """A metric that LAPACK refuses where x is beyond 1.2."""
    A = torch.eye(2, dtype=z.dtype) * (1.44 - z[..., :1, None].square()) + 0.1
    L = torch.linalg.cholesky(A)
    return L @ L.mT + torch.eye(2, dtype=z.dtype)


def test_a_metric_that_fails_on_the_way_is_one_that_is_not_finite():
    start = torch.tensor([[0.0, 0.0], [0.3, 0.2], [0.1, 0.9]], dtype=DTYPE)
    end = torch.tensor([[1.0, 0.0], [0.8, 0.9], [1.0, -0.9]], dtype=DTYPE)
    g = geodesic(factorised, start, end)
    assert g.converged[:2].all()  # the last one may run along the edge
    assert torch.isfinite(g.length).all() and (g.length <= g.line_length).all()
    off = torch.tensor([[1.5, 0.0]], dtype=DTYPE)
    with pytest.raises(ValueError, match=r"metric: failed on .*may be NaN where it has no value"):
        geodesic(factorised, start, torch.cat([end[:2], off]))
    ends, codes = expmap(factorised, start, 0.3 * (end - start) + (start[:, :1] == 0) * off, return_status=True)
    assert codes.tolist() == [FlowStatus.NOT_FINITE, FlowStatus.REACHED, FlowStatus.REACHED]
    assert ends.isnan().any(-1).tolist() == [True, False, False]
    walk = random_walk(factorised, start, n_steps=60, step_size=0.2)
    assert walk.status.tolist().count(WalkStatus.LEFT) > 0
    assert torch.isfinite(walk.points).all() and (walk.points[..., 0] < 1.25).all()


def test_neighbours_have_gradients_as_ever():
    start, end = START[OTHERS[:2]].requires_grad_(), END[OTHERS[:2]]
    (expected,) = torch.autograd.grad(geodesic(around_a_hole, start, end, differentiable=True).length.sum(), start)
    start = START.clone().requires_grad_()
    length = geodesic(around_a_hole, start, END, differentiable=True).length
    (slope,) = torch.autograd.grad(length[OTHERS].sum(), start)
    torch.testing.assert_close(slope[OTHERS[:2]], expected, rtol=1e-6, atol=1e-9)
    assert torch.equal(slope[[1, 3]], torch.zeros(2, 2, dtype=DTYPE))


def test_nothing_is_looked_at_where_all_is_well(monkeypatch):
    monkeypatch.setattr(geodesics, "finite_lines", None)
    monkeypatch.setattr(geodesics, "kept_lines", None)
    assert geodesic(around_a_hole, START[OTHERS], END[OTHERS]).converged.all()
