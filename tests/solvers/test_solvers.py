"""The contract that every method keeps, and tests of single methods."""

import math
import re
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from problems import (
    SPACES,
    WALL,
    conv_decoder,
    deviation,
    half_plane,
    mlp,
    paraboloid,
    sphere,
    sphere_pairs,
    wall_metric,
)
from promises import assert_keeps_its_promises

from geolib import METHODS, PullbackMetric, Status, curve_energy, fit_rbf_precision, geodesic, is_geodesic
from geolib.metric import smoothed
from geolib.paths.problem import Problem
from geolib.riemannian import ImmersedMetric, as_metric
from geolib.solvers import SOLVERS, georce

pytestmark = pytest.mark.smoke

DTYPE = torch.float64
PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Laws:
    """The requirements on one method, in addition to the common contract."""

    miss: float
    """largest relative excess of a curve's length over the distance"""
    converged: float
    """smallest share of pairs that are solved to the tolerance, on spaces with exact answers"""
    repeats: float
    """largest relative difference of lengths between a batch and single pairs, and between a curve and its reverse"""
    options: dict = field(default_factory=dict)


LAWS = {
    "newton": Laws(3e-4, 1, 1e-6),
    "spline": Laws(3e-4, 1, 1e-6),
    "georce": Laws(3e-4, 1, 1e-6),
    "discrete": Laws(3e-3, 0.6, 3e-3, {"max_steps": 500}),
    "quadratic": Laws(5e-2, 0, 1e-4),
    "network": Laws(1e-2, 0.3, 3e-3, {"max_steps": 300}),
    "graph": Laws(0.25, 0, 1e-6),
    "bvp": Laws(3e-4, 1, 1e-5, {"max_nodes": 200, "max_steps": 20}),
    "fixed_point": Laws(3e-4, 1, 1e-5),
}
DECODERS = {
    "mlp": PullbackMetric(mlp(gain=1)),
    "mlp with sigma": PullbackMetric(mlp(), deviation()),
    "mlp with features": PullbackMetric(mlp(gain=1), features=mlp(7, 5, 3, gain=1)),
    "mlp in Eq. 4": PullbackMetric(mlp(gain=1), deviation(gain=1), mlp(7, 5, 3, gain=1)),
    "mlp in 5 dimensions": PullbackMetric(mlp(5, gain=1)),
    "convolutions": PullbackMetric(conv_decoder()),
}
every_method = pytest.mark.parametrize("method", METHODS)


def cloud(start, end, generator, n=300):
    """Latents for a graph, between the starts and ends, where the coordinates of every space are regular."""
    a, b = (x[torch.randint(len(x), (n,), generator=generator)] for x in (start, end))
    return torch.lerp(a, b, torch.rand(n, 1, generator=generator, dtype=start.dtype))


def solve(method, metric, start, end, latents, **options):
    return geodesic(metric, start, end, method=method, latents=latents, **(LAWS[method].options | options))


def assert_contract(method, metric, start, end, latents):
    g = solve(method, metric, start, end, latents)
    assert_keeps_its_promises(metric, start, end, g)
    assert is_geodesic(g.residual, 1e-4)[g.converged].all()
    if isinstance(as_metric(metric), ImmersedMetric):
        chord = metric.immersion(torch.stack([start, end], dim=1)).diff(dim=1).norm(dim=-1)[:, 0]
        assert (g.length >= chord * (1 - 1e-9)).all()
    repeats = LAWS[method].repeats
    back = solve(method, metric, end, start, latents)
    torch.testing.assert_close(back.length, g.length, rtol=repeats, atol=0)
    alone = solve(method, metric, start[1], end[1], latents)
    torch.testing.assert_close(alone.length, g.length[1], rtol=repeats, atol=0)
    if repeats <= 1e-5:
        torch.testing.assert_close(back.points.flip(-2), g.points, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(alone.points, g.points[1], rtol=1e-3, atol=1e-3)
        assert torch.equal(back.status, g.status)
        assert alone.status == g.status[1]
    return g


def test_every_method_has_its_laws():
    assert set(LAWS) == set(METHODS) == set(SOLVERS)


@every_method
@pytest.mark.parametrize(
    "space", [pytest.param(x, marks=[] if str(x) == "sphere" else pytest.mark.slow) for x in SPACES], ids=str
)
def test_contract_on_spaces(space, method, generator):
    start, end = space.sample(4, generator, DTYPE)
    g = assert_contract(method, space.metric, start, end, cloud(start, end, generator))
    exact = space.distance(start, end)
    assert (g.length >= exact * (1 - 1e-4)).all()
    assert (g.length <= exact * (1 + LAWS[method].miss)).all()
    torch.testing.assert_close(g.length[g.converged], exact[g.converged], rtol=3e-4, atol=0)
    assert g.converged.double().mean() >= LAWS[method].converged


@pytest.mark.slow
@every_method
@pytest.mark.parametrize("name", DECODERS)
def test_contract_on_decoders(name, method, generator):
    metric = DECODERS[name]
    d = 5 if "5" in name else 2
    start, end = 0.7 * torch.randn(2, 3, d, generator=generator, dtype=DTYPE)
    latents = torch.randn(400, d, generator=generator, dtype=DTYPE)
    g = assert_contract(method, metric, start, end, latents)
    best = geodesic(metric, start, end, init="best", latents=latents)
    # the same local minimum, to the method's accuracy
    assert (g.length <= best.length * (1 + LAWS[method].miss) + 0.02 * best.line_length).all()
    assert (g.length >= best.length * (1 - 1e-3)).all()


@pytest.mark.slow
@every_method
def test_contract_at_a_wall(method, generator):
    metric = wall_metric(0.05)
    start, end = torch.tensor([[-1.0, 0.1]], dtype=DTYPE), torch.tensor([[1.0, 0.05]], dtype=DTYPE)
    latents = 2 * torch.rand(600, 2, generator=generator, dtype=DTYPE) - 1
    g = solve(method, metric, start, end, latents)
    assert_keeps_its_promises(metric, start, end, g, rtol=5e-3)
    # across the wall the output rises and falls by 4: only a method without an energy may end in a geodesic there
    assert not g.converged or g.length < 3 or method == "bvp"
    # and converged or not, every method leads around it
    assert g.line_length > 5.5
    assert g.length < (4 if method in ("discrete", "fixed_point") else 3)


@pytest.mark.slow
@every_method
def test_degenerate_pairs(method, generator):
    dead = PullbackMetric(lambda z: z[:, :1] * z.new_tensor([1.0, -2.0, 2.0]))
    start = torch.zeros(4, 2, dtype=DTYPE)
    end = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]], dtype=DTYPE)
    g = solve(method, dead, start, end, torch.rand(50, 2, generator=generator, dtype=DTYPE))
    assert_keeps_its_promises(dead, start, end, g)
    torch.testing.assert_close(g.length, torch.tensor([3.0, 0, 3, 0], dtype=DTYPE))
    assert g.status.tolist() == [Status.CONVERGED, Status.SINGULAR, Status.CONVERGED, Status.SAME_POINT]
    one_sided = PullbackMetric(lambda z: torch.cat([z[:, :1].relu(), z[:, :1].relu() * z[:, 1:]], dim=-1))
    start, end = torch.tensor([[-1.0, 0.0]], dtype=DTYPE), torch.tensor([[1.0, 0.5]], dtype=DTYPE)
    g = solve(method, one_sided, start, end, 2 * torch.rand(50, 2, generator=generator, dtype=DTYPE) - 1)
    assert_keeps_its_promises(one_sided, start, end, g, rtol=1e-2)


@every_method
def test_float32(method, generator):
    start, end = sphere_pairs(8, generator, torch.float32)
    g = solve(method, sphere().metric, start, end, cloud(start, end, generator))
    assert_keeps_its_promises(sphere().metric, start, end, g)
    exact = sphere().distance(start.double(), end.double())
    assert (g.length.double() <= exact * (1 + LAWS[method].miss) + 1e-5).all()
    torch.testing.assert_close(g.length.double()[g.converged], exact[g.converged], rtol=3e-4, atol=0)


@every_method
@pytest.mark.parametrize("max_steps", [1, 3])
def test_no_method_takes_more_steps_than_allowed(max_steps, method, generator):
    metric = DECODERS["mlp with sigma"]
    start, end = torch.randn(2, 3, 2, generator=generator, dtype=DTYPE)
    g = solve(method, metric, start, end, cloud(start, end, generator), max_steps=max_steps)
    assert (g.n_steps <= max_steps).all()
    assert_keeps_its_promises(metric, start, end, g)


@every_method
def test_a_first_guess_is_a_bound(method, generator):
    space = sphere()
    start, end = sphere_pairs(4, generator, DTYPE, 1, 2.5)
    guess = space.geodesic(start, end, torch.linspace(0, 1, 17, dtype=DTYPE))
    g = solve(method, space.metric, start, end, cloud(start, end, generator), init=guess)
    assert_keeps_its_promises(space.metric, start, end, g)
    torch.testing.assert_close(g.length, space.distance(start, end), rtol=3e-4, atol=0)


@every_method
def test_nothing_is_changed_or_recorded(method, generator):
    start, end = sphere_pairs(3, generator, DTYPE, 0.5, 1.5)
    latents = cloud(start, end, generator)
    before = [x.clone() for x in (start, end, latents)]
    net = mlp()
    solve(method, PullbackMetric(net), start.requires_grad_(), end, latents)
    for x, y in zip((start, end, latents), before, strict=True):
        assert torch.equal(x, y)
    assert all(p.grad is None for p in net.parameters())
    assert start.grad is None


@every_method
def test_an_unknown_option_is_told(method):
    with pytest.raises(TypeError, match=f"speed: not an option of method '{method}'"):
        geodesic(sphere().metric, torch.ones(2), 1.5 * torch.ones(2), method=method, speed=2)


# Two ways to the same curve


@pytest.mark.slow
@pytest.mark.parametrize("name", DECODERS)
def test_boundary_value_problem_agrees_with_newton(name, generator):
    metric = DECODERS[name]
    start, end = torch.randn(2, 4, 5 if "5" in name else 2, generator=generator, dtype=DTYPE)
    a = geodesic(metric, start, end)
    b = geodesic(metric, start, end, method="bvp", max_nodes=200)
    both = a.converged & b.converged
    # a method may find another geodesic than the shortest, which must then be longer
    close = (b.length / a.length - 1).abs() < 1e-3
    assert (close | (b.length > a.length))[both].all()
    assert close[both].double().mean() >= 0.75
    assert both.sum() >= 3


# Gradient descent on points


def test_gradient_descent_is_slower_the_more_points_it_moves(generator):
    start, end = sphere_pairs(4, generator, DTYPE, 1.5, 2.5)
    steps = [
        geodesic(sphere().metric, start, end, method="discrete", n_segments=n, max_steps=5000).n_steps.double().mean()
        for n in (8, 32)
    ]
    assert steps[1] > 2 * steps[0]


# Quadratics


def test_a_quadratic_is_a_quadratic(generator):
    start, end = sphere_pairs(4, generator, DTYPE)
    curve = geodesic(sphere().metric, start, end, method="quadratic").curve
    p = curve(torch.linspace(0, 1, 21, dtype=DTYPE))
    assert p.diff(n=3, dim=1).abs().max() < 1e-12
    assert p.diff(n=2, dim=1).abs().max() > 1e-4


def test_no_quadratic_nearby_is_shorter(generator):
    """The result is compared with a search over all quadratics nearby."""
    metric = DECODERS["mlp"]
    start, end = torch.tensor([[-1.0, 0.8], [1.2, 0.4]], dtype=DTYPE)
    g = geodesic(metric, start, end, method="quadratic", max_steps=300)
    t = torch.linspace(0, 1, 33, dtype=DTYPE)[:, None]
    h = g.curve(torch.tensor([0.5], dtype=DTYPE)) - (start + end) / 2
    around = 0.2 * torch.cartesian_prod(*[torch.linspace(-1, 1, 21, dtype=DTYPE)] * 2)
    energy = curve_energy(metric, torch.lerp(start, end, t) + 4 * t * (1 - t) * (h + around)[:, None])
    assert g.improvement > 0.01
    assert energy[len(around) // 2] <= energy.min() * (1 + 1e-4)


def ring(generator, n=400, zeta=1e-3):
    """Latents on three quarters of a ring, and the RBF variance fitted to them: sigma grows to zeta^(-1/2)."""
    angle = 1.5 * math.pi * torch.rand(n, generator=generator, dtype=DTYPE)
    radius = 1 + 0.05 * torch.randn(n, generator=generator, dtype=DTYPE)
    z = radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=-1)
    return z, fit_rbf_precision(z, torch.full((n, 2), 0.01, dtype=DTYPE), n_centers=24, curvature=1.5, zeta=zeta)


def test_warm_start_follows_the_data(generator):
    latents, rbf = ring(generator)
    metric = PullbackMetric(lambda z: 1.0 * z, rbf)
    angle = torch.tensor([[0.1, 2.0], [1.0, 2.8]], dtype=DTYPE)
    start, end = torch.stack([angle.cos(), angle.sin()], dim=-1).unbind(1)
    cold, warm = (geodesic(metric, start, end, method="quadratic", warm_start=w) for w in (False, True))
    assert (warm.length <= cold.length * 1.02).all()
    # after the first stage alone the curve lies on the data
    only = geodesic(metric, start, end, method="quadratic", warm_start=True, max_steps=8)
    middle = only.curve(torch.tensor([0.5], dtype=DTYPE))[:, 0]
    assert (torch.cdist(middle, latents).amin(-1) < 0.2).all()


def test_independent_noise_keeps_to_low_variance(generator):
    """In the literal Eq. 4 each point adds its sigma, so on finer curves the terms in sigma dominate."""
    _, rbf = ring(generator)
    metric = PullbackMetric(lambda z: 1.0 * z, rbf)
    angle = torch.tensor([0.1, 2.0], dtype=DTYPE)
    start, end = torch.stack([angle.cos(), angle.sin()], dim=-1)
    t = torch.linspace(0, 1, 101, dtype=DTYPE)
    paid = {}
    for noise in ("shared", "independent"):
        g = geodesic(metric, start, end, method="quadratic", noise=noise)
        paid[noise] = rbf(g.curve(t)).square().sum(-1).mean()
    assert paid["independent"] <= paid["shared"] * 1.01


def test_quadratic_options_are_checked(generator):
    a, b = torch.zeros(2), torch.ones(2)
    plain = PullbackMetric(mlp(dtype=torch.float32))
    with pytest.raises(ValueError, match="noise: got 'none', expected one of 'shared', 'independent'"):
        geodesic(plain, a, b, method="quadratic", noise="none")
    with pytest.raises(ValueError, match="noise: got 'independent', which needs"):
        geodesic(plain, a, b, method="quadratic", noise="independent")
    with pytest.raises(ValueError, match="warm_start: got True for a metric whose std has no precision"):
        geodesic(plain, a, b, method="quadratic", warm_start=True)


# The network


def test_a_coordinate_that_start_and_end_share_can_bend():
    """With the affine map alone that coordinate would be constant, and no half-plane geodesic could be represented."""
    start, end = torch.tensor([[-1.0, 1.0]], dtype=DTYPE), torch.tensor([[1.0, 1.0]], dtype=DTYPE)
    g = geodesic(half_plane().metric, start, end, method="network", max_steps=500)
    torch.testing.assert_close(g.length, half_plane().distance(start, end), rtol=1e-3, atol=0)
    assert g.points[0, :, 1].max() > 1.3


def test_more_hidden_units_draw_better(generator):
    start, end = sphere_pairs(5, generator, DTYPE, 2, 2.8)
    exact = sphere().distance(start, end)
    error = [
        float(
            (geodesic(sphere().metric, start, end, method="network", n_hidden=n, max_steps=500).length / exact).mean()
        )
        for n in (2, 16)
    ]
    assert 1 <= error[1] < error[0]
    with pytest.raises(ValueError, match="n_hidden: got 3, expected an even number"):
        geodesic(sphere().metric, start, end, method="network", n_hidden=3)


def test_smoothing_presses_small_singular_values_down(generator):
    values = torch.tensor([1e-6, 1e-2, 1.0, 100.0], dtype=DTYPE)
    U = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=DTYPE))[0]
    M = U @ torch.diag(values) @ U.T
    found = torch.linalg.eigvalsh(smoothed(M, 0.01))
    torch.testing.assert_close(found, (values**3 / (values**2 + 0.01)).sort().values, rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="strength: got 0"):
        smoothed(M, 0)


def test_smoothing_has_derivatives_where_singular_values_meet():
    M = torch.eye(3, dtype=DTYPE).requires_grad_()
    (slope,) = torch.autograd.grad(smoothed(M, 0.5).diagonal().sum(), M)
    s = 1.0  # of s^3 / (s^2 + l): (s^4 + 3 l s^2) / (s^2 + l)^2
    expected = (s**4 + 1.5 * s**2) / (s**2 + 0.5) ** 2
    torch.testing.assert_close(slope, expected * torch.eye(3, dtype=DTYPE))


@pytest.mark.slow
def test_smoothing_changes_the_curve_and_not_how_it_is_measured(generator):
    metric = DECODERS["mlp"]
    start, end = torch.randn(2, 3, 2, generator=generator, dtype=DTYPE)
    plain = geodesic(metric, start, end, method="network", max_steps=300)
    weak = geodesic(metric, start, end, method="network", max_steps=300, smoothing=1e-8)
    strong = geodesic(metric, start, end, method="network", max_steps=300, smoothing=10.0)
    torch.testing.assert_close(weak.length, plain.length, rtol=5e-3, atol=0)
    assert (strong.length >= plain.length * (1 - 5e-3)).all()
    assert (strong.length > plain.length * (1 + 1e-4)).any()
    assert_keeps_its_promises(metric, start, end, strong)


# The graph


@pytest.mark.slow
def test_the_graph_goes_around_what_the_line_runs_into(generator):
    metric = wall_metric(0.05)
    latents = 2 * torch.rand(800, 2, generator=generator, dtype=DTYPE) - 1
    g = geodesic(metric, *WALL, method="graph", latents=latents)
    assert g.line_length > 5
    assert g.length < 3.2
    assert g.status == Status.BEST_OF_ITS_KIND
    # another method that begins from this curve converges to the geodesic
    better = geodesic(metric, *WALL, init=g.points, max_steps=300)
    assert better.length < g.length


def test_the_graph_s_curves_do_not_depend_on_the_other_pairs(generator):
    """Their ends are as many as the latents here, and no path may lead through them."""
    metric = DECODERS["mlp with sigma"]
    start, end = torch.randn(2, 40, 2, generator=generator, dtype=DTYPE)
    latents = torch.randn(80, 2, generator=generator, dtype=DTYPE)
    together = solve("graph", metric, start, end, latents)
    for i in range(40):
        alone = solve("graph", metric, start[i], end[i], latents)
        torch.testing.assert_close(alone.length, together.length[i], rtol=LAWS["graph"].repeats, atol=0)
        torch.testing.assert_close(alone.points, together.points[i], rtol=1e-3, atol=1e-3)


def test_the_graph_needs_latents():
    with pytest.raises(ValueError, match="latents: got None, expected the points"):
        geodesic(sphere().metric, torch.ones(2), 1.5 * torch.ones(2), method="graph")


# The boundary value problem


def test_few_nodes_are_told(generator):
    metric = wall_metric(0.05)
    start, end = torch.tensor([[-1.0, 0.3]], dtype=DTYPE), torch.tensor([[1.0, 0.4]], dtype=DTYPE)
    g = geodesic(metric, start, end, method="bvp", max_nodes=40)
    assert_keeps_its_promises(metric, start, end, g, rtol=5e-3)
    assert g.status in (Status.MAX_NODES, Status.DIVERGED, Status.UNRESOLVED)
    with pytest.raises(ValueError, match="max_nodes: got 4, expected at least 5"):
        geodesic(metric, start, end, method="bvp", max_nodes=4)


@pytest.mark.slow
def test_a_curve_that_is_tried_again_keeps_to_its_nodes(generator):
    """Twice the segments would be more than the allowed number of nodes."""
    metric = PullbackMetric(mlp(), deviation())
    start, end = torch.randn(2, 6, 2, generator=generator, dtype=DTYPE)
    few, some = (geodesic(metric, start, end, method="bvp", max_nodes=n) for n in (8, 40))
    for g in (few, some):
        assert_keeps_its_promises(metric, start, end, g)
    assert (few.status == Status.MAX_NODES).any()
    assert some.converged.sum() > few.converged.sum()


def test_an_iteration_that_leaves_the_domain_is_told(generator):
    """Half-plane pairs near the boundary with a guess that dips below it on the way."""
    start, end = torch.tensor([[-3.0, 0.05]], dtype=DTYPE), torch.tensor([[3.0, 0.05]], dtype=DTYPE)

    def metric(z):
        inside = z[..., 1] > 0
        y = torch.where(inside, z[..., 1], torch.nan)
        return torch.eye(2, dtype=z.dtype) / y.square()[..., None, None]

    for method in ("bvp", "fixed_point"):
        g = geodesic(metric, start, end, method=method)
        assert torch.isfinite(g.length).all()
        exact = half_plane().distance(start, end)
        if g.converged:
            torch.testing.assert_close(g.length, exact, rtol=3e-4, atol=0)
        else:
            assert g.length > exact


# The fixed point


def test_nodes_and_lengthscale_are_checked(generator):
    start, end = sphere_pairs(2, generator, DTYPE)
    with pytest.raises(ValueError, match="n_nodes: got 3, expected at least 4"):
        geodesic(sphere().metric, start, end, method="fixed_point", n_nodes=3)
    with pytest.raises(ValueError, match="lengthscale: got -1"):
        geodesic(sphere().metric, start, end, method="fixed_point", lengthscale=-1.0)


@pytest.mark.slow
def test_more_nodes_see_more(generator):
    metric = PullbackMetric(mlp(), deviation())
    start, end = torch.randn(2, 20, 2, generator=generator, dtype=DTYPE)
    few, many = (
        geodesic(metric, start, end, method="fixed_point", n_nodes=n, lengthscale=3 / (n - 1), max_steps=300)
        for n in (5, 33)
    )
    assert many.converged.sum() > few.converged.sum()


# GEORCE


@pytest.mark.slow
def test_georce_does_not_stall_on_walls_of_variance(generator):
    _, rbf = ring(generator, zeta=3.0)
    metric = PullbackMetric(lambda z: 1.0 * z, rbf)
    angle = torch.stack([torch.linspace(0, 1, 8), torch.linspace(2.5, 4.2, 8)], dim=-1).to(DTYPE)
    start, end = torch.stack([angle.cos(), angle.sin()], dim=-1).unbind(1)
    g, expected = (geodesic(metric, start, end, method=m, max_steps=300) for m in ("georce", "newton"))
    torch.testing.assert_close(g.length, expected.length, rtol=1e-3, atol=0)
    assert (g.improvement[:5] > 0.1).all()
    # where walls are three times as high it needs many steps, but each of them makes progress
    _, rbf = ring(generator, zeta=0.3)
    problem = Problem(
        as_metric(PullbackMetric(lambda z: 1.0 * z, rbf)),
        start,
        end,
        None,
        32,
        1e-4,
        torch.full((8,), 100),
        lambda: None,
    )
    at_first = georce.solve(replace(problem, max_steps=torch.ones(8, dtype=torch.long))).solver_length
    fall = georce.solve(problem).solver_length / at_first
    assert (fall < 0.99).all()
    assert (fall < 0.85).double().mean() >= 0.5


def test_georce_is_of_second_order(generator):
    """Half the segments give four times the deviation, because the metric is taken at the middle of a segment."""
    space = paraboloid()
    start, end = space.sample(3, generator, DTYPE)
    middle = torch.tensor([0.5], dtype=DTYPE)
    exact = geodesic(space.metric, start, end, method="bvp", rtol=1e-10).curve(middle)
    away = []
    for n in (8, 16, 32):
        problem = Problem(as_metric(space.metric), start, end, None, n, 1e-12, torch.full((3,), 500), lambda: None)
        away.append(float((georce.solve(problem).curve(middle) - exact).norm(dim=-1).max()))
    assert 3 < away[0] / away[1] < 5
    assert 3 < away[1] / away[2] < 5


# A new solver: one file and one line


@pytest.mark.slow
def test_a_solver_is_one_file_and_one_line(tmp_path):
    """The README's own example works in a copy of the package."""
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    section = text[text.index("## How to add a solver") :]
    code = re.search(r"```python\n(.*?)```", section, re.S).group(1)
    line = re.search(r'`("[a-z]+": [a-z]+\.solve)`', section).group(1)
    name = line.split('"')[1]
    package = tmp_path / "geolib"
    for source in (PROJECT / "geolib").rglob("*.py"):
        target = package / source.relative_to(PROJECT / "geolib")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    (package / "solvers" / f"{name}.py").write_text(code, encoding="utf-8")
    registry = package / "solvers" / "__init__.py"
    registered = registry.read_text(encoding="utf-8").replace("SOLVERS = {", f"SOLVERS = {{\n    {line},")
    registry.write_text(registered.replace("import bvp,", f"import {name}, bvp,"), encoding="utf-8")
    script = f"""
import torch, geolib
theta = torch.tensor([[1.0, 0.0], [0.7, 0.3]], dtype=torch.float64)
def sphere(z):
    t, p = z.unbind(-1)
    return torch.stack([t.sin() * p.cos(), t.sin() * p.sin(), t.cos()], dim=-1)
g = geolib.geodesic(geolib.PullbackMetric(sphere), theta, theta + torch.tensor([0.3, 1.2]), method="{name}")
exact = 2 * torch.asin((sphere(theta) - sphere(theta + torch.tensor([0.3, 1.2]))).norm(dim=-1) / 2)
assert "{name}" in geolib.METHODS and geolib.__file__.startswith({str(tmp_path)!r})
assert (g.improvement > 0.01).all() and (g.length >= exact * (1 - 1e-6)).all(), g
print(g.report())
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": "", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "2 of 2" in done.stdout
