"""Lengths of smooth curves to a tolerance, and parameters at equal steps in length."""

import math

import numpy as np
import pytest
import torch
from costs import operations_and_waits
from problems import WALL, deviation, half_plane, linear_decoder, linear_map, mlp, sphere, wall_metric

from geolib import CubicBSpline, PullbackMetric, curve_length
from geolib.paths.interpolant import Curve
from geolib.paths.measure import even_parameters, latent_lengths, measure
from geolib.riemannian import as_metric

pytestmark = pytest.mark.smoke

DTYPE = torch.float64
METRICS = {
    "immersion": PullbackMetric(mlp(), deviation()),
    "Eq. 4": PullbackMetric(mlp(), deviation(), mlp(7, 5, 2)),
    "callable": half_plane().metric,
}
every_metric = pytest.mark.parametrize("metric", [as_metric(m) for m in METRICS.values()], ids=METRICS)
WALLED = as_metric(wall_metric())


def even(n, dtype=DTYPE):
    return torch.linspace(0, 1, n + 1, dtype=dtype)


def curves(generator, n=5):
    """Bent curves without hairpins, in the upper half-plane."""
    line = torch.stack([torch.linspace(0, 2, 6, dtype=DTYPE), torch.linspace(1, 1.5, 6, dtype=DTYPE)], dim=-1)
    return spline(line + 0.3 * torch.rand(n, 6, 2, generator=generator, dtype=DTYPE))


def spline(control_points):
    """The curves of uniform B-splines, which are as smooth as their control points."""
    return Curve.of_spline(CubicBSpline(control_points), control_points.shape[-2] - 3)


# Equal steps


def test_parameters_divide_the_length():
    torch.testing.assert_close(even_parameters(even(8).expand(2, 9), torch.ones(2, 8, dtype=DTYPE), 4)[1], even(4))
    # one segment of length 1, then one of 3: quarters of the length; the break at any t
    for t in (0.5, 0.9):
        uneven = even_parameters(torch.tensor([[0, t, 1]], dtype=DTYPE), torch.tensor([[1.0, 3.0]], dtype=DTYPE), 4)
        expected = torch.tensor([[0, t, t + (1 - t) / 3, t + (1 - t) * 2 / 3, 1]], dtype=DTYPE)
        torch.testing.assert_close(uneven, expected)


def test_parameters_agree_with_numpy_s_interpolation(generator):
    lengths = torch.rand(5, 40, generator=generator, dtype=DTYPE)
    steps = torch.rand(5, 40, generator=generator, dtype=DTYPE)
    t = torch.cat([torch.zeros(5, 1, dtype=DTYPE), (steps / steps.sum(-1, keepdim=True)).cumsum(-1)], dim=-1)
    result = even_parameters(t, lengths, 13)
    for row, own, one in zip(lengths.numpy(), t.numpy(), result.numpy(), strict=True):
        total = np.concatenate([[0], row.cumsum()])
        np.testing.assert_allclose(one, np.interp(np.linspace(0, total[-1], 14), total, own), atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, DTYPE])
def test_parameters_of_curves_that_stop(dtype):
    lengths = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 1e-30]], dtype=dtype)
    t = even_parameters(even(4, dtype).expand(4, 5), lengths, 6)
    assert t.dtype == dtype
    assert torch.isfinite(t).all()
    assert (t.diff(dim=-1) >= 0).all()
    assert torch.equal(t[:, 0], torch.zeros(4, dtype=dtype))
    assert torch.equal(t[:, -1], torch.ones(4, dtype=dtype))
    torch.testing.assert_close(t[0], even(6, dtype))  # no length at all: even in t


def test_latent_parameters_are_even_in_the_latent_space(generator):
    curve = curves(generator)
    steps = curve.each(even_parameters(*latent_lengths(curve), 64)).diff(dim=-2).norm(dim=-1)
    torch.testing.assert_close(steps, steps.mean(-1, keepdim=True).expand(5, 64), rtol=0.02, atol=0)


# Lengths


@pytest.mark.slow
@every_metric
@pytest.mark.parametrize("rtol", [1e-2, 1e-4, 1e-6])
def test_length_is_measured_to_the_tolerance(metric, rtol, generator):
    curve = curves(generator)
    measured = measure(metric, curve, 8, rtol)
    exact = curve_length(metric, curve(even(16_384)))
    torch.testing.assert_close(measured.length, exact, rtol=rtol, atol=0)
    # and the points are equally far apart, as seen on a fine subdivision of every piece
    fine = torch.lerp(measured.t[:, :-1, None], measured.t[:, 1:, None], even(256)[:-1]).flatten(1)
    pieces = (
        metric.segment_lengths(curve.each(torch.cat([fine, measured.t[:, -1:]], dim=-1))).reshape(5, 8, 256).sum(-1)
    )
    torch.testing.assert_close(pieces, pieces.mean(-1, keepdim=True).expand(5, 8), rtol=max(0.03, 10 * rtol), atol=0)


@pytest.mark.parametrize("n_segments", [4, 32])
def test_known_lengths(n_segments):
    start, end = (
        torch.tensor([[0.0, 1.0], [0.0, 2.0]], dtype=DTYPE),
        torch.tensor([[0.0, 3.0], [4.0, 2.0]], dtype=DTYPE),
    )
    measured = measure(as_metric(half_plane().metric), Curve.line(start, end), n_segments, 1e-6)
    torch.testing.assert_close(measured.length, torch.tensor([math.log(3), 2.0], dtype=DTYPE), rtol=1e-6, atol=0)
    # up a vertical line equal steps in length are equal factors of y
    torch.testing.assert_close(1 + 2 * measured.t[0], 3 ** even(n_segments), rtol=1e-3, atol=0)
    torch.testing.assert_close(measured.t[1], even(n_segments), rtol=1e-9, atol=1e-9)


def test_flat_lengths_are_exact(generator):
    space = linear_decoder("", linear_map(3, 5, 50))
    start, end = space.sample(6, generator, DTYPE)
    measured = measure(as_metric(space.metric), Curve.line(start, end), 7, 1e-4)
    torch.testing.assert_close(measured.length, space.distance(start, end), rtol=1e-12, atol=0)
    torch.testing.assert_close(measured.t, even(7).expand(6, 8), rtol=1e-10, atol=1e-12)


def test_a_length_is_not_measured_beyond_rounding(generator):
    """Segments so short that rounding turns them are longer than the curve: halving has to end before."""
    single, double = (as_metric(PullbackMetric(mlp(dtype=dtype, gain=1))) for dtype in (torch.float32, DTYPE))
    start = torch.randn(40, 1, 2, generator=generator, dtype=DTYPE)
    curve = curves(generator, 40)
    curve = Curve((start + 0.05 * curve.points).float(), (0.05 * curve.slopes).float())
    measured = measure(single, curve, 32, 1e-7)
    exact = measure(double, Curve(curve.points.double(), curve.slopes.double()), 32, 1e-9).length
    image = double.immersion(start[:, 0]).norm(dim=-1)
    assert ((measured.length - exact).abs() <= 4 * torch.finfo(torch.float32).eps * (image + exact)).all()
    assert measured.resolved.all()


def test_a_curve_without_length():
    P = torch.ones(2, 4, 2, dtype=DTYPE)
    measured = measure(as_metric(sphere().tensor), spline(P), 8, 1e-4)
    assert torch.equal(measured.length, torch.zeros(2, dtype=DTYPE))
    torch.testing.assert_close(measured.t, even(8).expand(2, 9))


@every_metric
def test_a_batch_is_a_stack(metric, generator):
    curve = curves(generator)
    measured = measure(metric, curve, 8, 1e-4)
    for i in range(5):
        one = measure(metric, curve[torch.tensor([i])], 8, 1e-4)
        torch.testing.assert_close(one.length[0], measured.length[i], rtol=1e-10, atol=0)
        torch.testing.assert_close(one.t[0], measured.t[i], rtol=1e-8, atol=1e-8)


def test_a_ridge_that_the_segments_step_over_is_measured():
    curve = Curve.line(*WALL[:, None])
    coarse = curve_length(WALLED, curve(even(32)))
    torch.testing.assert_close(coarse[0], torch.tensor(2.0, dtype=DTYPE), rtol=1e-2, atol=0)  # it does step over it
    exact = curve_length(WALLED, curve(even(100_000)))
    torch.testing.assert_close(measure(WALLED, curve, 32, 1e-4).length, exact, rtol=2e-2, atol=0)


def test_a_curve_cannot_hide_by_hurrying():
    """Most of this curve's parameter is spent at its ends, so that equal steps of t jump over the ridge."""
    P = torch.tensor([-1.0] * 8 + [1.0] * 8, dtype=DTYPE)
    curve = spline(torch.stack([P, 0 * P], dim=-1)[None])
    exact = curve_length(WALLED, curve(even(200_000)))
    torch.testing.assert_close(measure(WALLED, curve, 32, 1e-4).length, exact, rtol=2e-2, atol=0)


# Cost


@pytest.mark.parametrize("n_curves", [1, 40])
def test_a_measurement_waits_for_the_device_once_and_launches_few_operations(n_curves, generator):
    """A host that asks a GPU for a value, or how many curves are left, lets it run dry."""
    curve = curves(generator, n_curves)
    metric = half_plane().metric
    operations, waits = operations_and_waits(lambda: measure(as_metric(metric), curve, 8, 1e-2))
    own_operations, own_waits = operations_and_waits(lambda: metric(curve.points))
    assert own_waits == 0
    # besides the one for the curves that are left: the metric is checked at the starts, and in each of three sums
    assert waits <= 1 + 4
    assert operations <= 225 + 4 * own_operations
