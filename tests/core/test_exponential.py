"""expmap and logmap: known geodesics, inverses of each other, and errors."""

import math

import pytest
import torch
from problems import SPACES, deviation, flat_plane, half_plane, mlp, seeded, sphere, sphere_pairs, sphere_point
from torch import nn

from geolib import GeodesicError, PullbackMetric, expmap, geodesic, logmap
from geolib.paths import flow
from geolib.paths.equation import acceleration
from geolib.paths.flow import MAX_EVALUATIONS, FlowStatus, follow
from geolib.riemannian import as_metric

pytestmark = pytest.mark.smoke

DTYPE = torch.float64
every_space = pytest.mark.parametrize("space", SPACES, ids=str)


def norm(space, z, v):
    return torch.einsum("ni,nij,nj->n", v, space.tensor(z), v).sqrt()


# The equation


def test_acceleration_by_hand(generator):
    z = torch.rand(6, 2, generator=generator, dtype=DTYPE) + 0.5
    v = torch.randn(6, 2, generator=generator, dtype=DTYPE)
    (theta, y), (a, b) = z.T, v.T
    on_sphere = torch.stack([theta.sin() * theta.cos() * b**2, -2 * theta.cos() / theta.sin() * a * b], dim=-1)
    in_half_plane = torch.stack([2 * a * b / y, (b**2 - a**2) / y], dim=-1)
    for metric, expected in (
        (sphere().metric, on_sphere),  # by its immersion
        (sphere().tensor, on_sphere),  # by its tensor
        (half_plane().metric, in_half_plane),
        (flat_plane().metric, torch.zeros_like(v)),
    ):
        torch.testing.assert_close(acceleration(as_metric(metric), z, v), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("d", [1, 2, 3, 16])
def test_acceleration_does_not_depend_on_how_the_metric_is_given(d, generator):
    z, v = torch.randn(2, 4, d, generator=generator, dtype=DTYPE)
    for metric in (
        PullbackMetric(mlp(d, d + 5), deviation(d, d + 5)),
        PullbackMetric(mlp(d, d + 5, gain=1), features=mlp(d + 5, d + 5, 3, gain=1)),
        PullbackMetric(mlp(d, d + 5), chunk_size=3),
    ):
        a, b = acceleration(as_metric(metric), z, v), acceleration(as_metric(metric.unchecked), z, v)
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6 * float(b.abs().max()))


def test_acceleration_where_nothing_changes():
    z, v = torch.zeros(3, 2, dtype=DTYPE), torch.ones(3, 2, dtype=DTYPE)
    for metric in (PullbackMetric(lambda z: 0 * z), PullbackMetric(lambda z: z[:, :1] * z.new_ones(3))):
        assert torch.equal(acceleration(as_metric(metric), z, v), torch.zeros_like(v))


# The exponential map


@pytest.mark.slow
@pytest.mark.parametrize("space", [sphere(), half_plane()], ids=str)
@pytest.mark.parametrize(("dtype", "rtol"), [(DTYPE, 1e-6), (DTYPE, 1e-10), (torch.float32, 1e-4)])
def test_expmap_follows_known_geodesics(space, dtype, rtol, generator):
    start, end = space.sample(10, generator, DTYPE)
    # the velocity at t = 0 of the exact geodesic, by a one-sided difference of high order
    h = 1e-3
    p = space.geodesic(start, end, h * torch.arange(5, dtype=DTYPE))
    v = (torch.tensor([-25, 48, -36, 16, -3], dtype=DTYPE)[:, None] * p).sum(1) / (12 * h)
    found = expmap(space.metric, start.to(dtype), v.to(dtype), rtol=rtol)
    assert found.dtype == dtype
    place = sphere_point if space.name == "sphere" else torch.Tensor.clone  # a longitude may be a turn farther
    torch.testing.assert_close(place(found.to(DTYPE)), place(end), rtol=50 * rtol, atol=max(50 * rtol, 1e-8))
    for t in (0.25, 0.6):
        between = expmap(space.metric, start, t * v)
        exact = space.geodesic(start, end, torch.tensor([t], dtype=DTYPE))[:, 0]
        torch.testing.assert_close(place(between), place(exact), rtol=2e-5, atol=2e-5)


@pytest.mark.slow
def test_expmap_runs_around_the_sphere():
    """Along the equator, once around and farther; and once around a tilted great circle."""
    start = torch.tensor([[math.pi / 2, 0.3]], dtype=DTYPE)
    for velocity in ([0.0, 2 * math.pi], [0.0, 7.0]):
        v = torch.tensor([velocity], dtype=DTYPE)
        torch.testing.assert_close(expmap(sphere().metric, start, v), start + v, rtol=1e-6, atol=1e-6)
    tilted = 2 * math.pi * torch.tensor([[math.sin(0.7), math.cos(0.7)]], dtype=DTYPE)
    back = expmap(sphere().metric, start, tilted, rtol=1e-9)
    torch.testing.assert_close(sphere_point(back), sphere_point(start), rtol=1e-6, atol=1e-6)


def test_expmap_is_straight_in_flat_space(generator):
    z, v = torch.randn(2, 4, 2, generator=generator, dtype=DTYPE)
    torch.testing.assert_close(expmap(flat_plane().metric, z, v), z + v, rtol=1e-12, atol=1e-12)


def test_expmap_broadcasts_and_stacks(generator):
    start, end = sphere_pairs(6, generator, DTYPE)
    v = (end - start).reshape(2, 3, 2)
    many = expmap(sphere().metric, start[0], v)
    assert many.shape == (2, 3, 2)
    one = expmap(sphere().metric, start[0], v[1, 2])
    assert one.shape == (2,)
    torch.testing.assert_close(one, many[1, 2], rtol=1e-5, atol=1e-5)
    assert not expmap(sphere().metric, start.requires_grad_(), end - start).requires_grad


@pytest.mark.slow
def test_accuracy_follows_the_tolerance(generator):
    space = sphere()
    start, end = space.sample(10, generator, DTYPE)
    v = logmap(space.metric, start, end, rtol=1e-11)
    error = [float((expmap(space.metric, start, v, rtol=r) - end).abs().max()) for r in (1e-3, 1e-6, 1e-9)]
    assert error[0] > error[1] > error[2]
    assert error[1] < 1e-4
    assert error[2] < 1e-7


# The logarithmic map


@pytest.mark.slow
@every_space
def test_logmap_is_as_long_as_the_distance(space, generator):
    start, end = space.sample(5, generator, DTYPE)
    v = logmap(space.metric, start, end)
    assert v.shape == start.shape
    torch.testing.assert_close(norm(space, start, v), space.distance(start, end), rtol=2e-6, atol=0)
    torch.testing.assert_close(expmap(space.metric, start, v), end, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["newton", "bvp", "spline"])
def test_logmap_by_any_method_on_a_decoder(method, generator):
    metric = PullbackMetric(mlp(gain=1), deviation(gain=1))
    start, end = 0.8 * torch.randn(2, 4, 2, generator=generator, dtype=DTYPE)
    v = logmap(metric, start, end, method=method)
    torch.testing.assert_close(expmap(metric, start, v, rtol=1e-8), end, rtol=1e-5, atol=1e-5)
    length = torch.einsum("ni,nij,nj->n", v, metric(start), v).sqrt()
    torch.testing.assert_close(length, geodesic(metric, start, end, rtol=1e-6).length, rtol=1e-3, atol=0)


def test_logmap_undoes_expmap(generator):
    z = torch.randn(6, 2, generator=generator, dtype=DTYPE) + torch.tensor([0.0, 4.0])
    v = torch.randn(6, 2, generator=generator, dtype=DTYPE)
    space = half_plane()
    torch.testing.assert_close(logmap(space.metric, z, expmap(space.metric, z, v)), v, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_logmap_of_the_same_point_is_zero(generator):
    start, end = sphere_pairs(3, generator, DTYPE)
    end[1] = start[1]
    v = logmap(sphere().metric, start, end)
    assert torch.equal(v[1], torch.zeros(2, dtype=DTYPE))
    assert (v[[0, 2]] != 0).any()
    assert logmap(sphere().metric, start[0], end).shape == (3, 2)


# Errors


def test_bad_input_is_told(generator):
    z, v = torch.ones(3, 2), torch.ones(3, 2)
    metric = sphere().metric
    for call, sentence in (
        (lambda: expmap(metric, [1.0], v), "start: got list"),
        (lambda: expmap(metric, z, v.double()), "velocity: got dtype torch.float64"),
        (lambda: expmap(metric, z, torch.ones(2, 2)), r"start, velocity: got shapes \(3, 2\) and \(2, 2\)"),
        (lambda: expmap(metric, z, v[:, :1]), r"start, velocity: got shapes \(3, 2\) and \(3, 1\)"),
        (lambda: expmap(metric, z, v, rtol=0), "rtol: got 0"),
        (lambda: expmap(metric, z, torch.nan * v), "velocity: 6 of 6 entries are not finite"),
        (lambda: logmap(metric, z, v, rtol=-1), "rtol: got -1"),
        (lambda: logmap(metric, z, 2 * v, speed=1), "speed: not an option"),
        (lambda: logmap(metric, z, v.double()), "end: got dtype torch.float64"),
    ):
        with pytest.raises((TypeError, ValueError), match=sentence):
            call()


def test_a_geodesic_that_leaves_the_domain_is_told():
    def metric(z):  # the punctured plane beyond its edge
        inside = z.square().sum(-1) < 1
        return torch.where(inside, 1.0, torch.nan)[..., None, None] * torch.eye(2, dtype=z.dtype)

    start, v = torch.zeros(1, 2, dtype=DTYPE), torch.tensor([[3.0, 0.0]], dtype=DTYPE)
    with pytest.raises(ValueError, match=r"metric on the geodesic at t = .* not finite"):
        expmap(metric, start, v)


def test_one_geodesic_that_is_lost_costs_nobody_else_anything(monkeypatch):
    """One leaves the domain, one comes to where no budget is enough, one loses its speed at a jump."""

    def metric(z):
        x, y = z.unbind(-1)
        size = torch.where(y < 1, 1 + y.square(), torch.nan) * (1 + 0.5 * (3000 * x).sin() * (x > 3))
        return torch.where(x < -2, 9.0 * size, size)[..., None, None] * torch.eye(2, dtype=z.dtype)

    monkeypatch.setattr(flow, "MAX_EVALUATIONS", 1200)
    start = torch.zeros(6, 2, dtype=DTYPE)
    v = torch.tensor([[0.5, 0.2], [0.1, 3.0], [-3.0, 0.0], [7.0, 0.0], [0.0, 0.0], [0.3, -0.4]], dtype=DTYPE)
    expected = [FlowStatus.REACHED] * 6
    expected[1:4] = [FlowStatus.NOT_FINITE, FlowStatus.SPEED_LOST, FlowStatus.MAX_EVALUATIONS]
    end, codes = expmap(metric, start, v, return_status=True)
    assert codes.tolist() == expected
    lost = codes != FlowStatus.REACHED
    assert torch.equal(end.isnan().all(-1), lost) and torch.equal(end.isnan().any(-1), lost)
    assert torch.equal(end[~lost], expmap(metric, start[~lost], v[~lost]))  # to the last digit
    with pytest.warns(UserWarning, match=r"1 of 6 geodesics left .*1 of 6 .* within 3,000 .*1 of 6 .*speed.*are NaN"):
        assert torch.equal(expmap(metric, start, v).isnan(), end.isnan())
    for row, sentence in ((1, "left the region"), (2, "did not keep"), (3, "did not reach t = 1")):
        with pytest.raises(ValueError, match=f"velocity: 1 of 1 geodesics {sentence}"):
            expmap(metric, start[row], v[row])
        assert expmap(metric, start[row], v[row], return_status=True)[1] == expected[row]


def test_no_geodesic_takes_more_evaluations_than_allowed(generator):
    calls = []

    def metric(z):
        calls.append(len(z))
        return (1 + (40 * z).sin().square().sum(-1))[..., None, None] * torch.eye(2, dtype=z.dtype)

    z, v = torch.randn(2, 3, 1, 2, generator=generator, dtype=DTYPE)
    found = follow(as_metric(metric), z[:1], 900 * v[:1], 1e-10)
    assert found.n_evaluations <= MAX_EVALUATIONS
    assert found.status == FlowStatus.MAX_EVALUATIONS
    assert len(calls) <= MAX_EVALUATIONS
    few = follow(as_metric(metric), z, 0.1 * v, 1e-4, torch.tensor([20, 40, MAX_EVALUATIONS]))
    assert (few.n_evaluations <= torch.tensor([20, 40, MAX_EVALUATIONS])).all()
    assert few.status.tolist() == [FlowStatus.MAX_EVALUATIONS, FlowStatus.MAX_EVALUATIONS, FlowStatus.REACHED]


def test_a_shot_that_goes_astray_is_missed_by_itself():
    """Beyond a step of its start the metric is so rough that the curve cannot be shot."""
    space = half_plane()
    start = torch.tensor([[0.0, 1.0], [0.0, 1.0]], dtype=DTYPE)
    end = torch.tensor([[1.0, 1.5], [30.0, 1.0]], dtype=DTYPE)

    def metric(z):
        rough = 1 + 0.05 * (4000 * z[..., 0]).sin() * (z[..., 0] > 5)
        return space.metric(z) * rough[..., None, None]

    v, codes = logmap(metric, start, end, return_status=True)
    assert codes[0] == FlowStatus.REACHED and codes[1] != FlowStatus.REACHED
    torch.testing.assert_close(v[0], logmap(space.metric, start[0], end[0]), rtol=1e-5, atol=1e-6)
    assert v[1].isnan().all()


def test_statuses_are_sentences():
    assert len({status.sentence for status in FlowStatus}) == len(FlowStatus)


def test_logmap_without_a_geodesic_raises(generator):
    start, end = torch.randn(2, 3, 2, generator=generator, dtype=DTYPE)
    metric = PullbackMetric(mlp(), deviation())
    converged = geodesic(metric, start, end, max_steps=1).converged
    assert converged.tolist().count(False) == 1
    with pytest.raises(GeodesicError, match="max_steps"):
        logmap(metric, start[~converged], end[~converged], max_steps=1)
    with pytest.warns(UserWarning, match=r"end: 1 of 3 geodesics have no curve .*\n.*max_steps.*\n.*are NaN"):
        v = logmap(metric, start, end, max_steps=1, rtol=1e-3)
    assert torch.equal(v.isnan().all(-1), ~converged)
    found, codes = logmap(metric, start, end, max_steps=1, rtol=1e-3, return_status=True)
    assert torch.equal(found[converged], v[converged])
    assert torch.equal(codes == FlowStatus.NO_CURVE, ~converged)
    assert torch.equal(codes == FlowStatus.REACHED, converged)


# Where there is little to go by


def test_a_net_of_relu_is_followed_straight_within_its_cells(generator):
    """It is affine around every point, so its second derivatives are none."""
    relu = seeded(lambda: nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 5)), 0)
    start, v = torch.randn(2, 4, 2, generator=generator, dtype=DTYPE)
    metric = PullbackMetric(relu)
    torch.testing.assert_close(expmap(metric, start, 1e-3 * v), start + 1e-3 * v, rtol=1e-9, atol=1e-9)
    for method in ("bvp", "fixed_point"):
        assert torch.isfinite(geodesic(metric, start, start + v, method=method).length).all()
    with pytest.raises(ValueError, match=r"did not keep their speed.*kinks"):
        expmap(metric, start, 3 * v)


@pytest.mark.filterwarnings("ignore:mean")
def test_null_directions_are_followed_in_few_evaluations():
    """The image moves at constant speed, whatever the way along the fibres."""
    calls = []

    def onto(z):
        calls.append(len(z))
        return z[:, :1] + z[:, 1:].square()

    start, v = torch.tensor([[[0.1, 0.2]], [[2.0, 3.0]]], dtype=DTYPE)
    end = expmap(PullbackMetric(onto), start, v)
    torch.testing.assert_close(onto(end), onto(start) + v[:, :1] + 2 * start[:, 1:] * v[:, 1:], rtol=1e-5, atol=0)
    assert len(calls) < 2000


def test_null_directions_that_no_axis_shares_are_followed_in_few_evaluations(generator):
    calls = []
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=DTYPE)).Q

    def onto(z):
        calls.append(len(z))
        x, y, _ = (z @ turn).unbind(-1)
        return torch.stack([x + y.square(), y + 0.3 * x.square()], dim=-1)

    start, v = 0.4 * torch.randn(2, 4, 3, generator=generator, dtype=DTYPE)
    metric = PullbackMetric(onto)
    end = expmap(metric, start, v)
    h = 1e-5
    image = onto(start) + (onto(start + h * v) - onto(start - h * v)) / (2 * h)
    torch.testing.assert_close(onto(end), image, rtol=1e-5, atol=1e-5)
    assert len(calls) < 600


@pytest.mark.slow
def test_a_geodesic_that_leaves_the_image_is_given_up():
    calls = []

    def saturated(z):
        calls.append(len(z))
        return torch.cat([(3 * z).tanh(), z[:, :1]], dim=-1)

    start, v = torch.tensor([[[0.1, 0.2]], [[0.0, 3.0]]], dtype=DTYPE)
    with pytest.raises(ValueError, match=r"velocity: 1 of 1 geodesics did not reach t = 1.*saturates"):
        expmap(PullbackMetric(saturated), start, v)
    assert len(calls) < 1000


def test_float32_has_a_tolerance_that_it_can_meet(generator):
    metric = PullbackMetric(mlp(gain=1, dtype=torch.float32), deviation(gain=1, dtype=torch.float32))
    start, end = 2 + 0.5 * torch.randn(2, 3, 2, generator=generator)
    v = logmap(metric, start, end, rtol=1e-9)
    torch.testing.assert_close(expmap(metric, start, v, rtol=1e-9), end, rtol=1e-4, atol=1e-5)
