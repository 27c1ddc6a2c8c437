"""geodesic(): distances of every space, what its result promises, truthful statuses, and laws over all methods."""

import itertools
import math

import pytest
import torch
from problems import (
    SPACES,
    WALL,
    conv_decoder,
    deviation,
    half_plane,
    linear_decoder,
    linear_map,
    mlp,
    sphere,
    sphere_pairs,
    wall_metric,
)
from promises import assert_keeps_its_promises
from scipy.optimize import minimize

from geolib import METHODS, GeodesicError, PullbackMetric, Status, curve_energy, curve_length, geodesic
from geolib.riemannian import as_metric

pytestmark = pytest.mark.smoke

DTYPE = torch.float64
DEAD = PullbackMetric(lambda z: z[:, :1] * z.new_tensor([1.0, -2.0, 2.0]))  # the second coordinate does nothing

DECODERS = {
    "mlp": PullbackMetric(mlp()),
    "mlp with sigma": PullbackMetric(mlp(), deviation()),
    "mlp with features": PullbackMetric(mlp(gain=1), features=mlp(7, 5, 3, gain=1)),
    "mlp in Eq. 4": PullbackMetric(mlp(gain=1), deviation(gain=1), mlp(7, 5, 3, gain=1)),
    "convolutions": PullbackMetric(conv_decoder()),
}
every_space = pytest.mark.parametrize("space", SPACES, ids=str)
every_decoder = pytest.mark.parametrize("metric", DECODERS.values(), ids=DECODERS)
# those that are as accurate as they are asked to be; test_solvers.py holds what is true of all
every_method = pytest.mark.parametrize("method", ("newton", "spline", "georce"))

# Products of matrices round differently in batches of another size. On some processors that ends a descent a step
# earlier or later; rtol is 1e-4.
ROUNDED = 1e-6


def pairs(n, generator, scale=1.0, d=2):
    return scale * torch.randn(2, n, d, generator=generator, dtype=DTYPE)


# Distances that are known


@every_method
@every_space
def test_length_is_the_distance(space, method, generator):
    start, end = space.sample(12, generator, DTYPE)
    g = geodesic(space.metric, start, end, method=method)
    assert_keeps_its_promises(space.metric, start, end, g)
    assert g.converged.all()
    # rtol is where the solver stops; what is left is of that order
    torch.testing.assert_close(g.length, space.distance(start, end), rtol=3e-4, atol=0)


@every_method
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_fifty_pairs_on_the_sphere(seed, method):
    space = sphere()
    start, end = sphere_pairs(50, torch.Generator().manual_seed(seed), DTYPE, 0.1, 2.5)
    g = geodesic(space.metric, start, end, method=method)
    assert g.converged.all()
    torch.testing.assert_close(g.length, space.distance(start, end), rtol=1e-4, atol=0)
    # and the curve is the great circle, not only as long
    exact = space.geodesic(start, end, torch.linspace(0, 1, 33, dtype=DTYPE))
    assert (g.points - exact).norm(dim=-1).max() < 0.05


@pytest.mark.slow
@every_method
@pytest.mark.parametrize("space", [sphere(), half_plane()], ids=str)
def test_error_follows_the_tolerance(space, method):
    start, end = space.sample(50, torch.Generator().manual_seed(2), DTYPE)
    exact = space.distance(start, end)
    for rtol in (1e-2, 1e-3, 1e-4, 1e-5):
        g = geodesic(space.metric, start, end, method=method, rtol=rtol)
        assert ((g.length / exact - 1).abs() < 3 * rtol).all(), rtol


@pytest.mark.slow
@every_method
@pytest.mark.parametrize("n", [4, 7, 100])
def test_number_of_segments_does_not_change_the_distance(n, method, generator):
    space = sphere()
    start, end = space.sample(10, generator, DTYPE)
    for rtol in (1e-4, 1e-6):  # the tighter, the more control points for as few segments
        g = geodesic(space.metric, start, end, method=method, n_segments=n, rtol=rtol)
        assert_keeps_its_promises(space.metric, start, end, g, n_segments=n)
        assert g.converged.sum() >= 8  # few segments can miss a long way
        torch.testing.assert_close(g.length[g.converged], space.distance(start, end)[g.converged], rtol=1e-3, atol=0)


@pytest.mark.slow
@every_method
@pytest.mark.parametrize("d", [1, 2, 3, 16])
def test_any_latent_dimension(d, method, generator):
    linear = linear_decoder("", linear_map(d, d + 2, 30))
    start, end = linear.sample(5, generator, DTYPE)
    g = geodesic(linear.metric, start, end, method=method)
    torch.testing.assert_close(g.length, linear.distance(start, end), rtol=1e-9, atol=0)
    torch.testing.assert_close(g.length, g.line_length, rtol=1e-12, atol=0)
    bent = PullbackMetric(mlp(d, gain=1))
    g = geodesic(bent, start, end, method=method)
    assert_keeps_its_promises(bent, start, end, g)


@pytest.mark.slow
@every_method
def test_agrees_with_an_optimiser_that_knows_nothing_of_splines(method, generator):
    metric = PullbackMetric(mlp(gain=1), deviation())
    start, end = pairs(4, generator)
    g = geodesic(metric, start, end, method=method)
    for i in range(4):
        line = torch.lerp(start[i], end[i], torch.linspace(0, 1, 65, dtype=DTYPE)[:, None])

        def energy(x, line=line):
            p = torch.tensor(x, dtype=DTYPE).reshape(-1, 2).requires_grad_()
            value = curve_energy(metric, torch.cat([line[:1], p, line[-1:]]))
            value.backward()
            return value.item(), p.grad.reshape(-1).numpy()

        x = minimize(energy, line[1:-1].reshape(-1), jac=True, method="L-BFGS-B", options={"maxiter": 400}).x
        points = torch.cat([line[:1], torch.from_numpy(x).reshape(-1, 2), line[-1:]])
        assert float(g.length[i]) == pytest.approx(float(curve_length(metric, points)), rel=2e-3)


# What a result promises


@pytest.mark.slow
@every_method
@every_decoder
def test_promises_on_decoders(metric, method, generator):
    start, end = pairs(6, generator)
    g = geodesic(metric, start, end, method=method, max_steps=40)
    assert_keeps_its_promises(metric, start, end, g)
    assert g.improvement.max() > 1e-3


@every_method
@pytest.mark.parametrize("space", [sphere(), half_plane()], ids=str)
def test_points_are_equally_spaced_in_length(space, method, generator):
    start, end = space.sample(12, generator, DTYPE)
    p = geodesic(space.metric, start, end, method=method).points
    steps = space.distance(p[:, :-1].reshape(-1, 2), p[:, 1:].reshape(-1, 2)).reshape(12, 32)
    torch.testing.assert_close(steps, steps.mean(-1, keepdim=True).expand(12, 32), rtol=5e-3, atol=0)


@every_method
@every_decoder
def test_points_are_equally_spaced_on_decoders(metric, method, generator):
    # between neighbours measured finely: a chord of a bent piece is shorter than the piece
    start, end = pairs(3, generator, 0.7)
    p = geodesic(metric, start, end, method=method, n_segments=16, max_steps=40).points
    pieces = torch.lerp(p[:, :-1, None], p[:, 1:, None], torch.linspace(0, 1, 9, dtype=DTYPE)[:, None])
    steps = as_metric(metric).segment_lengths(pieces).sum(-1)
    torch.testing.assert_close(steps, steps.mean(-1, keepdim=True).expand(3, 16), rtol=0.02, atol=0)


@every_method
def test_curve_is_batched_like_the_rest(method, generator):
    metric = sphere().metric
    start, end = sphere_pairs(6, generator, DTYPE)
    t = torch.linspace(0, 1, 11, dtype=DTYPE)
    g = geodesic(metric, start.reshape(2, 3, 2), end.reshape(2, 3, 2), method=method)
    assert g.curve(t).shape == g.curve.velocity(t).shape == (2, 3, 11, 2)
    assert_keeps_its_promises(metric, start.reshape(2, 3, 2), end.reshape(2, 3, 2), g)
    one = geodesic(metric, start[0], end[0], method=method)
    assert one.curve(t).shape == (11, 2)
    assert one.points.shape == (33, 2)
    assert one.length.shape == ()
    assert_keeps_its_promises(metric, start[0], end[0], one)


def test_improvement_is_relative_to_the_line(generator):
    g = geodesic(sphere().metric, *sphere_pairs(5, generator, DTYPE))
    torch.testing.assert_close(g.improvement, (g.line_length - g.length) / g.line_length)
    assert g.improvement.max() > 0.01


def test_line_length_is_the_line_s(generator):
    start, end = pairs(4, generator)
    g = geodesic(DECODERS["mlp"], start, end)
    line = torch.lerp(start[:, None], end[:, None], torch.linspace(0, 1, 8001, dtype=DTYPE)[:, None])
    torch.testing.assert_close(g.line_length, curve_length(DECODERS["mlp"], line), rtol=1e-4, atol=0)


@pytest.mark.slow
def test_the_chord_is_the_lower_bound(generator):
    start, end = sphere_pairs(6, generator, DTYPE)
    g = geodesic(sphere().metric, start[:, None], end[None])
    angle = sphere().distance(start.repeat_interleave(6, 0), end.repeat(6, 1)).reshape(6, 6)
    torch.testing.assert_close(g.lower_bound, 2 * (angle / 2).sin(), rtol=1e-12, atol=0)
    assert (g.lower_bound < g.length).all()


def test_a_straight_image_meets_its_lower_bound(generator):
    linear = linear_decoder("", linear_map(3, 8, 10))
    start, end = linear.sample(5, generator, DTYPE)
    end[0] = start[0]
    g = geodesic(linear.metric, start, end)
    torch.testing.assert_close(g.lower_bound, g.length, rtol=1e-12, atol=0)
    assert g.lower_bound[0] == 0 and (g.lower_bound[1:] > 0).all()


def test_the_lower_bound_holds_in_the_space_of_what_is_pulled_back(generator):
    start, end = pairs(5, generator)
    net, features = DECODERS["mlp with features"].mean, DECODERS["mlp with features"].features
    image = features(net(torch.stack([start, end]))).detach()
    g = geodesic(DECODERS["mlp with features"], start, end)
    torch.testing.assert_close(g.lower_bound, (image[1] - image[0]).norm(dim=-1), rtol=1e-12, atol=0)
    sigma = DECODERS["mlp with sigma"]
    squares = [(f(end) - f(start)).detach().square().sum(-1) for f in (sigma.mean, sigma.std)]
    g = geodesic(sigma, start, end)
    torch.testing.assert_close(g.lower_bound, (squares[0] + squares[1]).sqrt(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("metric", [DECODERS["mlp in Eq. 4"], half_plane().metric], ids=["Eq. 4", "callable"])
def test_without_an_immersion_the_lower_bound_is_zero(metric, generator):
    g = geodesic(metric, *half_plane().sample(3, generator, DTYPE))
    assert torch.equal(g.lower_bound, torch.zeros(3, dtype=DTYPE))


# Laws


@pytest.mark.slow
@every_method
def test_geodesics_are_symmetric(method, generator):
    for metric, (start, end) in (
        (sphere().metric, sphere_pairs(8, generator, DTYPE)),
        (DECODERS["mlp with sigma"], pairs(8, generator)),
    ):
        there = geodesic(metric, start, end, method=method)
        back = geodesic(metric, end, start, method=method)
        torch.testing.assert_close(back.length, there.length, rtol=1e-6, atol=0)
        torch.testing.assert_close(back.line_length, there.line_length, rtol=1e-6, atol=0)
        torch.testing.assert_close(back.points.flip(-2), there.points, rtol=1e-4, atol=1e-4)
        assert torch.equal(back.status, there.status)


@pytest.mark.slow
@every_method
def test_a_batch_is_a_stack(method, generator):
    metric = DECODERS["mlp with sigma"]
    start, end = pairs(7, generator)
    batch = geodesic(metric, start, end, method=method)
    for i in range(7):
        one = geodesic(metric, start[i], end[i], method=method)
        torch.testing.assert_close(one.points, batch.points[i], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(one.length, batch.length[i], rtol=1e-7, atol=0)
        assert one.status == batch.status[i]


@pytest.mark.slow
@every_method
def test_a_hard_pair_does_not_change_its_neighbours(method):
    metric = wall_metric()
    start = torch.tensor([[-1.0, -0.5], [-1.0, 0.0], [0.2, 1.5]], dtype=DTYPE)
    end = torch.tensor([[-0.4, 0.9], [1.0, 0.0], [0.9, -1.0]], dtype=DTYPE)  # only the second meets the wall
    alone = geodesic(metric, start[[0, 2]], end[[0, 2]], method=method)
    among = geodesic(metric, start, end, method=method)
    for name in ("points", "length", "status", "n_steps"):
        torch.testing.assert_close(getattr(among, name)[[0, 2]], getattr(alone, name), rtol=1e-9, atol=1e-9)
    assert alone.converged.all()


@pytest.mark.slow
@every_method
def test_start_and_end_are_broadcast(method, generator):
    metric = sphere().metric
    start, end = sphere_pairs(3, generator, DTYPE, 0.2, 1.0)
    g = geodesic(metric, start[0], end, method=method, max_steps=100)
    assert_keeps_its_promises(metric, start[0], end, g)
    for i in range(3):
        expected = geodesic(metric, start[0], end[i], method=method, max_steps=100).length
        torch.testing.assert_close(g.length[i], expected, rtol=ROUNDED, atol=0)
    table = geodesic(metric, start[:, None], end[None], method=method, max_steps=100)
    assert table.length.shape == (3, 3)
    torch.testing.assert_close(table.length[0], g.length, rtol=ROUNDED, atol=0)


@pytest.mark.slow
@every_method
def test_chunks_change_nothing(method, generator):
    start, end = pairs(4, generator)
    lengths = [geodesic(PullbackMetric(mlp(), chunk_size=c), start, end, method=method).length for c in (5, 40, None)]
    for length in lengths[1:]:
        torch.testing.assert_close(length, lengths[0], rtol=ROUNDED, atol=0)


@every_method
def test_isometric_coordinates_give_equal_lengths(method, generator):
    """A turn of the latent plane changes coordinates and nothing else."""
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=DTYPE)
    net = mlp()
    start, end = pairs(5, generator)
    here = geodesic(PullbackMetric(net), start, end, method=method)
    there = geodesic(PullbackMetric(lambda z: net(z @ turn)), start @ turn.T, end @ turn.T, method=method)
    torch.testing.assert_close(there.length, here.length, rtol=1e-5, atol=0)


# Statuses


@pytest.mark.slow
@every_method
@every_decoder
def test_one_step_is_converged_only_where_it_was_enough(metric, method, generator):
    start, end = pairs(8, generator)
    g = geodesic(metric, start, end, method=method, max_steps=1, init="line")
    assert (g.n_steps <= 1).all()
    assert_keeps_its_promises(metric, start, end, g)
    assert (g.status[~g.converged] == Status.MAX_STEPS).all()
    settled = geodesic(metric, start, end, method=method, max_steps=1000)
    torch.testing.assert_close(g.length[g.converged], settled.length[g.converged], rtol=3e-4, atol=0)
    hard = geodesic(DECODERS["mlp with sigma"], start, end, method=method, max_steps=1, init="line")
    assert (hard.status == Status.MAX_STEPS).any()


@every_method
@pytest.mark.parametrize("max_steps", [1, 3, 10])
def test_no_curve_takes_more_steps_than_allowed(max_steps, method, generator):
    start, end = pairs(8, generator)
    g = geodesic(DECODERS["mlp"], start, end, method=method, max_steps=max_steps)
    assert (g.n_steps <= max_steps).all()
    assert_keeps_its_promises(DECODERS["mlp"], start, end, g)


@pytest.mark.slow
@every_method
def test_more_steps_never_make_a_curve_longer(method, generator):
    start, end = pairs(30, generator)
    lengths = [geodesic(DECODERS["mlp"], start, end, method=method, max_steps=n).length for n in (2, 10, 50, 200)]
    for few, many in itertools.pairwise(lengths):
        assert (many <= few * (1 + 1e-3)).all()


@pytest.mark.slow
@every_method
@pytest.mark.parametrize("gain", [1, 1.5])
def test_what_converged_cannot_be_shortened_from_where_it_is(gain, method, generator):
    start, end = pairs(30, generator)
    metric = PullbackMetric(mlp(gain=gain), deviation(gain=gain))
    g = geodesic(metric, start, end, method=method)
    assert g.converged.sum() > 15
    fine = {"n_segments": 64, "rtol": 1e-6, "max_steps": 1000, "max_control_points": 35}
    again = geodesic(metric, start, end, method="spline", init=g.curve(torch.linspace(0, 1, 65, dtype=DTYPE)), **fine)
    assert (1 - again.length / g.length)[g.converged].max() < 3e-4


@pytest.mark.slow
@every_method
def test_wall(method):
    """No segment of the line sees the wall; the result must, and leads around it or says that it does not."""
    metric = wall_metric()
    g = geodesic(metric, *WALL, method=method, max_steps=100)
    # two coarse measures that both hit the ridge's top agree before they follow its flanks
    assert_keeps_its_promises(metric, *WALL, g, rtol=1.5e-2)
    torch.testing.assert_close(g.line_length, torch.tensor(5.954, dtype=DTYPE), rtol=2e-3, atol=0)
    if method == "spline" and g.length >= 3:
        # its few control points do not go around so thin a wall by themselves, but keep what another method found
        assert g.status in (Status.MAX_STEPS, Status.MAX_CONTROL_POINTS, Status.UNRESOLVED)
        around = geodesic(metric, *WALL)
        g = geodesic(metric, *WALL, method=method, init=around.points)
        assert_keeps_its_promises(metric, *WALL, g, rtol=1.5e-2)
        assert g.length < around.length * 1.02
    assert g.length < 3


@pytest.mark.slow
@every_method
def test_a_first_guess_leads_around_the_wall(method):
    metric = wall_metric()
    t = torch.linspace(0, math.pi, 33, dtype=DTYPE)
    guess = torch.stack([-t.cos(), 1.2 * t.sin()], dim=-1)
    g = geodesic(metric, *WALL, method=method, init=guess, max_steps=300)
    assert_keeps_its_promises(metric, *WALL, g, rtol=5e-3)
    # the guess is a curve too: shorter than the line, and what is longer than it is no result
    assert g.length <= curve_length(metric, guess) * (1 + 1e-2)


@every_method
def test_the_same_point_has_distance_zero(method, generator):
    metric = DECODERS["mlp"]
    start, end = pairs(3, generator)
    end[1] = start[1]
    g = geodesic(metric, start, end, method=method)
    assert_keeps_its_promises(metric, start, end, g)
    assert g.status[1] == Status.SAME_POINT
    assert (g.status != Status.SAME_POINT).sum() == 2
    for value in (g.length, g.line_length, g.residual, g.improvement, g.n_steps):
        assert value[1] == 0
    assert g.converged[1]
    torch.testing.assert_close(g.points[1], start[1].expand(33, 2), rtol=1e-13, atol=1e-13)
    alone = geodesic(metric, start[1], start[1], method=method)
    assert alone.converged and alone.length == 0


@every_method
def test_a_dead_direction_gives_no_nan(method):
    start = torch.zeros(4, 2, dtype=DTYPE)
    end = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]], dtype=DTYPE)
    g = geodesic(DEAD, start, end, method=method)
    assert_keeps_its_promises(DEAD, start, end, g)
    torch.testing.assert_close(g.length, torch.tensor([3.0, 0, 3, 0], dtype=DTYPE))
    assert g.status.tolist() == [Status.CONVERGED, Status.SINGULAR, Status.CONVERGED, Status.SAME_POINT]


@every_method
def test_a_decoder_that_does_nothing_at_all(method):
    start, end = torch.zeros(3, 2, dtype=DTYPE), torch.ones(3, 2, dtype=DTYPE)
    metric = PullbackMetric(lambda z: 0 * z)
    g = geodesic(metric, start, end, method=method)
    assert_keeps_its_promises(metric, start, end, g)
    assert (g.status == Status.SINGULAR).all()
    assert not g.converged.any()


@every_method
def test_a_metric_that_is_dead_on_one_side(method):
    """A decoder of rectifiers: nothing changes where the first coordinate is negative."""
    metric = PullbackMetric(lambda z: torch.cat([z[:, :1].relu(), z[:, :1].relu() * z[:, 1:]], dim=-1))
    start = torch.tensor([[-1.0, 0.0], [-1.0, -1.0]], dtype=DTYPE)
    end = torch.tensor([[1.0, 0.5], [-0.5, 1.0]], dtype=DTYPE)
    g = geodesic(metric, start, end, method=method)
    # between the points of a curve that leaps through the dead side, its cubics may overshoot into the living one
    assert_keeps_its_promises(metric, start, end, g, rtol=1e-2)
    assert not g.converged[0] or abs(float(g.length[0]) / math.sqrt(1.25) - 1) < 1e-3
    assert g.status[1] == Status.SINGULAR


def test_statuses_are_sentences():
    assert len({s.sentence for s in Status}) == len(Status)
    assert "max_steps" in Status.MAX_STEPS.sentence


def test_report_counts_every_curve(generator):
    start, end = pairs(4, generator)
    end[0] = start[0]
    g = geodesic(DECODERS["mlp"], start, end, max_steps=1)
    lines = g.report().splitlines()
    assert sum(int(line.split()[0]) for line in lines) == 4
    assert f"1 of 4: {Status.SAME_POINT.sentence}" in lines


@every_method
def test_throw_raises_with_the_report(method, generator):
    start, end = pairs(3, generator)
    with pytest.raises(GeodesicError, match=r"[1-3] of 3: .*max_steps"):
        geodesic(DECODERS["mlp"], start, end, method=method, max_steps=1, throw=True)
    fine = geodesic(sphere().metric, *sphere_pairs(3, generator, DTYPE), method=method, throw=True)
    assert fine.converged.all()


# First guesses


@every_method
@pytest.mark.parametrize("n", [1, 2, 3, 8, 32, 50])
def test_a_good_first_guess_is_kept(n, method, generator):
    space = sphere()
    start, end = sphere_pairs(5, generator, DTYPE)
    guess = space.geodesic(start, end, torch.linspace(0, 1, n + 1, dtype=DTYPE))
    g = geodesic(space.metric, start, end, method=method, init=guess)
    assert_keeps_its_promises(space.metric, start, end, g)
    torch.testing.assert_close(g.length, space.distance(start, end), rtol=3e-4, atol=0)


@every_method
def test_a_bad_first_guess_does_no_harm(method, generator):
    space = sphere()
    start, end = sphere_pairs(5, generator, DTYPE, 0.3, 1.5)
    t = torch.linspace(0, 1, 33, dtype=DTYPE)[:, None]
    guess = torch.lerp(start[:, None], end[:, None], t) + 0.2 * (3 * math.pi * t).sin()
    g = geodesic(space.metric, start, end, method=method, init=guess)
    assert_keeps_its_promises(space.metric, start, end, g)
    torch.testing.assert_close(g.length, space.distance(start, end), rtol=1e-3, atol=0)


@every_method
def test_a_guess_is_broadcast_and_its_ends_are_made_exact(method):
    start = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=DTYPE)
    end = torch.tensor([1.5, 1.0], dtype=DTYPE)
    guess = torch.lerp(start[0], end, torch.linspace(0, 1, 9, dtype=DTYPE)[:, None]) + 1e-6
    g = geodesic(sphere().metric, start, end, method=method, init=guess)
    assert_keeps_its_promises(sphere().metric, start, end, g)


# Kinds of numbers


@every_method
def test_float32(method, generator):
    space = sphere()
    start, end = sphere_pairs(20, generator, torch.float32)
    g = geodesic(space.metric, start, end, method=method)
    assert_keeps_its_promises(space.metric, start, end, g)
    exact = space.distance(start.double(), end.double())
    torch.testing.assert_close(g.length.double(), exact, rtol=3e-4, atol=0)
    assert g.converged.all()


@pytest.mark.slow
@every_method
def test_float32_decoder_is_close_to_float64(method, generator):
    start, end = pairs(8, generator)
    single = PullbackMetric(mlp(dtype=torch.float32, gain=1), deviation(dtype=torch.float32, gain=1))
    double = PullbackMetric(mlp(gain=1), deviation(gain=1))
    a, b = geodesic(single, start.float(), end.float(), method=method), geodesic(double, start, end, method=method)
    assert_keeps_its_promises(single, start.float(), end.float(), a)
    torch.testing.assert_close(a.line_length.double(), b.line_length, rtol=2e-4, atol=0)
    torch.testing.assert_close(a.length.double(), b.length, rtol=2e-3, atol=0)


@pytest.mark.slow
@every_method
@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_units_of_the_output_do_not_matter(scale, method, generator):
    net = mlp()
    start, end = pairs(5, generator)
    a = geodesic(PullbackMetric(net), start, end, method=method)
    b = geodesic(PullbackMetric(lambda z: scale * net(z)), start, end, method=method)
    torch.testing.assert_close(b.length, scale * a.length, rtol=1e-5, atol=0)
    assert torch.equal(a.status, b.status)


@every_method
def test_gradients_are_neither_needed_nor_kept(method, generator):
    start, end = sphere_pairs(2, generator, DTYPE)
    with torch.no_grad():
        quiet = geodesic(sphere().metric, start, end, method=method)
    loud = geodesic(sphere().metric, start.clone().requires_grad_(), end.clone().requires_grad_(), method=method)
    torch.testing.assert_close(quiet.points, loud.points, rtol=1e-12, atol=1e-12)
    assert not loud.points.requires_grad and not loud.curve.points.requires_grad
    net = DECODERS["mlp"].mean
    geodesic(DECODERS["mlp"], *pairs(1, generator), method=method)
    assert all(p.grad is None for p in net.parameters())


@every_method
def test_arguments_are_left_alone(method, generator):
    start, end = sphere_pairs(3, generator, DTYPE)
    guess = sphere().geodesic(start, end, torch.linspace(0, 1, 9, dtype=DTYPE))
    before = [x.clone() for x in (start, end, guess)]
    geodesic(sphere().metric, start, end, method=method, init=guess)
    for x, y in zip((start, end, guess), before, strict=True):
        assert torch.equal(x, y)


# Bad input

A, B = torch.tensor([[1.0, 0.0], [1.2, 0.5]]), torch.tensor([[1.5, 1.0], [1.0, 1.5]])
BAD = {
    "method: got 'magic', expected one of": (A, B, {"method": "magic"}),
    "speed: not an option of method": (A, B, {"speed": 2}),
    "n_segments: got 3, expected at least 4": (A, B, {"n_segments": 3}),
    "n_segments: got 8.0": (A, B, {"n_segments": 8.0}),
    "max_steps: got 0": (A, B, {"max_steps": 0}),
    "rtol: got 0": (A, B, {"rtol": 0}),
    "rtol: got nan": (A, B, {"rtol": math.nan}),
    "start: got list": ([[0.0]], B, {}),
    "end: got dtype torch.int64": (A, B.long(), {}),
    "end: got dtype torch.float64, expected torch.float32 like start": (A, B.double(), {}),
    r"start: got shape \(\)": (torch.tensor(1.0), B, {}),
    r"start, end: got shapes \(2, 2\) and \(2, 3\)": (A, torch.ones(2, 3), {}),
    r"start, end: got shapes \(2, 2\) and \(3, 2\)": (A, torch.ones(3, 2), {}),
    r"start, end: got shapes \(2, 2\) and \(2, 1\)": (A, torch.ones(2, 1), {}),
    r"start, end: got zero pairs \(shape \(0, 2\)\)": (A[:0], B[:0], {}),
    r"start, end: got zero pairs \(shape \(3, 0, 2\)\)": (A[:0], torch.ones(3, 1, 2), {}),
    "start: 1 of 4 entries are not finite": (torch.where(A == 1.2, torch.nan, A), B, {}),
    "end: 2 of 4 entries are not finite": (A, torch.where(B == 1.5, torch.inf, B), {}),
    "init: got 'magic', expected one of": (A, B, {"init": "magic"}),
    r"init: got shape \(5, 9, 2\)": (A, B, {"init": torch.zeros(5, 9, 2)}),
    r"init: got shape \(2, 9, 3\)": (A, B, {"init": torch.zeros(2, 9, 3)}),
    r"init: got shape \(2, 1, 2\)": (A, B, {"init": A[:, None]}),
    "init: got dtype torch.float64": (A, B, {"init": torch.stack([A, B], 1).double()}),
    "init: its first and last points are not start and end": (A, B, {"init": torch.stack([B, A], 1)}),
    "init: got int": (A, B, {"init": 3}),
    "init: 2 of 12": (A, B, {"init": torch.stack([A, A * torch.tensor([torch.nan, 1]), B], 1)}),
}


@every_method
@pytest.mark.parametrize("sentence", BAD)
def test_bad_input_is_told(sentence, method):
    start, end, options = BAD[sentence]
    with pytest.raises((TypeError, ValueError), match=sentence):
        geodesic(sphere().metric, start, end, **({"method": method} | options))


def test_options_of_the_spline_method():
    with pytest.raises(ValueError, match="max_control_points: got 3"):
        geodesic(sphere().metric, A, B, method="spline", max_control_points=3)
    coarse = geodesic(sphere().metric, A, B, method="spline", max_control_points=4)
    assert coarse.curve.n_segments == 1
    assert not coarse.converged.any()
    assert (coarse.status == Status.MAX_CONTROL_POINTS).all()


@every_method
def test_a_metric_that_is_not_finite_on_the_way(method):
    start, end = torch.tensor([0.0, 1.0], dtype=DTYPE), torch.tensor([0.0, -1.0], dtype=DTYPE)

    def metric(z):  # no number below the axis
        return half_plane().metric(z) * z[..., 1, None, None].sqrt()

    with pytest.raises(ValueError, match="metric: not finite"):
        geodesic(metric, start, end, method=method)


def test_methods_are_names():
    assert len(METHODS) >= 1
    assert all(isinstance(m, str) for m in METHODS)
