"""The cubic B-spline: agreement with SciPy, and the properties that its users rely on."""

import numpy as np
import pytest
import torch
from scipy import interpolate
from torch.autograd import gradcheck

from geolib import CubicBSpline
from geolib.spline import basis, uniform_knots

pytestmark = pytest.mark.smoke

DTYPE = torch.float64
T = torch.linspace(0, 1, 101, dtype=DTYPE)
CLAMPED = ([0.0] * 4, [1.0] * 4)
KNOTS = {
    "Bezier": [],
    "uniform": [0.25, 0.5, 0.75],
    "uneven": [0.01, 0.3, 0.31, 0.9],
    "double": [0.4, 0.4, 0.7],
    "triple": [0.5, 0.5, 0.5],
}
every_knots = pytest.mark.parametrize("knots", KNOTS)


def close(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=DTYPE), rtol=tolerance, atol=tolerance)


def spline(knots, generator, batch=(), d=2):
    """A random spline with these inner knots."""
    inner = KNOTS[knots] if isinstance(knots, str) else knots
    P = torch.randn(*batch, len(inner) + 4, d, generator=generator, dtype=DTYPE)
    return CubicBSpline(P, torch.tensor([*CLAMPED[0], *inner, *CLAMPED[1]], dtype=DTYPE))


def scipy_of(curve):
    return interpolate.BSpline(curve.knots.numpy(), curve.control_points.numpy(), 3)


# Against scipy


@every_knots
def test_values_are_scipy_s(knots, generator):
    curve = spline(knots, generator)
    close(curve(T), scipy_of(curve)(T.numpy()))


@every_knots
def test_velocity_is_scipy_s_derivative(knots, generator):
    curve = spline(knots, generator)
    # at a triple knot the derivative jumps; both implementations return the right-hand one
    close(curve.velocity(T), scipy_of(curve).derivative()(T.numpy()), 1e-10)


@every_knots
def test_inserted_control_points_are_scipy_s(knots, generator):
    curve = spline(knots, generator)
    finer = curve.insert_knot()
    gaps = np.diff(curve.knots.numpy())
    j = int(gaps.argmax())
    middle = curve.knots[j].item() + gaps[j] / 2
    tck = curve.knots.numpy(), list(curve.control_points.T.numpy()), 3
    expected, coefficients, _ = interpolate.insert(middle, tck)
    close(finer.knots, expected)
    n = len(finer.control_points)
    close(finer.control_points, np.stack(coefficients, axis=-1)[:n])


@pytest.mark.parametrize("n_points", [4, 5, 9, 17])
def test_interpolation_is_scipy_s(n_points, generator):
    # "not a knot" at both ends
    points = torch.randn(n_points, 3, generator=generator, dtype=DTYPE)
    t = np.linspace(0, 1, n_points)
    close(CubicBSpline.fit(points)(T), interpolate.make_interp_spline(t, points.numpy(), k=3)(T.numpy()), 1e-9)


# Basis


@every_knots
def test_basis_is_a_partition_of_unity(knots, generator):
    N = basis(spline(knots, generator).knots, T)
    close(N.sum(-1), torch.ones_like(T))
    assert (N >= 0).all()
    assert (N > 0).sum(-1).max() <= 4
    close(N[0], torch.eye(N.shape[1], dtype=DTYPE)[0])
    close(N[-1], torch.eye(N.shape[1], dtype=DTYPE)[-1])


def test_uniform_knots():
    close(uniform_knots(4, dtype=DTYPE), [0.0, 0, 0, 0, 1, 1, 1, 1])
    close(uniform_knots(7, dtype=DTYPE), [0.0, 0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1, 1])
    assert uniform_knots(4).dtype == torch.get_default_dtype()
    close(CubicBSpline(torch.zeros(7, 2, dtype=DTYPE)).knots, uniform_knots(7, dtype=DTYPE))
    with pytest.raises(ValueError, match="n_control: got 3, expected at least 4"):
        uniform_knots(3)


# Knot insertion


@every_knots
def test_insertion_keeps_the_curve_many_times(knots, generator):
    curve = finer = spline(knots, generator, batch=(3,))
    for _ in range(40):
        finer = finer.insert_knot()
    assert finer.control_points.shape == (3, curve.control_points.shape[1] + 40, 2)
    close(finer(T), curve(T))
    close(finer.velocity(T), curve.velocity(T), 1e-9)


def test_insertion_halves_the_first_of_the_largest_intervals(generator):
    curve = spline([0.2, 0.5, 0.6], generator)
    expected = [[0.2, 0.5, 0.6, 0.8], [0.2, 0.35, 0.5, 0.6, 0.8], [0.1, 0.2, 0.35, 0.5, 0.6, 0.8]]
    for inner in expected:
        curve = curve.insert_knot()
        close(curve.knots[4:-4], inner)


@pytest.mark.parametrize("dtype", [torch.float32, DTYPE])
def test_as_many_insertions_as_intervals_keep_even_knots_even(dtype):
    curve = CubicBSpline(torch.zeros(4, 2, dtype=dtype))
    for n_intervals in (1, 2, 4, 8, 16):
        for _ in range(n_intervals):
            curve = curve.insert_knot()
        torch.testing.assert_close(curve.knots, uniform_knots(2 * n_intervals + 3, dtype=dtype))


def test_insertion_makes_three_control_points_of_two(generator):
    curve = spline([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], generator)
    old, new = (set(map(tuple, c.control_points.tolist())) for c in (curve, curve.insert_knot()))
    assert len(new - old) == 3
    assert len(old - new) == 2


# Batches


@every_knots
def test_a_batch_is_a_stack(knots, generator):
    batch = spline(knots, generator, batch=(2, 3), d=4)
    for i in range(2):
        for j in range(3):
            one = CubicBSpline(batch.control_points[i, j], batch.knots)
            close(batch(T)[i, j], one(T))
            close(batch.velocity(T)[i, j], one.velocity(T))
            close(batch.insert_knot().control_points[i, j], one.insert_knot().control_points)
    assert batch(T).shape == batch.velocity(T).shape == (2, 3, len(T), 4)
    close(CubicBSpline.fit(batch(T))(T)[1, 2], CubicBSpline.fit(batch(T)[1, 2])(T), 1e-9)


def test_each_takes_every_curve_at_its_own_parameters(generator):
    curve = spline("uneven", generator, batch=(3,))
    t = torch.rand(3, 11, generator=generator, dtype=DTYPE)
    for i in range(3):
        close(curve.each(t)[i], CubicBSpline(curve.control_points[i], curve.knots)(t[i]))


def test_curves_are_selected_along_the_first_batch_dimension(generator):
    curve = spline("uneven", generator, batch=(3, 2))
    some = curve[torch.tensor([2, 0])]
    assert torch.equal(some.control_points, curve.control_points[[2, 0]])
    close(some(T), curve(T)[[2, 0]])


def test_everything_is_made_where_the_points_are(generator):
    points = torch.randn(2, 7, 2, generator=generator, dtype=DTYPE)
    t = T.clone()
    with torch.device("meta"):  # whatever is made without the points' device lands there, and cannot be mixed with them
        curves = [CubicBSpline.fit(points), CubicBSpline.fit(points, n_control=5), CubicBSpline.fit(points[:, :3])]
        curves += [CubicBSpline(points), CubicBSpline.line(points[0], points[1])]
        curves += [curve.insert_knot() for curve in curves]
        made = [x for c in curves for x in (c.control_points, c.knots, c(t), c.velocity(t))]
    assert {x.device.type for x in made} == {"cpu"}
    assert all(torch.isfinite(x).all() for x in made)


# Ends and lines


@pytest.mark.parametrize("dtype", [torch.float32, DTYPE])
@every_knots
def test_ends_are_exact(knots, dtype, generator):
    curve = spline(knots, generator, batch=(5,))
    P, knots = 100 * curve.control_points.to(dtype), curve.knots.to(dtype)
    for _ in range(3):
        curve = CubicBSpline(P, knots)
        ends = curve(torch.tensor([0.0, 1.0], dtype=dtype))
        assert torch.equal(ends, P[:, [0, -1]])
        assert torch.equal(curve.each(torch.tensor([[0.0, 1.0]] * 5, dtype=dtype)), P[:, [0, -1]])
        finer = curve.insert_knot()
        assert torch.equal(finer.control_points[:, [0, -1]], P[:, [0, -1]])
        P, knots = finer.control_points, finer.knots


@every_knots
def test_line_has_constant_speed_whatever_the_knots(knots, generator):
    start, end = torch.randn(2, 3, 2, generator=generator, dtype=DTYPE)
    curve = CubicBSpline.line(start, end, spline(knots, generator).knots)
    close(curve(T), torch.lerp(start[:, None], end[:, None], T[:, None]))
    close(curve.velocity(T), (end - start)[:, None].expand(3, len(T), 2), 1e-11)
    assert torch.equal(curve.knots, spline(knots, generator).knots)


def test_line_has_two_points_between_by_default(generator):
    start, end = torch.randn(2, 3, generator=generator, dtype=DTYPE)
    curve = CubicBSpline.line(start, end)
    close(curve.control_points, torch.stack([start, (2 * start + end) / 3, (start + 2 * end) / 3, end]))
    assert torch.equal(curve.control_points[[0, -1]], torch.stack([start, end]))


# Fits


@pytest.mark.parametrize("n_segments", [1, 2, 3, 4, 7, 20])
def test_fit_interpolates(n_segments, generator):
    points = torch.randn(2, n_segments + 1, 3, generator=generator, dtype=DTYPE)
    curve = CubicBSpline.fit(points)
    t = torch.linspace(0, 1, n_segments + 1, dtype=DTYPE)
    close(curve(t), points, 1e-10)
    assert torch.equal(curve.control_points[:, [0, -1]], points[:, [0, -1]])


@pytest.mark.parametrize("degree", [1, 2, 3])
@pytest.mark.parametrize("n_segments", [1, 2, 3, 4, 7, 20])
@pytest.mark.parametrize("n_control", [None, 4, 6])
def test_fit_reproduces_polynomials(degree, n_segments, n_control, generator):
    degree = min(degree, n_segments)
    c = torch.randn(degree + 1, 2, generator=generator, dtype=DTYPE)

    def polynomial(t):
        return t[:, None] ** torch.arange(degree + 1, dtype=DTYPE) @ c

    points = polynomial(torch.linspace(0, 1, n_segments + 1, dtype=DTYPE))
    close(CubicBSpline.fit(points, n_control=n_control)(T), polynomial(T), 1e-9)


def test_fit_is_the_nearest_spline_with_exact_ends(generator):
    points = torch.randn(30, 2, generator=generator, dtype=DTYPE)
    t = torch.linspace(0, 1, 30, dtype=DTYPE)
    curve = CubicBSpline.fit(points, n_control=7)
    assert curve.control_points.shape == (7, 2)
    assert torch.equal(curve.control_points[[0, -1]], points[[0, -1]])
    # least squares: the remaining error is orthogonal to every free basis function
    free = basis(curve.knots, t)[:, 1:-1]
    close(free.T @ (curve(t) - points), torch.zeros(5, 2, dtype=DTYPE), 1e-11)


def test_fit_never_has_more_control_points_than_data(generator):
    points = torch.randn(6, 2, generator=generator, dtype=DTYPE)
    close(CubicBSpline.fit(points, n_control=50)(T), CubicBSpline.fit(points)(T))


# Gradients


@every_knots
def test_gradients_reach_the_control_points(knots, generator):
    curve = spline(knots, generator, batch=(1,))
    t = torch.tensor([0.0, 0.3, 0.4, 1.0], dtype=DTYPE)
    P = curve.control_points.requires_grad_()

    def everything(P):
        c = CubicBSpline(P, curve.knots)
        return c(t), c.velocity(t), c.each(t[None]), c.insert_knot()(t)

    assert gradcheck(everything, (P,))


def test_gradients_of_the_parameter_are_the_velocity(generator):
    curve = spline("uneven", generator, d=1)
    t = torch.rand(9, generator=generator, dtype=DTYPE).requires_grad_()
    (slope,) = torch.autograd.grad(curve(t).sum(), t)
    close(slope, curve.velocity(t.detach())[:, 0], 1e-10)


# Bad input


def test_bad_control_points():
    with pytest.raises(ValueError, match=r"control_points: got shape \(3, 2\)"):
        CubicBSpline(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="control_points: 1 of 8"):
        CubicBSpline(torch.tensor([[0.0, 0], [1, torch.nan], [2, 2], [3, 3]]))
    with pytest.raises(TypeError, match="control_points: got list"):
        CubicBSpline([[0.0]])


@pytest.mark.parametrize(
    "knots",
    [
        [0.0, 0, 0, 0, 1, 1, 1],  # too few
        [0.0, 0, 0, 0.1, 1, 1, 1, 1],  # loose at the start
        [0.0, 0, 0, 0, 0.9, 1, 1, 1],  # and at the end
        [0.0, 0, 0, 0, 2, 2, 2, 2],  # another range
        [torch.nan] * 8,
    ],
)
def test_bad_knots(knots):
    with pytest.raises(ValueError, match="knots: got"):
        CubicBSpline(torch.zeros(4, 2), torch.tensor(knots))


def test_knots_that_fall_or_are_of_another_kind():
    with pytest.raises(ValueError, match="nondecreasing"):
        CubicBSpline(torch.zeros(6, 2), torch.tensor([0.0, 0, 0, 0, 0.6, 0.4, 1, 1, 1, 1]))
    with pytest.raises(TypeError, match=r"^knots: got dtype torch\.float64.* control_points"):
        CubicBSpline(torch.zeros(4, 2), uniform_knots(4, dtype=DTYPE))
    with pytest.raises(ValueError, match=r"^knots: got shape \(8,\), expected \(9,\)"):
        CubicBSpline(torch.zeros(5, 2), uniform_knots(4))


@pytest.mark.parametrize("method", ["__call__", "velocity"])
def test_bad_parameters(method):
    evaluate = getattr(CubicBSpline(torch.zeros(4, 2)), method)
    for t in (torch.tensor([-0.1]), torch.tensor([0.5, 1.1]), torch.tensor([torch.nan]), torch.tensor(0.5), 0.5):
        with pytest.raises(ValueError, match="t: got"):
            evaluate(t)


def test_bad_parameters_of_each(generator):
    curve = spline("uniform", generator, batch=(3,))
    for shape in ((5,), (2, 5), (1, 3, 5)):  # one row per curve is expected
        with pytest.raises(ValueError, match="t: got"):
            curve.each(torch.zeros(shape, dtype=DTYPE))


def test_bad_fits():
    with pytest.raises(ValueError, match=r"points: got shape \(1, 2\)"):
        CubicBSpline.fit(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="points: 4 of 4"):
        CubicBSpline.fit(torch.full((2, 2), torch.inf))
    for n_control in (0, 3, -1):
        with pytest.raises(ValueError, match=f"n_control: got {n_control}"):
            CubicBSpline.fit(torch.zeros(9, 2), n_control=n_control)


def test_bad_lines():
    with pytest.raises((TypeError, ValueError)):
        CubicBSpline.line(torch.tensor([0.0, torch.nan]), torch.zeros(2))
    with pytest.raises(TypeError, match=r"^knots: got dtype torch\.float64.* start"):
        CubicBSpline.line(torch.zeros(2), torch.zeros(2), uniform_knots(4, dtype=DTYPE))


# Knots anywhere


@pytest.mark.parametrize("at", [0.03, 0.25, 0.5, 0.99])
def test_a_knot_anywhere_changes_nothing(at, generator):
    curve = CubicBSpline(torch.randn(3, 8, 2, generator=generator, dtype=torch.float64))
    finer = curve.insert_knot(at)
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    assert finer.control_points.shape == (3, 9, 2)
    torch.testing.assert_close(finer(t), curve(t), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(finer.velocity(t), curve.velocity(t), rtol=1e-10, atol=1e-10)
    for outside in (0.0, 1.0, -0.2):
        with pytest.raises(ValueError, match="at: got"):
            curve.insert_knot(outside)
