"""Every method leaves a geodesic that is no minimum, or says that it could not."""

import math

import pytest
import torch
from promises import assert_keeps_its_promises

from geolib import METHODS, PullbackMetric, Status, geodesic, geodesic_index
from geolib.curves import straight
from geolib.paths.problem import Solution
from geolib.solvers import SOLVERS

pytestmark = pytest.mark.smoke

DTYPE = torch.float64
# the best of a parabola or of a path over a graph is no geodesic here
SMOOTH = [method for method in METHODS if method not in ("quadratic", "graph")]


def bump(height=1.2):
    """The plane with a hill at the origin."""
    return PullbackMetric(lambda z: torch.cat([z, height * torch.exp(-2 * z.square().sum(-1, keepdim=True))], dim=-1))


def ball():
    """The unit sphere in stereographic coordinates, which are regular everywhere but at the north pole."""
    return PullbackMetric(
        lambda z: torch.cat([2 * z, z.square().sum(-1, keepdim=True) - 1], -1) / (1 + z.square().sum(-1, keepdim=True))
    )


def solve(metric, start, end, method, **options):
    latents = torch.randn(300, 2, generator=torch.Generator().manual_seed(0), dtype=DTYPE)
    return geodesic(metric, start, end, method=method, latents=latents, **{"init": "line"} | options)


@pytest.mark.parametrize("method", SMOOTH)
def test_the_line_over_a_hill_is_left(method):
    """It is a geodesic by symmetry, of length 3.385; the way around takes 2.948, on either side."""
    start = torch.tensor([[-1.2, 0.0], [0.0, 1.2]], dtype=DTYPE)
    end = -start
    g = solve(bump(), start, end, method)
    assert_keeps_its_promises(bump(), start, end, g)
    around = geodesic(bump(), start[0], end[0], init=aside(start[0], end[0], 1.0), rtol=1e-7, n_segments=64).length
    assert float(around) == pytest.approx(2.9476, abs=1e-4)
    torch.testing.assert_close(g.length, around.expand(2), rtol=2e-4, atol=0)
    assert g.converged.all()
    assert not g.index.any()


def aside(start, end, height, n=32):
    t = torch.linspace(0, 1, n + 1, dtype=DTYPE)[:, None]
    across = torch.stack([start[1] - end[1], end[0] - start[0]]) / (end - start).norm()
    return torch.lerp(start, end, t) + height * (math.pi * t).sin() * across


@pytest.mark.parametrize("method", ["quadratic", "graph"])
def test_a_coarse_method_does_not_stay_on_the_hill(method):
    start, end = torch.tensor([-1.2, 0.0], dtype=DTYPE), torch.tensor([1.2, 0.0], dtype=DTYPE)
    assert float(solve(bump(), start, end, method).length) < 3.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "angle"), [("newton", 3.3), ("newton", 3.8), ("spline", 3.3), ("spline", 3.8), ("georce", 3.3)]
)
def test_a_great_circle_beyond_the_antipode_is_left_for_the_shorter_one(method, angle):
    """An arc of a great circle longer than pi, given as the first curve, is a saddle."""
    turn = torch.linspace(-angle / 2, angle / 2, 65, dtype=DTYPE)
    init = torch.stack([(turn / 2).tan(), torch.zeros_like(turn)], dim=-1)  # through the south pole
    long_way = PullbackMetric(ball().mean)
    assert int(geodesic_index(long_way, init)) == 1
    g = solve(long_way, init[0], init[-1], method, init=init)
    assert float(g.length) == pytest.approx(2 * math.pi - angle, rel=2e-3 if g.converged else 2e-2)
    assert int(g.index) == 0


@pytest.mark.slow
@pytest.mark.parametrize("method", SMOOTH)
def test_what_is_converged_is_a_minimum(method, generator):
    """Over a hill of any shape, from ends on either side of it."""
    start = torch.tensor([-1.2, 0.0], dtype=DTYPE) + 0.2 * torch.randn(6, 2, generator=generator, dtype=DTYPE)
    end = torch.tensor([1.2, 0.0], dtype=DTYPE) + 0.2 * torch.randn(6, 2, generator=generator, dtype=DTYPE)
    start[0, 1] = end[0, 1] = 0
    for height in (0.8, 1.5):
        g = solve(bump(height), start, end, method)
        assert g.converged.sum() >= 4
        assert not g.index[g.converged].any()
        finer = geodesic_index(bump(height), g.curve(torch.linspace(0, 1, 257, dtype=DTYPE)))
        assert not finer[g.converged].any()


def test_a_method_that_always_comes_back_reports_a_saddle(monkeypatch):
    def stubborn(problem):
        still = torch.zeros_like(problem.max_steps)
        points = straight(problem.start, problem.end, problem.n_segments)
        return Solution.through(problem, points, torch.full_like(still, Status.CONVERGED), still)

    monkeypatch.setitem(SOLVERS, "newton", stubborn)
    start = torch.tensor([[-1.2, 0.0], [-1.2, 3.0]], dtype=DTYPE)
    end = start * start.new_tensor([-1.0, 1.0])
    g = geodesic(bump(), start, end, init="line")
    assert g.status.tolist() == [Status.SADDLE, Status.CONVERGED]
    assert g.index.tolist() == [1, 0]
    assert g.converged.tolist() == [False, True]
    assert "bent aside" in g.report()


def test_without_steps_left_a_saddle_is_not_converged():
    start, end = torch.tensor([-1.2, 0.0], dtype=DTYPE), torch.tensor([1.2, 0.0], dtype=DTYPE)
    for max_steps in (1, 2, 3):
        g = geodesic(bump(), start, end, init="line", max_steps=max_steps)
        assert not g.converged
        assert g.length <= g.line_length
