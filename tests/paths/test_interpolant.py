"""Curves through points: their order of accuracy, what they represent exactly, and how they meet and are joined."""

import itertools
import math

import numpy as np
import pytest
import torch
from costs import operations_and_waits

from geolib import CubicBSpline, geodesic
from geolib.paths.interpolant import Curve
from geolib.paths.problem import resampled

pytestmark = pytest.mark.smoke

DTYPE = torch.float64
T = torch.linspace(0, 1, 301, dtype=DTYPE)
N_SEGMENTS = (64, 128, 256, 512)


def even(n, dtype=DTYPE):
    return torch.linspace(0, 1, n + 1, dtype=dtype)


def close(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def polynomial(degree, generator, batch=(3,)):
    """Random curves of this degree in three dimensions, and their velocities, as functions of t."""
    c = torch.randn(*batch, degree + 1, 3, generator=generator, dtype=DTYPE)
    k = torch.arange(degree + 1)
    return lambda t: t[:, None] ** k @ c, lambda t: (t[:, None] ** k[:-1] * k[1:]) @ c[..., 1:, :]


def smooth(t):
    return torch.stack([(3 * t).cos() * (1 + t), (5 * t).sin(), t.exp()], dim=-1)


def smooth_velocity(t):
    x = (3 * t).cos() - 3 * (1 + t) * (3 * t).sin()
    return torch.stack([x, 5 * (5 * t).cos(), t.exp()], dim=-1)


def random_curve(generator, n=12, batch=(4,), d=2):
    return Curve.through(torch.randn(*batch, n + 1, d, generator=generator, dtype=DTYPE))


# Accuracy


@pytest.mark.parametrize("region", [(0.3, 0.7), (0.0, 0.125), (0.875, 1.0)], ids=["middle", "start", "end"])
def test_order_of_accuracy(region):
    t = torch.linspace(*region, 1001, dtype=DTYPE)
    errors, velocity_errors = [], []
    for n in N_SEGMENTS:
        curve = Curve.through(smooth(even(n)))
        errors.append(float((curve(t) - smooth(t)).abs().max()))
        velocity_errors.append(float((curve.velocity(t) - smooth_velocity(t)).abs().max()))
    order, velocity_order = (-np.polyfit(np.log(N_SEGMENTS), np.log(e), 1)[0] for e in (errors, velocity_errors))
    # near the ends one-sided slopes have large errors of a higher order, which fall faster
    assert order > 3.8
    assert velocity_order > 2.8


def test_slopes_are_of_fourth_order():
    errors = [float((Curve.through(smooth(even(n))).slopes - smooth_velocity(even(n))).abs().max()) for n in N_SEGMENTS]
    assert -np.polyfit(np.log(N_SEGMENTS), np.log(errors), 1)[0] == pytest.approx(4, abs=0.3)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 9])
def test_polynomials_are_exact(n, generator):
    for degree in range(1, min(n, 3) + 1):
        position, velocity = polynomial(degree, generator)
        curve = Curve.through(position(even(n)))
        close(curve(T), position(T))
        close(curve.velocity(T), velocity(T), 1e-11)
    if n >= 4:  # slopes are exact up to degree four
        position, velocity = polynomial(4, generator)
        close(Curve.through(position(even(n))).slopes, velocity(even(n)), 1e-11)


def test_lines(generator):
    start, end = torch.randn(2, 5, 3, generator=generator, dtype=DTYPE)
    line = Curve.line(start, end)
    assert line.n_segments == 1
    assert torch.equal(line(T), torch.lerp(start[:, None], end[:, None], T[:, None]))
    assert torch.equal(line.velocity(T), (end - start)[:, None].expand(5, len(T), 3))
    assert torch.equal(line.even_points(7), torch.lerp(start[:, None], end[:, None], even(7)[:, None]))
    still = Curve.line(start, start)
    assert torch.equal(still(T), start[:, None].expand(5, len(T), 3))


def test_values_are_numpy_s(generator):
    """Against the polynomials in Bernstein's form, with De Casteljau's scheme."""
    curve = random_curve(generator, n=6, batch=())
    p, s = curve.points, curve.slopes / 18
    for i in range(6):
        corners = [p[i], p[i] + s[i], p[i + 1] - s[i + 1], p[i + 1]]
        for u in (0.0, 0.2, 0.5, 0.9):
            rest = corners
            while len(rest) > 1:
                rest = [(1 - u) * a + u * b for a, b in itertools.pairwise(rest)]
            close(curve(torch.tensor([(i + u) / 6], dtype=DTYPE))[0], rest[0], 1e-11)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 32])
def test_velocity_is_the_derivative(n, generator):
    curve = random_curve(generator, n)
    t = torch.rand(20, generator=generator, dtype=DTYPE) * 0.99
    near = torch.autograd.functional.jacobian(lambda t: curve(t).sum((0, 2)), t).diagonal()
    close(curve.velocity(t).sum((0, 2)), near, 1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, DTYPE])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 31, 100])
def test_ends_are_exact(n, dtype, generator):
    points = 100 * torch.randn(6, n + 1, 2, generator=generator).to(dtype)
    curve = Curve.through(points)
    ends = torch.tensor([0.0, 1.0], dtype=dtype)
    assert curve(ends).dtype == dtype
    for found in (curve(ends), curve.each(ends.expand(6, 2)), curve.subdivided(3 * n)(ends), curve.even_points(1)):
        assert torch.equal(found, points[:, [0, -1]])
    torch.testing.assert_close(curve.velocity(ends), curve.slopes[:, [0, -1]])


@pytest.mark.parametrize("reverse", [False, True])
def test_symmetries(reverse, generator):
    """A curve does not depend on its direction, nor on the coordinates' origin, axes and unit."""
    curve = random_curve(generator)
    if reverse:
        close(Curve.through(curve.points.flip(1))(T), curve(1 - T), 1e-11)
    turn, shift = torch.randn(2, 2, generator=generator, dtype=DTYPE), torch.tensor([3.0, -20.0], dtype=DTYPE)
    close(Curve.through(curve.points @ turn + shift)(T), curve(T) @ turn + shift, 1e-11)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_float32_is_as_good_as_its_rounding(scale, generator):
    points = scale * (5 + torch.randn(4, 65, 3, generator=generator))
    single, double = Curve.through(points), Curve.through(points.double())
    t = torch.rand(4, 200, generator=generator)
    away = (single.each(t) - double.each(t.double())).abs().max()
    # rounding of t alone moves a point by 64 times the largest chord times the rounding unit
    assert away <= 600 * torch.finfo(torch.float32).eps * points.abs().max()
    assert (single.even_points(256) - double.even_points(256)).abs().max() <= 8 * 6e-8 * points.abs().max()


# Batches


def test_a_batch_is_a_stack(generator):
    curve = random_curve(generator, batch=(2, 3))
    flat = curve.reshaped((6,))
    t = torch.rand(6, 50, generator=generator, dtype=DTYPE)
    assert curve(T).shape == curve.velocity(T).shape == (2, 3, len(T), 2)
    for i in range(6):
        one = Curve.through(curve.points[i // 3, i % 3])
        close(flat.each(t)[i], one(t[i]))
        close(curve(T)[i // 3, i % 3], one(T))
        close(curve.velocity(T)[i // 3, i % 3], one.velocity(T))
        close(flat[torch.tensor([i])](T)[0], one(T))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 12])
@pytest.mark.parametrize("times", [1, 2, 3, 8])
def test_subdivision_changes_nothing(n, times, generator):
    curve = random_curve(generator, n)
    fine = curve.subdivided(n * times)
    assert fine.n_segments == n * times
    assert torch.equal(fine.points[:, ::times], curve.points)
    assert torch.equal(fine.points, curve.even_points(n * times))
    close(fine.slopes[:, ::times], curve.slopes)
    close(fine(T), curve(T))
    inside = T + 0.1234 * (T[1] - T[0]) * (T < 1)  # no knot, at which a velocity's slope may jump
    close(fine.velocity(inside), curve.velocity(inside), 1e-10)


def test_other_numbers_of_segments_keep_points_and_velocities(generator):
    curve = random_curve(generator, 12)
    other = curve.subdivided(50)
    close(other.points, curve(even(50)))
    close(other.slopes, curve.velocity(even(50)))
    close(other.points, resampled(curve.points, 50))
    assert torch.equal(other.points[:, [0, -1]], curve.points[:, [0, -1]])


@pytest.mark.parametrize("numbers", [(1, 32), (32, 64), (4, 6), (10, 64, 1)])
def test_joined_curves_are_the_same(numbers, generator):
    parts = [random_curve(generator, n, batch=(2,)) for n in numbers]
    rows = torch.randperm(2 * len(numbers), generator=generator).split(2)
    all_of_them = Curve.joined(parts, rows)
    assert all_of_them.n_segments == math.lcm(*numbers)
    for part, places in zip(parts, rows, strict=True):
        close(all_of_them[places](T), part(T))


def test_curves_whose_numbers_have_nothing_in_common_meet_on_eight_times_the_finer():
    """It contains the points of the finer curve, and is so fine that the coarser one hardly changes."""
    coarse, fine = (Curve.through(smooth(even(n))[None]) for n in (31, 64))
    both = Curve.joined([coarse, fine], [torch.tensor([1]), torch.tensor([0])])
    assert both.n_segments == 8 * 64
    close(both(T)[:1], fine(T))
    assert (both(T)[1:] - coarse(T)).abs().max() < 0.01 * (coarse(T) - smooth(T)).abs().max()


def test_replaced_curves(generator):
    old, new = random_curve(generator, 8, batch=(5,)), random_curve(generator, 16, batch=(2,))
    rows = torch.tensor([1, 3])
    before = old.points.clone()
    curve = old.replaced(rows, new)
    close(curve(T)[rows], new(T))
    close(curve(T)[[0, 2, 4]], old(T)[[0, 2, 4]])
    assert torch.equal(old.points, before)


# Splines


@pytest.mark.parametrize("n_control", [4, 5, 7, 20])
def test_a_spline_on_even_knots_is_kept(n_control, generator):
    spline = CubicBSpline(torch.randn(2, 3, n_control, 2, generator=generator, dtype=DTYPE))
    curve = Curve.of_spline(spline, n_control - 3)
    close(curve(T), spline(T))
    close(curve.velocity(T), spline.velocity(T), 1e-11)
    assert torch.equal(curve.points[..., [0, -1], :], spline.control_points[..., [0, -1], :])


@pytest.mark.parametrize("init", [None, 4, 5, 7, 9, 11, 33], ids=lambda n: f"init of {n} points")
def test_the_spline_method_s_curve_is_its_spline(init, generator, monkeypatch):
    """Even knots cut a spline into cubics on equal intervals, which values and velocities at the knots determine."""
    from_solver = []
    build = CubicBSpline.trusted.__func__

    def spied(cls, control_points, knots):
        curve = build(cls, control_points, knots)
        from_solver.append(curve)
        return curve

    monkeypatch.setattr(CubicBSpline, "trusted", classmethod(spied))
    start, end = torch.tensor([[1.0, 0.3], [1.4, 1.8]], dtype=DTYPE)
    points = None
    if init is not None:
        t = even(init - 1)[:, None]
        points = torch.lerp(start, end, t) + 0.1 * (math.pi * t).sin() * torch.tensor([1.0, -0.5], dtype=DTYPE)

    def metric(z):
        return torch.diag_embed(torch.stack([torch.ones_like(z[..., 0]), z[..., 0].sin().square()], dim=-1))

    g = geodesic(metric, start, end, method="spline", init="line" if points is None else points)
    assert g.converged
    t = torch.rand(200, generator=generator, dtype=DTYPE)
    away = [float((s(t) - g.curve(t)).abs().max()) for s in from_solver]
    assert min(away) < 1e-13
    found = from_solver[int(np.argmin(away))]
    close(found.velocity(t)[0], g.curve.velocity(t), 1e-11)


# Cost


@pytest.mark.parametrize("n", [4, 64])
def test_curves_never_wait_for_the_device(n, generator):
    """The number of operations does not depend on that of segments."""
    curve = random_curve(generator, n, batch=(50,))
    t = torch.rand(50, 40, generator=generator, dtype=DTYPE)
    rows = torch.arange(0, 50, 2)
    for call, most in {
        lambda: Curve.through(curve.points): 30,
        lambda: Curve(curve.points, curve.slopes).unchecked(t): 30,
        lambda: Curve(curve.points, curve.slopes).subdivided(4 * n): 55,
        lambda: curve.replaced(rows, curve[rows]): 10,
    }.items():
        operations, waits = operations_and_waits(call)
        assert waits == 0
        assert operations <= most


# Bad input


@pytest.mark.parametrize("method", ["__call__", "velocity"])
def test_bad_parameters(method, generator):
    evaluate = getattr(random_curve(generator), method)
    for t in (torch.tensor([-0.1]), torch.tensor([0.5, 1.1]), torch.tensor([torch.nan]), torch.tensor(0.5), 0.5):
        with pytest.raises(ValueError, match="t: got"):
            evaluate(t)


def test_bad_parameters_of_each(generator):
    curve = random_curve(generator, batch=(3,))
    for shape in ((5,), (2, 5), (1, 3, 5)):  # one row per curve is expected
        with pytest.raises(ValueError, match="t: got shape"):
            curve.each(torch.zeros(shape, dtype=DTYPE))
    with pytest.raises(ValueError, match="t: got values from"):
        curve.each(torch.full((3, 2), 1.5, dtype=DTYPE))
