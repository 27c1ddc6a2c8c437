"""Random walks: their statistics, the bound on steps, and the edge of the region where the metric is finite."""

import math

import pytest
import torch
from problems import flat_plane, half_plane, linear_decoder, linear_map, mlp

from geolib import PullbackMetric, fit_rbf_precision
from geolib.walks import WalkStatus, random_walk

pytestmark = pytest.mark.smoke

DTYPE = torch.float64


def constant(M):
    """A metric that is constant ``(d, d)``, or constant for each walker ``(n, d, d)``."""
    return lambda z: M.expand(*z.shape, z.shape[-1])


def noise_like(z, seed=0):
    """The epsilon of the first step from ``z``."""
    return random_walk(None, torch.zeros_like(z), n_steps=1, step_size=1, seed=seed).points[..., 1, :]


def root_of_inverse(M, floor=0.0):
    eigenvalues, U = torch.linalg.eigh(M)
    return U * eigenvalues.clamp_min(floor).rsqrt().unsqueeze(-2) @ U.mT


def random_metrics(n, d, dtype, generator, spread=1.0):
    Q = torch.linalg.qr(torch.randn(n, d, d, generator=generator, dtype=DTYPE)).Q
    eigenvalues = torch.exp(spread * torch.randn(n, d, generator=generator, dtype=DTYPE))
    return (Q * eigenvalues.unsqueeze(-2) @ Q.mT).to(dtype)


# The random numbers


@pytest.mark.parametrize("metric", [None, half_plane().metric], ids=["Euclidean", "half-plane"])
def test_a_walk_is_its_seed(metric):
    start = torch.ones(7, 2, dtype=DTYPE)
    options = {"n_steps": 20, "step_size": 0.1}
    first, again = (random_walk(metric, start, **options) for _ in range(2))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    third, other = (random_walk(metric, start, **options, seed=seed) for seed in (0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.points, again.points)
    assert torch.equal(first.points, third.points)
    assert (first.points[:, 1:] != other.points[:, 1:]).all()


def test_a_longer_walk_begins_with_the_shorter_one():
    start = torch.zeros(3000, 2)  # ten steps a block of draws
    long, short = (random_walk(None, start, n_steps=n, step_size=1).points for n in (34, 13))
    assert torch.equal(long[:, :14], short)
    steps = long.diff(dim=1)
    assert len(torch.unique(steps[:, :, 0])) > 0.99 * steps[:, :, 0].numel()


def test_more_walkers_than_a_block_of_draws():
    walk = random_walk(None, torch.zeros(70_000, 1), n_steps=3, step_size=1)
    steps = walk.points.diff(dim=1).squeeze(-1)
    assert (steps.std(0) - 1).abs().max() < 0.02
    assert steps.T.corrcoef().triu(1).abs().max() < 0.02


def test_draws_are_the_same_for_both_dtypes():
    metric = half_plane().metric
    start = torch.ones(5, 2)
    single, double = (random_walk(metric, z, n_steps=10, step_size=0.1) for z in (start, start.double()))
    assert single.points.dtype == torch.float32
    torch.testing.assert_close(single.points.double(), double.points, rtol=1e-4, atol=1e-4)


# The steps' statistics


def test_the_variance_of_a_euclidean_walk_grows_with_its_steps():
    start = torch.tensor([3.0, -1.0], dtype=DTYPE).expand(4000, 2)
    walk = random_walk(None, start, n_steps=64, step_size=0.7)
    gone = walk.points - start.unsqueeze(1)
    for n in (1, 8, 64):
        covariance = gone[:, n].T.cov()
        torch.testing.assert_close(covariance, n * 0.49 * torch.eye(2, dtype=DTYPE), rtol=0.06, atol=0.04 * n * 0.49)
        assert gone[:, n].mean(0).abs().max() < 4 * 0.7 * math.sqrt(n / 4000)
    assert not walk.n_clipped.any()  # though a step is longer than max_stride


@pytest.mark.parametrize("d", [2, 3])
def test_steps_of_a_linear_decoder_are_isotropic_in_its_image(d):
    A = linear_map(d, 6, 30)
    walk = random_walk(linear_decoder("", A).metric, torch.zeros(1000, d, dtype=DTYPE), n_steps=30, step_size=0.2)
    steps = (walk.points @ A.T).diff(dim=1).flatten(0, 1)
    basis = torch.linalg.qr(A).Q
    inside = steps @ basis
    torch.testing.assert_close(inside @ basis.T, steps, rtol=0, atol=1e-12)
    torch.testing.assert_close(inside.T.cov(), 0.04 * torch.eye(d, dtype=DTYPE), rtol=0.04, atol=0.03 * 0.04)
    assert not walk.n_clipped.any()


def test_steps_on_the_half_plane_scale_with_height():
    height = torch.tensor([0.25, 0.5, 1.0, 2.0], dtype=DTYPE)
    start = torch.stack([torch.zeros_like(height), height], dim=-1).expand(4000, 4, 2)
    walk = random_walk(half_plane().metric, start, n_steps=1, step_size=0.1)
    deviation = walk.points.diff(dim=-2).squeeze(-2).std(0)
    torch.testing.assert_close(deviation, 0.1 * height[:, None].expand(4, 2), rtol=0.05, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [1, 2, 3, 16])
def test_a_step_is_the_symmetric_root_of_the_inverse_metric(d, dtype, generator):
    M = random_metrics(200, d, dtype, generator)
    start = torch.randn(200, d, generator=generator, dtype=dtype)
    walk = random_walk(constant(M), start, n_steps=1, step_size=0.3, max_stride=100)
    expected = 0.3 * (root_of_inverse(M.double()) @ noise_like(start).double().unsqueeze(-1)).squeeze(-1)
    tolerance = 200 * torch.finfo(dtype).eps
    torch.testing.assert_close(walk.points[:, 1].double() - start.double(), expected, rtol=tolerance, atol=tolerance)
    assert not walk.n_clipped.any()


PLANAR = {
    "isotropic": [[2.0, 0.0], [0.0, 2.0]],
    "nearly isotropic": [[2.0, 1e-7], [1e-7, 2.0 + 2e-7]],
    "diagonal": [[1.0, 0.0], [0.0, 9.0]],
    "diagonal, larger first": [[9.0, 0.0], [0.0, 1.0]],
    "negative off the diagonal": [[2.0, -1.5], [-1.5, 3.0]],
    "graded": [[1e8, 10.0], [10.0, 1.0]],
    "ill-conditioned": [[5000.5, 4999.5], [4999.5, 5000.5]],
    "small": [[2e-25, 1e-25], [1e-25, 3e-25]],
    "large": [[2e25, -1e25], [-1e25, 3e25]],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", PLANAR)
def test_the_plane_without_an_eigensolver(name, dtype):
    M = torch.tensor(PLANAR[name], dtype=dtype)
    scale = float(M.double().diagonal().max().sqrt())
    start = torch.zeros(50, 2, dtype=dtype)
    walk = random_walk(constant(M), start, n_steps=1, step_size=scale, max_stride=1e6)
    # computed from the metric as rounded to its dtype
    expected = scale * noise_like(start).double() @ root_of_inverse(M.double())
    # rounding of the input causes a relative error of cond eps / 2 in the root of the smallest eigenvalue
    allowed = torch.finfo(dtype).eps * float(torch.linalg.cond(M.double())) if name == "ill-conditioned" else 0
    error = (walk.points[:, 1].double() - expected).norm(dim=-1)
    assert (error <= (allowed + 50 * torch.finfo(dtype).eps) * expected.norm(dim=-1).max()).all()
    assert not walk.n_clipped.any()


def test_units_of_the_output_do_not_matter():
    metric = PullbackMetric(mlp())
    start = torch.randn(20, 2, generator=torch.Generator().manual_seed(1), dtype=DTYPE)
    options = {"n_steps": 30, "max_stride": 0.3}
    one = random_walk(metric, start, step_size=0.2, **options)
    other = random_walk(lambda z: 8**2 * metric(z), start, step_size=8 * 0.2, **options)
    torch.testing.assert_close(one.points, other.points, rtol=1e-9, atol=1e-9)
    assert torch.equal(one.n_clipped, other.n_clipped)
    assert 0 < one.n_clipped.sum() < one.n_steps.sum()


# The bound on steps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dead", [0.0, -0.0, -1e-9, 1e-9])
@pytest.mark.parametrize("d", [2, 3])
def test_a_dead_direction_gets_the_longest_stride(d, dead, dtype):
    eigenvalues = torch.tensor([4.0, dead, 0.25][:d], dtype=dtype)
    start = torch.zeros(10, d, dtype=dtype)
    walk = random_walk(constant(eigenvalues.diag()), start, n_steps=6, step_size=0.2, max_stride=0.6)
    assert (walk.n_clipped == 6).all()
    assert (walk.status == WalkStatus.COMPLETED).all()
    stride = torch.tensor([0.1, 0.6, 0.4][:d], dtype=dtype)
    torch.testing.assert_close(walk.points[:, 1], stride * noise_like(start))
    # an eigenvalue on the floor itself is not below it
    floor = torch.eye(d, dtype=dtype)
    assert not random_walk(constant(floor), start, n_steps=6, step_size=0.5, max_stride=0.5).n_clipped.any()


@pytest.mark.parametrize("d", [2, 3])
def test_a_dead_direction_is_one_of_the_metric_not_an_axis(d):
    A = torch.ones(1, d, dtype=DTYPE)
    start = torch.zeros(2000, d, dtype=DTYPE)
    walk = random_walk(constant(A.T @ A), start, n_steps=1, step_size=0.2, max_stride=0.7)
    step = walk.points[:, 1]
    along = step.mean(-1, keepdim=True)
    deviation = (step - along).norm(dim=-1).square().mean().div(d - 1).sqrt()
    assert float((d * along).std()) == pytest.approx(0.2, rel=0.05)
    assert float(deviation) == pytest.approx(0.7, rel=0.05)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_a_metric_of_zero_is_a_euclidean_walk_of_the_longest_stride(d):
    start = torch.ones(4, d)
    walk = random_walk(constant(torch.zeros(d, d)), start, n_steps=3, step_size=1e-3, max_stride=0.3)
    torch.testing.assert_close(walk.points, random_walk(None, start, n_steps=3, step_size=0.3).points)
    assert (walk.n_clipped == 3).all()


def test_only_clipped_steps_are_counted():
    def metric(z):  # flat where x > 0
        return torch.eye(2, dtype=z.dtype) * torch.where(z[..., 0] > 0, 1e-4, 1.0)[..., None, None]

    walk = random_walk(metric, torch.zeros(30, 2), n_steps=40, step_size=0.1, max_stride=0.2)
    assert torch.equal(walk.n_clipped, (walk.points[:, :-1, 0] > 0).sum(-1))
    assert 0 < walk.n_clipped.sum() < 30 * 40


# The edge of the region where the metric is finite


def disc(bad, d):
    """The flat metric inside the unit ball, and ``bad`` outside."""

    def metric(z):
        M = torch.eye(d, dtype=z.dtype).expand(*z.shape, d)
        return torch.where((z.norm(dim=-1) > 1)[..., None, None], bad, M)

    return metric


def half_dome(d):
    """A decoder that is NaN outside the unit ball and arbitrarily steep near its boundary."""
    return PullbackMetric(lambda z: torch.cat([z, 0.01 * (1 - z.square().sum(-1, keepdim=True)).sqrt()], dim=-1))


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_who_leaves_stops_and_disturbs_nobody(bad, d):
    start = torch.zeros(40, d, dtype=DTYPE)
    options = {"n_steps": 60, "step_size": 0.1 / math.sqrt(d)}
    walk = random_walk(disc(bad, d), start, **options)
    free = random_walk(constant(torch.eye(d, dtype=DTYPE)), start, **options)
    outside = free.points.norm(dim=-1) > 1
    left = outside.any(-1)
    assert 3 < left.sum() < 37
    assert torch.equal(walk.status == WalkStatus.LEFT, left)
    assert torch.equal(walk.points[~left], free.points[~left])
    assert (walk.n_steps[~left] == 60).all()
    for points, other, first, n in zip(
        walk.points[left], free.points[left], outside[left].int().argmax(-1), walk.n_steps[left], strict=True
    ):
        assert n == first - 1
        assert torch.equal(points[: n + 1], other[: n + 1])
        assert (points[n:] == points[n]).all()


def test_a_decoder_that_ends():
    walk = random_walk(half_dome(2), torch.zeros(30, 2, dtype=DTYPE), n_steps=200, step_size=0.1)
    assert (walk.status == WalkStatus.LEFT).any()
    assert torch.isfinite(walk.points).all()
    assert (walk.points.norm(dim=-1) < 1).all()
    moved = (walk.points.diff(dim=-2) != 0).any(-1)
    assert torch.equal(moved.sum(-1), walk.n_steps)


def test_a_step_not_taken_is_not_counted_as_clipped():
    walk = random_walk(lambda z: 1e-4 * disc(math.nan, 2)(z), torch.zeros(30, 2), n_steps=40, step_size=0.1)
    assert (walk.status == WalkStatus.LEFT).any()
    assert torch.equal(walk.n_clipped, walk.n_steps)


@pytest.mark.parametrize("curved", [False, True])
def test_a_point_beyond_the_largest_number(curved):
    def metric(z):
        assert torch.isfinite(z).all()  # it is not asked about points that are none
        return flat_plane().metric(z)

    start = torch.tensor([[0.0, 0.0], [3e38, 3e38]])
    walk = random_walk(metric if curved else None, start, n_steps=40, step_size=3e37, max_stride=3e37)
    assert walk.status.tolist() == [WalkStatus.COMPLETED, WalkStatus.LEFT]
    assert torch.isfinite(walk.points).all()
    assert walk.n_steps[0] == 40
    assert walk.n_steps[1] < 40


def test_every_status_has_its_sentence():
    assert "all its steps" in WalkStatus(0).sentence
    assert len({status.sentence for status in WalkStatus}) == len(WalkStatus) == 2


# Shapes, arguments, bad input


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [1, 2, 3, 16])
def test_any_batch_shape(d, dtype, generator):
    metric = PullbackMetric(mlp(d, dtype=dtype))
    for batch in ((), (3,), (2, 3), (2, 1, 3)):
        start = torch.randn(*batch, d, generator=generator, dtype=dtype)
        walk = random_walk(metric, start, n_steps=5, step_size=0.1)
        assert walk.points.shape == (*batch, 6, d)
        assert walk.points.dtype == dtype
        assert torch.equal(walk.points[..., 0, :], start)
        for counts in (walk.status, walk.n_steps, walk.n_clipped):
            assert counts.shape == batch
            assert counts.dtype == torch.int64
        flat = random_walk(metric, start.reshape(-1, d), n_steps=5, step_size=0.1)
        assert torch.equal(walk.points.reshape(-1, 6, d), flat.points)


def test_no_gradients_and_arguments_left_alone(generator):
    decoder = mlp()
    start = torch.randn(4, 2, generator=generator, dtype=DTYPE, requires_grad=True)
    before = start.detach().clone()
    walk = random_walk(PullbackMetric(decoder), start, n_steps=5, step_size=0.1)
    assert not walk.points.requires_grad
    assert torch.is_grad_enabled()
    assert start.grad is None
    assert all(p.grad is None and p.requires_grad for p in decoder.parameters())
    assert torch.equal(start.detach(), before)
    walk.points.zero_()
    assert torch.equal(start.detach(), before)


START = torch.zeros(3, 2)
BAD = {
    "start: got list": {"start": [0.0, 0.0]},
    "start: got dtype torch.int64": {"start": torch.zeros(3, 2, dtype=torch.int64)},
    r"start: got shape \(\), expected \(..., d\)": {"start": torch.tensor(0.0)},
    r"start: got no points \(shape \(0, 2\)\), expected at least one": {"start": torch.zeros(0, 2)},
    "start: 1 of 4 entries are not finite": {"start": torch.tensor([[0.0, 0.0], [0.0, math.nan]])},
    "metric: got int, expected a PullbackMetric or a callable": {"metric": 3},
    r"metric: returned \(3, 2\) for points \(3, 2\), expected \(3, 2, 2\)": {"metric": lambda z: z},
    "metric's value: got dtype torch.float64, expected torch.float32": {"metric": constant(torch.eye(2).double())},
    r"metric: not finite at 1 of 3 points, first at z = \[2, 0\]": {
        "metric": disc(math.nan, 2),
        "start": torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 0.5]]),
    },
    r"mean: not finite at 1 of 1 points, first at z = \[2, 0\]": {
        "metric": half_dome(2),
        "start": torch.tensor([2.0, 0.0]),
    },
    "n_steps: got 0, expected at least 1": {"n_steps": 0},
    "n_steps: got 2.0, expected an integer": {"n_steps": 2.0},
    "step_size: got 0, expected a positive": {"step_size": 0},
    "step_size: got nan, expected a positive": {"step_size": math.nan},
    "step_size: got None, expected a positive": {"step_size": None},
    "max_stride: got -1, expected a positive": {"max_stride": -1},
    "max_stride: got inf, expected a positive finite": {"max_stride": math.inf},
    "seed: got -1, expected at least 0": {"seed": -1},
    "seed: got None, expected an integer": {"seed": None},
}


@pytest.mark.parametrize("sentence", BAD)
def test_bad_input_is_told(sentence):
    arguments = {"metric": None, "start": START, "n_steps": 2, "step_size": 0.1} | BAD[sentence]
    with pytest.raises((TypeError, ValueError), match=sentence):
        random_walk(arguments.pop("metric"), arguments.pop("start"), **arguments)


# A variance wall


@pytest.mark.slow
def test_a_variance_wall_keeps_the_walk_at_the_data(generator):
    angle = 2 * math.pi * torch.rand(600, generator=generator, dtype=DTYPE)
    radius = 2 + 0.1 * torch.randn(600, generator=generator, dtype=DTYPE)
    latents = radius.unsqueeze(-1) * torch.stack([angle.cos(), angle.sin()], dim=-1)
    std = fit_rbf_precision(latents, torch.full((600, 30), 1e-2, dtype=DTYPE), n_centers=20)
    A = linear_map(2, 30, 1)  # without the variance the walk is the Euclidean one
    distance = []
    for metric in (PullbackMetric(lambda z: z @ A.T, std), None):
        points = random_walk(metric, latents[:40], n_steps=1000, step_size=0.05).points
        distance.append(torch.cdist(points, latents).amin(-1))
    near = [float((d < 0.8).double().mean()) for d in distance]
    assert near[0] > 0.93 and near[1] < 0.7
    assert distance[0].max() < 1.5 and distance[1].max() > 3
