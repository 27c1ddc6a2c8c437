"""Length, energy and residual of curves whose values are known, their order of convergence, and their invariances."""

import math

import numpy as np
import pytest
import torch
from problems import (
    SPACES,
    circle,
    conv_decoder,
    deviation,
    flat_plane,
    half_plane,
    linear_decoder,
    linear_map,
    mlp,
    sphere,
    sphere_angles,
    sphere_point,
)

from geolib import PullbackMetric, curve_energy, curve_length, geodesic_residual
from geolib.curves import energy_and_gradient
from geolib.riemannian import as_metric

pytestmark = pytest.mark.smoke

DTYPE = torch.float64
N_SEGMENTS = (8, 16, 32, 64, 128)

every_space = pytest.mark.parametrize("space", SPACES, ids=str)
with_geodesics = pytest.mark.parametrize("space", [s for s in SPACES if s.geodesic is not None], ids=str)
METRICS = {
    "immersion": PullbackMetric(mlp()),
    "immersion with sigma": PullbackMetric(mlp(), deviation()),
    "Eq. 4": PullbackMetric(mlp(), deviation(), mlp(7, 5, 2)),
    "callable": half_plane().metric,
}
every_metric = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)


def even(n):
    return torch.linspace(0, 1, n + 1, dtype=DTYPE)


def wiggle(n, generator, batch=(), amplitude=0.3):
    """Smooth curves in the upper half-plane whose speed is not constant: points at even t of one smooth map each."""
    t = even(n)
    c = torch.rand(*batch, 4, 1, generator=generator, dtype=DTYPE)
    x = c[..., 0, :] + t + amplitude * (3 * t).sin()
    y = 1 + c[..., 1, :] + amplitude * (4 * t + c[..., 2, :]).cos()
    return torch.stack([x, y], dim=-1)


def order(errors):
    """The slope of the logarithm of errors over that of N."""
    return -np.polyfit(np.log(N_SEGMENTS), np.log([float(e) for e in errors]), 1)[0]


# Known values. curve: t -> points; length and energy of the smooth curve by hand

LATITUDE = 1.0
KNOWN = {
    # on the circle of radius 2, with angle 3 t^2: speed 12 t
    "arc of a circle": (circle().metric, lambda t: 3 * t[:, None] ** 2, 6.0, 48.0),
    # y = 1 + 2 t: speed 2 / (1 + 2 t)
    "vertical line": (
        half_plane().metric,
        lambda t: torch.stack([torch.zeros_like(t), 1 + 2 * t], dim=-1),
        math.log(3),
        4 / 3,
    ),
    "horizontal line": (
        half_plane().metric,
        lambda t: torch.stack([3 * t**2, torch.full_like(t, 2.0)], dim=-1),
        1.5,
        3.0,
    ),
    "circle of latitude": (
        sphere().metric,
        lambda t: torch.stack([torch.full_like(t, LATITUDE), 2 * t], dim=-1),
        2 * math.sin(LATITUDE),
        4 * math.sin(LATITUDE) ** 2,
    ),
    # sphere's meridian as a plain callable: theta = 0.5 + t^2
    "meridian without immersion": (
        sphere().tensor,
        lambda t: torch.stack([0.5 + t**2, torch.zeros_like(t)], dim=-1),
        1.0,
        4 / 3,
    ),
}
every_known = pytest.mark.parametrize("known", KNOWN)


@every_known
@pytest.mark.parametrize("quantity", ["length", "energy"])
def test_known_curves_are_second_order(known, quantity):
    metric, curve, length, energy = KNOWN[known]
    measure, exact = {"length": (curve_length, length), "energy": (curve_energy, energy)}[quantity]
    errors = [abs(measure(metric, curve(even(n))) - exact) for n in N_SEGMENTS]
    assert errors[-1] < 1e-3 * exact
    if errors[0] > 1e-10:  # else exact for any N
        assert order(errors) == pytest.approx(2, abs=0.05)


@every_metric
def test_smooth_curves_are_second_order(metric):
    def curves(n):
        return wiggle(n, torch.Generator().manual_seed(0), (6,))

    for measure in (curve_length, curve_energy):
        exact = measure(metric, curves(4096))
        # over several curves, since one curve's error can pass through zero
        errors = [(measure(metric, curves(n)) - exact).norm() for n in N_SEGMENTS]
        assert order(errors) == pytest.approx(2, abs=0.25)


@pytest.mark.parametrize("n", [1, 2, 7, 20])
@pytest.mark.parametrize("space", [flat_plane(), linear_decoder("linear", linear_map(3, 5, 20))], ids=str)
def test_a_straight_line_has_no_bias_in_N(space, n, generator):
    a, b = space.sample(4, generator, DTYPE)
    line = torch.lerp(a[:, None], b[:, None], even(n)[:, None])
    torch.testing.assert_close(curve_length(space.metric, line), space.distance(a, b), rtol=1e-12, atol=0)
    torch.testing.assert_close(curve_energy(space.metric, line), space.distance(a, b).square(), rtol=1e-12, atol=0)


@with_geodesics
def test_length_of_a_geodesic_is_the_distance(space, generator):
    a, b = space.sample(10, generator, DTYPE)
    length = curve_length(space.metric, space.geodesic(a, b, even(2000)))
    torch.testing.assert_close(length, space.distance(a, b), rtol=2e-6, atol=1e-9)


# Inequalities


@every_metric
@pytest.mark.parametrize("n", [1, 2, 33])
def test_energy_is_at_least_the_squared_length(metric, n, generator):
    points = wiggle(n, generator, (5,))
    length, energy = curve_length(metric, points), curve_energy(metric, points)
    assert (energy >= length.square() * (1 - 1e-14)).all()
    if n == 33:
        assert (energy > 1.01 * length.square()).all()


@with_geodesics
def test_energy_is_the_squared_length_at_constant_speed(space, generator):
    a, b = space.sample(10, generator, DTYPE)
    points = space.geodesic(a, b, even(400))
    length = curve_length(space.metric, points)
    torch.testing.assert_close(curve_energy(space.metric, points), length.square(), rtol=1e-7, atol=1e-12)


# Invariances


@every_metric
def test_length_does_not_depend_on_the_parameter_and_energy_does(metric):
    def curve(t):
        return torch.stack([t + (3 * t).sin() / 3, 1.5 + (4 * t).cos() / 3], dim=-1)

    t = even(4000)
    other = (t + t**2) / 2
    torch.testing.assert_close(curve_length(metric, curve(t)), curve_length(metric, curve(other)), rtol=1e-5, atol=0)
    assert abs(curve_energy(metric, curve(other)) / curve_energy(metric, curve(t)) - 1) > 1e-2


def sphere_rotation(z):
    """A rotation of space, in colatitude and longitude."""
    Q, _ = torch.linalg.qr(torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0], [1.0, 0.0, 3.0]], dtype=DTYPE))
    return sphere_angles((sphere_point(z) @ (Q * torch.det(Q))).reshape(1, -1, 3)).reshape(z.shape)


A = linear_map(2, 5, 30)
MIXED = torch.tensor([[2.0, 1.0], [-1.0, 0.5]], dtype=DTYPE)
ISOMETRIES = {
    "half-plane, scaled and shifted": (
        half_plane(),
        half_plane().metric,
        lambda z: 3 * z + z.new_tensor([2.0, 0.0]),
        0,
    ),
    "half-plane, inverted": (
        half_plane(),
        half_plane().metric,
        lambda z: z * z.new_tensor([-1.0, 1.0]) / z.square().sum(-1, keepdim=True),
        1e-5,
    ),
    "sphere, rotated": (sphere(), sphere().metric, sphere_rotation, 0),
    "linear, in other coordinates": (
        linear_decoder("linear", A),
        linear_decoder("linear", A @ torch.linalg.inv(MIXED)).metric,
        lambda z: z @ MIXED.T,
        0,
    ),
    # the features turn the outputs
    "decoder, turned": (
        linear_decoder("linear", A),
        PullbackMetric(lambda z: z @ A.T, features=lambda x: x.flip(-1) * -1.0),
        lambda z: z,
        0,
    ),
}


@pytest.mark.parametrize("isometry", ISOMETRIES)
def test_isometries_change_no_length_and_no_energy(isometry, generator):
    space, other, image, discretisation = ISOMETRIES[isometry]
    points = wiggle(2000, generator)
    for measure in (curve_length, curve_energy, geodesic_residual):
        expected = measure(space.metric, points)
        tolerance = max(discretisation, 1e-5 if measure is geodesic_residual else 1e-9)
        torch.testing.assert_close(measure(other, image(points)), expected, rtol=tolerance, atol=tolerance)


@every_metric
def test_reversal_changes_nothing(metric, generator):
    points = wiggle(20, generator, (3,))
    for measure in (curve_length, curve_energy, geodesic_residual):
        torch.testing.assert_close(measure(metric, points.flip(-2)), measure(metric, points), rtol=1e-9, atol=0)


@every_metric
def test_a_curve_in_two_parts_is_as_long_as_both(metric, generator):
    points = wiggle(20, generator)
    both = curve_length(metric, points[:8]) + curve_length(metric, points[7:])
    torch.testing.assert_close(both, curve_length(metric, points))
    torch.testing.assert_close(as_metric(metric).segment_lengths(points).sum(-1), curve_length(metric, points))


# Batches, chunks and kinds


@every_metric
def test_batch_is_a_stack(metric, generator):
    points = wiggle(9, generator, (2, 3))
    for measure in (curve_length, curve_energy, geodesic_residual):
        values = measure(metric, points)
        assert values.shape == (2, 3)
        alone = torch.stack([measure(metric, p) for p in points.reshape(6, 10, 2)])
        torch.testing.assert_close(values.reshape(6), alone, rtol=1e-10, atol=0)


@pytest.mark.parametrize("chunk_size", [1, 3, 7, 8, 25])
@pytest.mark.parametrize("kind", ["immersion", "Eq. 4"])
def test_chunks_change_nothing(kind, chunk_size, generator):
    # 7 points per curve: chunks shorter than a curve, as long, and of several curves
    arguments = (mlp(),) if kind == "immersion" else (mlp(), deviation(), mlp(7, 5, 2))
    whole, chunked = PullbackMetric(*arguments), PullbackMetric(*arguments, chunk_size=chunk_size)
    points = wiggle(6, generator, (4,))
    for measure in (curve_length, curve_energy, geodesic_residual):
        torch.testing.assert_close(measure(chunked, points), measure(whole, points), rtol=1e-11, atol=1e-12)
    chunked, whole = as_metric(chunked), as_metric(whole)
    torch.testing.assert_close(chunked.segment_lengths(points), whole.segment_lengths(points), rtol=1e-11, atol=1e-12)
    for a, b in zip(energy_and_gradient(chunked, points), energy_and_gradient(whole, points), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def test_callables_get_many_points_in_pieces():
    seen = []

    def metric(z):
        seen.append(z[..., 0].numel())
        return half_plane().metric(z)

    points = wiggle(20_000, torch.Generator().manual_seed(0))
    length = curve_length(metric, points)
    assert max(seen) < 10_000
    assert sum(seen) == 20_000
    torch.testing.assert_close(length, (points.diff(dim=0).norm(dim=-1) / (points[1:, 1] + points[:-1, 1]) * 2).sum())


def test_a_decoder_is_evaluated_once_a_point_and_never_on_more_than_a_chunk():
    seen = []

    def decoder(z):
        seen.append(z.shape[0])
        return torch.cat([z, z.sin()], dim=-1)

    metric = PullbackMetric(decoder, chunk_size=64)
    metric.chunk_size(torch.rand(2, 2))
    seen.clear()
    curve_length(metric, torch.rand(100, 21, 2))
    assert max(seen) <= 64
    assert sum(seen) == 2100


@every_metric
def test_float32_is_close(metric, generator):
    if isinstance(metric, PullbackMetric):
        metric = PullbackMetric(mlp(dtype=torch.float32), deviation(dtype=torch.float32))
        reference = METRICS["immersion with sigma"]
    else:
        reference = metric
    points = wiggle(32, generator, (3,))
    for measure in (curve_length, curve_energy):
        value = measure(metric, points.float())
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), measure(reference, points), rtol=1e-4, atol=0)


# Gradients


@every_metric
def test_length_and_energy_are_differentiable(metric, generator):
    points = wiggle(3, generator, (2,)).requires_grad_()
    for measure in (curve_length, curve_energy):
        assert torch.autograd.gradcheck(lambda p, measure=measure: measure(metric, p), points)


@every_metric
@pytest.mark.parametrize("n", [1, 6])
def test_energy_and_gradient_are_autograd_s(metric, n, generator):
    points = wiggle(n, generator, (4,)).requires_grad_()
    expected = curve_energy(metric, points)
    (slope,) = torch.autograd.grad(expected.sum(), points)
    energy, gradient = energy_and_gradient(as_metric(metric), points.detach())
    torch.testing.assert_close(energy, expected.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, slope, rtol=1e-11, atol=1e-11)
    with torch.no_grad():  # where solvers call it
        torch.testing.assert_close(energy_and_gradient(as_metric(metric), points)[1], gradient, rtol=0, atol=0)


@pytest.mark.parametrize("metric", [linear_decoder("", 2 * torch.eye(2)).metric, half_plane().metric, METRICS["Eq. 4"]])
def test_segments_without_length_have_no_gradient_rather_than_nan(metric):
    still = torch.tensor([[0.3, 1.2]], dtype=DTYPE).expand(5, 2).clone().requires_grad_()
    length = curve_length(metric, still)
    assert length == 0
    (slope,) = torch.autograd.grad(length, still)
    assert torch.equal(slope, torch.zeros_like(still))
    # one that stops on its way has the gradient of the rest
    stops = torch.tensor([[0.3, 1.2], [0.5, 1.0], [0.5, 1.0], [0.9, 1.4]], dtype=DTYPE).requires_grad_()
    (slope,) = torch.autograd.grad(curve_length(metric, stops), stops)
    moving = stops.detach()[[0, 1, 3]].requires_grad_()
    (expected,) = torch.autograd.grad(curve_length(metric, moving), moving)
    torch.testing.assert_close(torch.stack([slope[0], slope[1] + slope[2], slope[3]]), expected)


@every_metric
def test_points_that_stand_still_leave_finite_gradients(metric):
    """A decoder's matrix product may round equal rows differently, so that their chord is 1e-16 instead of zero."""
    still = torch.tensor([[0.3, 1.2]], dtype=DTYPE).expand(5, 2).clone().requires_grad_()
    for measure in (curve_length, curve_energy):
        value = measure(metric, still)
        assert value < 1e-14
        assert torch.isfinite(torch.autograd.grad(value, still)[0]).all()


def test_lengths_record_a_graph_only_where_asked():
    points = wiggle(4, torch.Generator().manual_seed(0))
    for metric in METRICS.values():
        assert curve_length(metric, points).grad_fn is None
        with torch.no_grad():
            assert curve_length(metric, points.clone().requires_grad_()).grad_fn is None


# Bad input


def test_bad_points():
    metric = flat_plane().metric
    for measure in (curve_length, curve_energy):
        with pytest.raises(ValueError, match=r"points: got shape \(1, 2\), expected .* n >= 2"):
            measure(metric, torch.zeros(1, 2))
        with pytest.raises(ValueError, match="points: 1 of 4"):
            measure(metric, torch.tensor([[0.0, 0], [1, torch.nan]]))
        with pytest.raises(TypeError, match="points: got list"):
            measure(metric, [[0.0], [1.0]])


def test_a_metric_that_is_not_finite_on_the_curve_says_where():
    points = torch.tensor([[0.0, 1.0], [0.0, 0.5], [0.0, -0.5]], dtype=DTYPE)
    with pytest.raises(ValueError, match=r"metric: not finite at 1 of 2 points, first at z = \[0, 0\]"):
        curve_length(half_plane().metric, points)


def test_a_conv_decoder_s_curves(generator):
    metric = PullbackMetric(conv_decoder())
    points = wiggle(40, generator)
    x = conv_decoder()(points).detach()
    torch.testing.assert_close(curve_length(metric, points), x.diff(dim=0).norm(dim=-1).sum())
