"""geodesic_residual and is_geodesic: exact values, order, sharpness, invariance."""

import math

import numpy as np
import pytest
import torch
from problems import (
    SPACES,
    deviation,
    flat_plane,
    great_circle_distance,
    half_plane,
    half_plane_distance,
    linear_decoder,
    linear_map,
    mlp,
    paraboloid,
    sphere,
)
from torch import nn

from geolib import PullbackMetric, curve_energy, curve_length, geodesic, geodesic_index, geodesic_residual, is_geodesic
from geolib.riemannian import as_metric

pytestmark = pytest.mark.smoke

DTYPE = torch.float64
N_SEGMENTS = (32, 64, 128, 256)
with_geodesics = pytest.mark.parametrize("space", [s for s in SPACES if s.geodesic is not None], ids=str)


def even(n):
    return torch.linspace(0, 1, n + 1, dtype=DTYPE)


def of_an_arc(angle):
    """The residual of a curve of constant curvature that turns by so much: pi sqrt(1 - (chord / arc)^2), unrolled."""
    return math.pi * math.sqrt(1 - (math.sin(angle / 2) / (angle / 2)) ** 2)


def order(residuals):
    return -np.polyfit(np.log(N_SEGMENTS), np.log(residuals.numpy()), 1)[0]


def test_no_curves_are_none_and_maps_are_tried_before_they_are_looked_into():
    """They were a crash of torch's, and so was a chain of another dtype."""
    for metric in (PullbackMetric(mlp()), half_plane().metric):
        for function in (curve_length, curve_energy, geodesic_residual, geodesic_index):
            for asks in (False, True):
                assert function(metric, torch.ones(3, 0, 9, 2, dtype=DTYPE, requires_grad=asks)).shape == (3, 0)
    chain = PullbackMetric(nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 4)))
    for function in (geodesic_residual, geodesic_index):
        with pytest.raises(ValueError, match="mean: failed on points of shape"):
            function(chain, torch.ones(9, 2, dtype=DTYPE))


# Zero for geodesics, at the expected order


@pytest.mark.slow
@with_geodesics
def test_residual_of_a_geodesic_is_zero(space, generator):
    a, b = space.sample(6, generator, DTYPE)
    assert geodesic_residual(space.metric, space.geodesic(a, b, even(256))).max() < 1e-2


@pytest.mark.parametrize("space", [sphere(), half_plane()], ids=str)
def test_residual_of_a_geodesic_falls_with_the_square_of_N(space, generator):
    """In coordinates; chords of an immersed great circle even have none."""
    a, b = space.sample(6, generator, DTYPE)
    residuals = torch.stack([geodesic_residual(space.tensor, space.geodesic(a, b, even(n))) for n in N_SEGMENTS])
    for i in range(6):
        assert order(residuals[:, i]) == pytest.approx(2, abs=0.2)


@pytest.mark.slow
def test_residual_on_a_decoder_falls_with_the_square_of_N(generator):
    metric = PullbackMetric(mlp(gain=1), deviation(gain=1))
    start, end = torch.randn(2, 6, 2, generator=generator, dtype=DTYPE)
    exact = geodesic(metric, start, end, n_segments=1024, rtol=1e-10)
    residuals = torch.stack([geodesic_residual(metric, exact.points[:, :: 1024 // n]) for n in N_SEGMENTS])
    assert residuals[-1].max() < 1e-2
    for i in range(6):
        assert order(residuals[:, i]) > 1.8


@pytest.mark.parametrize("space", [sphere(), half_plane(), paraboloid()], ids=str)
def test_residual_of_what_the_solver_finds_follows_the_tolerance(space, generator):
    a, b = space.sample(8, generator, DTYPE)
    for rtol in (1e-3, 1e-5, 1e-7):
        g = geodesic(space.metric, a, b, rtol=rtol, n_segments=64)
        assert (g.residual <= math.pi * math.sqrt(2 * rtol)).all()
        assert g.converged.all()


# Known values


@pytest.mark.parametrize("angle", [1e-3, 0.5, 2.0, 5.0])
@pytest.mark.parametrize(
    "metric", [flat_plane().metric, PullbackMetric(lambda z: z * 1.0)], ids=["tensor", "immersion"]
)
def test_residual_of_an_arc_in_the_plane(angle, metric):
    t = angle * even(400)
    points = torch.stack([t.cos(), t.sin()], dim=-1)
    for scale in (1e-3, 1.0, 50.0):  # it has no unit
        assert float(geodesic_residual(metric, scale * points)) == pytest.approx(of_an_arc(angle), rel=1e-3)


@pytest.mark.parametrize("n_waves", [1, 2, 7])
@pytest.mark.parametrize("amplitude", [0.001, 0.1])
def test_residual_tells_the_excess_length_in_flat_space(n_waves, amplitude, generator):
    """Exactly, of a curve of any shape: this is why it is weighed as it is."""
    A = linear_map(2, 5, 20)
    metric = PullbackMetric(lambda z: z @ A.T)
    t = even(20_000)
    wave = torch.stack([t, amplitude * (n_waves * math.pi * t).sin()], dim=-1) @ torch.linalg.pinv(A).T[:2]
    wave = (
        wave
        - torch.lerp(wave[0], wave[-1], t[:, None])
        + torch.lerp(t.new_tensor([0.0, 1]), t.new_tensor([1.0, 2]), t[:, None])
    )
    lengths = (wave @ A.T).diff(dim=0).norm(dim=-1)
    total = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    share = np.interp(np.linspace(0, float(total[-1]), 801), total.numpy(), t.numpy())
    points = torch.from_numpy(np.stack([np.interp(share, t.numpy(), wave[:, k].numpy()) for k in (0, 1)], axis=-1))
    length, chord = float(total[-1]), float(((wave[-1] - wave[0]) @ A.T).norm())
    expected = math.pi * math.sqrt(1 - (chord / length) ** 2)
    assert float(geodesic_residual(metric, points)) == pytest.approx(expected, rel=2e-2)
    excess = length / chord - 1
    residual = geodesic_residual(metric, points)
    assert is_geodesic(residual, 1.2 * excess)
    assert not is_geodesic(residual, 0.8 * excess)


def excess_by(residual):
    """The relative excess length that a residual stands for."""
    return float(residual.square()) / (2 * math.pi**2)


@pytest.mark.parametrize("kind", ["metric", "tensor"])
@pytest.mark.parametrize(("colatitude", "longitude"), [(0.3, 0.6), (1.0, 1.2), (1.5, 1.7), (1.55, 2.7), (2.5, 0.7)])
def test_residual_of_a_circle_of_latitude(colatitude, longitude, kind):
    t = even(400)
    points = torch.stack([torch.full_like(t, colatitude), longitude * t], dim=-1)
    excess = longitude * math.sin(colatitude) / float(great_circle_distance(points[:1], points[-1:])) - 1
    estimate = excess_by(geodesic_residual(getattr(sphere(), kind), points))
    assert estimate == pytest.approx(excess, rel=0.1)


def test_curvature_counts_in_the_residual():
    """By the Jacobi equation of an arc beside the equator, where all coefficients are constant."""
    colatitude, longitude = math.pi / 2 - 1e-3, 2.8
    points = torch.stack([torch.full((401,), colatitude, dtype=DTYPE), longitude * even(400)], dim=-1)
    length, bend = longitude * math.sin(colatitude), 1 / math.tan(colatitude)
    gain = bend**2 * (math.tan(length / 2) / (length / 2) - 1)  # per squared length
    for kind in ("metric", "tensor"):
        residual = geodesic_residual(getattr(sphere(), kind), points)
        assert float(residual) == pytest.approx(math.pi * math.sqrt(gain), rel=1e-3)


@pytest.mark.parametrize("width", [0.5, 1.0, 2.0])
def test_residual_of_a_horocycle(width):
    points = torch.stack([width * even(400), torch.full((401,), 2.0, dtype=DTYPE)], dim=-1)
    excess = width / 2 / float(half_plane_distance(points[:1], points[-1:])) - 1
    assert excess_by(geodesic_residual(half_plane().metric, points)) == pytest.approx(excess, rel=0.1)


@pytest.mark.parametrize("n_waves", [1, 2, 5])
@pytest.mark.parametrize("radius", [0.05, 0.3])
def test_residual_of_a_bent_image_is_that_of_the_plane(radius, n_waves):
    """A flat torus, however tightly it is rolled up in space."""
    torus = PullbackMetric(lambda z: radius * torch.cat([(z / radius).cos(), (z / radius).sin()], dim=-1))
    t = even(256)
    points = torch.stack([t, 0.005 * (n_waves * math.pi * t).sin()], dim=-1)
    flat, bent = geodesic_residual(flat_plane().metric, points), geodesic_residual(torus, points)
    assert float(bent) == pytest.approx(float(flat), rel=0.02)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_immersion_and_tensor_agree(space, generator):
    """The residual and the index belong to the metric, however it is given."""
    if not isinstance(space.metric, PullbackMetric):
        pytest.skip("it has no immersion")
    a, b = space.sample(6, generator, DTYPE)
    t = even(256)[:, None]
    line = torch.lerp(a[:, None], b[:, None], t)
    field = (math.pi * t).sin() * torch.randn(6, 1, a.shape[-1], generator=generator, dtype=DTYPE)
    points = space.geodesic(a, b, even(256)) if space.geodesic is not None else line
    points = points + 0.02 * field
    immersed, intrinsic = (geodesic_residual(metric, points) for metric in (space.metric, space.tensor))
    torch.testing.assert_close(immersed, intrinsic, rtol=0.05, atol=2e-3)
    indices = [geodesic_index(metric, points) for metric in (space.metric, space.tensor)]
    assert torch.equal(*indices)


@pytest.mark.parametrize("n_waves", [1, 2, 4])
@pytest.mark.parametrize(
    "metric",
    [
        PullbackMetric(mlp(), deviation()),
        pytest.param(PullbackMetric(mlp(), deviation(), mlp(7, 5, 2)), marks=pytest.mark.slow),
        PullbackMetric(mlp(2, 6, 3, gain=1)),
        half_plane().metric,
    ],
    ids=["immersion", "Eq. 4", "bent", "callable"],
)
def test_residual_tells_the_excess_length(metric, n_waves, generator):
    """To a factor of 1.5, against lengths on many points."""
    start, end = torch.randn(2, 8, 2, generator=generator, dtype=DTYPE)
    start[:, 1], end[:, 1] = start[:, 1].abs() + 0.5, end[:, 1].abs() + 0.5
    exact = geodesic(metric, start, end, n_segments=64, rtol=1e-7)
    t = torch.linspace(0, 1, 4097, dtype=DTYPE)
    smooth = exact.curve(t)
    field = (n_waves * math.pi * t)[:, None].sin() * torch.randn(8, 1, 2, generator=generator, dtype=DTYPE)
    for height in (0.01, 0.03):
        points = smooth + height / n_waves * field
        excess = curve_length(metric, points) / exact.length - 1
        even_points = interpolated(points, as_metric(metric).segment_lengths(points), 512)
        estimate = geodesic_residual(metric, even_points).square() / (2 * math.pi**2)
        known = exact.converged & (excess > 1e-6) & (excess < 0.02)
        assert known.sum() >= 4
        assert (estimate / excess)[known].log().abs().max() < math.log(1.5)


def interpolated(points, steps, n):
    """Points ``(B, n + 1, d)`` at equal steps of length."""
    out = []
    for curve, step in zip(points.numpy(), steps.numpy(), strict=True):
        total = np.concatenate([[0], step.cumsum()])
        share = np.linspace(0, total[-1], n + 1)
        out.append(np.stack([np.interp(share, total, x) for x in curve.T], axis=-1))
    return torch.from_numpy(np.stack(out))


def test_spacing_does_not_matter_much():
    t = even(200)
    uneven = (t + 0.1 * (2 * math.pi * t).sin() / (2 * math.pi))[:, None]
    line = torch.lerp(t.new_tensor([0.0, 0]), t.new_tensor([1.0, 2]), uneven)
    assert geodesic_residual(flat_plane().metric, line) < 1e-9


def test_residual_where_nothing_changes():
    still = torch.zeros(3, 9, 2, dtype=DTYPE)
    assert torch.equal(geodesic_residual(sphere().tensor, still + 1), torch.zeros(3, dtype=DTYPE))
    # a dead direction carries no acceleration
    flat_in_x = PullbackMetric(lambda z: torch.cat([z[:, 1:], 2 * z[:, 1:]], dim=-1))
    t = even(20)
    dead = torch.stack([torch.stack([(5 * t).sin(), t], dim=-1), torch.stack([t, 0 * t], dim=-1)])
    torch.testing.assert_close(geodesic_residual(flat_in_x, dead), torch.zeros(2, dtype=DTYPE), rtol=0, atol=1e-6)
    # nor does one that is dead up to rounding only, across the coordinates
    across = PullbackMetric(lambda z: (z @ z.new_tensor([[0.6], [0.7]])) * z.new_tensor([1.0, 0.3]))
    residual = geodesic_residual(across, torch.stack([t + (5 * t).sin() / 0.6, -(5 * t).sin() / 0.7], dim=-1))
    torch.testing.assert_close(residual, torch.zeros_like(residual), rtol=0, atol=1e-6)


# The index: conjugate points are known


@pytest.mark.parametrize("kind", ["metric", "tensor"])
@pytest.mark.parametrize(
    ("angle", "index"), [(0.5, 0), (3.0, 0), (3.12, 0), (3.2, 1), (6.2, 1), (6.4, 2), (9.3, 2), (9.6, 3)]
)
def test_index_of_the_equator_counts_conjugate_points(angle, index, kind):
    """At every multiple of pi (Morse)."""
    points = torch.stack([torch.full((129,), math.pi / 2, dtype=DTYPE), angle * even(128)], dim=-1)
    metric = getattr(sphere(), kind)
    assert int(geodesic_index(metric, points)) == index
    assert int(geodesic_index(metric, points.flip(0))) == index


def surface_of_revolution(radius):
    """``(s, angle)`` to space, by the distance ``radius(s)`` from the axis; the height is s."""
    return PullbackMetric(
        lambda z: torch.cat([radius(z[:, :1]) * z[:, 1:].cos(), radius(z[:, :1]) * z[:, 1:].sin(), z[:, :1]], dim=-1)
    )


@pytest.mark.parametrize(("angle", "index"), [(1.0, 0), (1.7, 0), (1.85, 1), (3.5, 1), (3.7, 2)])
def test_index_of_the_waist_of_a_barrel(angle, index):
    """The radius 1 - 3 s^2 / 2 has Gaussian curvature 3 at s = 0: conjugate points at multiples of pi / sqrt(3)."""
    barrel = surface_of_revolution(lambda s: 1 - 1.5 * s.square())
    points = torch.stack([0 * even(128), angle * even(128)], dim=-1)
    assert float(geodesic_residual(barrel, points)) < 1e-6
    assert int(geodesic_index(barrel, points)) == index


def test_index_of_a_waist_that_attracts():
    """On a hyperboloid, of negative curvature, every geodesic is a minimum, however long."""
    points = torch.stack([0 * even(256), 12 * even(256)], dim=-1)
    waist = surface_of_revolution(lambda s: (1 + s.square()).sqrt())
    assert float(geodesic_residual(waist, points)) < 1e-6
    assert int(geodesic_index(waist, points)) == 0


def test_index_over_the_top_of_a_bump():
    bump = PullbackMetric(lambda z: torch.cat([z, 1.2 * torch.exp(-2 * z.square().sum(-1, keepdim=True))], dim=-1))
    t = even(64)
    # the line over the top is a geodesic by symmetry
    points = torch.stack([2.4 * t - 1.2, 0 * t], dim=-1)
    assert int(geodesic_index(bump, points)) == 1
    aside = torch.stack([2.4 * t - 1.2, 1.1 * (math.pi * t).sin()], dim=-1)
    found = geodesic(bump, points[0], points[-1], init=aside)
    assert int(geodesic_index(bump, found.points)) == 0


@pytest.mark.parametrize("dtype", [torch.float32, DTYPE])
def test_index_of_a_batch(dtype, generator):
    angles = torch.tensor([[0.4, 3.3, 2.9], [6.5, 9.7, 1.0]], dtype=dtype)
    points = torch.stack(
        [torch.full((2, 3, 129), math.pi / 2, dtype=dtype), angles[..., None] * even(128).to(dtype)], -1
    )
    expected = torch.tensor([[0, 1, 0], [2, 3, 0]])
    assert torch.equal(geodesic_index(sphere().metric, points), expected)
    chunked = PullbackMetric(sphere().metric.mean, chunk_size=50)
    assert torch.equal(geodesic_index(chunked, points), expected)


# Invariance


def wiggle(n, generator, batch=()):
    line = torch.lerp(torch.tensor([0.2, 1.0], dtype=DTYPE), torch.tensor([1.2, 1.6], dtype=DTYPE), even(n)[:, None])
    bump = torch.randn(*batch, 1, 2, generator=generator, dtype=DTYPE)
    return line + 0.1 * (math.pi * even(n)[:, None]).sin() * bump


@pytest.mark.slow
@pytest.mark.parametrize(
    "metric",
    [PullbackMetric(mlp(), deviation()), PullbackMetric(mlp(), deviation(), mlp(7, 5, 2)), half_plane().metric],
    ids=["immersion", "Eq. 4", "callable"],
)
def test_batch_reversal_and_chunks_change_nothing(metric, generator):
    points = wiggle(20, generator, (2, 3))
    residual = geodesic_residual(metric, points)
    assert residual.shape == (2, 3)
    torch.testing.assert_close(geodesic_residual(metric, points.flip(-2)), residual, rtol=1e-8, atol=0)
    alone = torch.stack([geodesic_residual(metric, p) for p in points.reshape(6, 21, 2)]).reshape(2, 3)
    torch.testing.assert_close(alone, residual, rtol=1e-9, atol=0)
    if isinstance(metric, PullbackMetric):
        for chunk_size in (1, 7, 50):
            chunked = PullbackMetric(metric.mean, metric.std, metric.features, chunk_size=chunk_size)
            torch.testing.assert_close(geodesic_residual(chunked, points), residual, rtol=1e-9, atol=0)


def test_coordinates_do_not_matter(generator):
    """The half-plane in its own coordinates, scaled, inverted in a circle, and in logarithms."""
    points = wiggle(2000, generator)
    x, y = points.unbind(-1)
    expected = geodesic_residual(half_plane().metric, points)
    for image in (3 * points, points / points.square().sum(-1, keepdim=True) * points.new_tensor([-1.0, 1.0])):
        torch.testing.assert_close(geodesic_residual(half_plane().metric, image), expected, rtol=1e-4, atol=0)

    def in_logarithms(z):  # (x, log y)
        one = torch.ones_like(z[..., 0])
        return torch.diag_embed(torch.stack([(-2 * z[..., 1]).exp(), one], dim=-1))

    residual = geodesic_residual(in_logarithms, torch.stack([x, y.log()], dim=-1))
    torch.testing.assert_close(residual, expected, rtol=1e-4, atol=0)
    net = mlp()
    turn = torch.tensor([[1.0, 0.5], [-0.3, 2.0]], dtype=DTYPE)
    there = PullbackMetric(lambda z: net(z @ turn))
    torch.testing.assert_close(
        geodesic_residual(there, points @ torch.linalg.inv(turn)), geodesic_residual(PullbackMetric(net), points)
    )


def test_residual_is_finite_in_float32(generator):
    a, b = sphere().sample(10, generator, torch.float32)
    points = sphere().geodesic(a.double(), b.double(), even(32)).float()
    residual = geodesic_residual(sphere().metric, points)
    assert residual.dtype == torch.float32
    assert (residual < 1e-2).all()


# What it is for


def test_a_straight_line_that_is_no_geodesic_is_not_certified(generator):
    start, end = torch.randn(2, 20, 2, generator=generator, dtype=DTYPE)
    metric = PullbackMetric(mlp(), deviation())
    g = geodesic(metric, start, end)
    line = torch.lerp(start[:, None], end[:, None], even(32)[:, None])
    bent = g.improvement > 1e-2
    assert bent.sum() > 5
    assert not is_geodesic(geodesic_residual(metric, line), 1e-4)[bent].any()
    assert is_geodesic(g.residual, 1e-4)[g.converged].all()


def test_certified_curves_are_as_long_as_the_distance(generator):
    space = linear_decoder("", linear_map(3, 6, 30))
    start, end = space.sample(20, generator, DTYPE)
    t = even(64)[:, None]
    for height in (1e-3, 1e-2, 1e-1):
        points = torch.lerp(start[:, None], end[:, None], t) + height * (math.pi * t).sin()
        excess = curve_length(space.metric, points) / space.distance(start, end) - 1
        certified = is_geodesic(geodesic_residual(space.metric, points), 1e-4)
        assert (excess[certified] < 1.1e-4).all()
        assert (excess[~certified] > 0.9e-4).all()


# Bad input


def test_bad_input():
    metric = flat_plane().metric
    with pytest.raises(ValueError, match="n >= 3"):
        geodesic_residual(metric, torch.zeros(2, 2))
    with pytest.raises(ValueError, match="points: 1 of 6"):
        geodesic_residual(metric, torch.tensor([[0.0, 0], [1, torch.nan], [1, 1]]))
    with pytest.raises(ValueError, match="n >= 3"):
        geodesic_index(metric, torch.zeros(2, 2))
    for rtol, error in ((0, ValueError), (-1.0, ValueError), ("small", TypeError)):
        with pytest.raises(error, match="rtol"):
            is_geodesic(torch.zeros(2), rtol)


def test_a_metric_that_is_not_finite_on_the_curve_says_so():
    metric = PullbackMetric(lambda z: torch.cat([z, z[:, :1].log()], dim=-1))
    points = torch.tensor([[1.0, 0.0], [0.0, 0.5], [1.0, 1.0]], dtype=DTYPE)
    with pytest.raises(ValueError, match=r"metric: not finite at 1 of 1 points, first at z = \[0, 0.5\]"):
        geodesic_residual(metric, points)
