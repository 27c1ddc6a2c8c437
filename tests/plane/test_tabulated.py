"""Tabulated metrics: order of accuracy, edges of the box, and walks and curves on them."""

import itertools
import math

import pytest
import torch
from problems import deviation, flat_plane, half_plane, linear_decoder, linear_map, mlp

from geolib import PullbackMetric, geodesic
from geolib.plane.tabulated import TabulatedMetric, tabulate
from geolib.walks import WalkStatus, random_walk

pytestmark = pytest.mark.smoke

DTYPE = torch.float64
LOWER, UPPER = torch.tensor([-1.5, -1.0], dtype=DTYPE), torch.tensor([1.0, 2.0], dtype=DTYPE)


def decoder(dtype=DTYPE):
    return PullbackMetric(mlp(dtype=dtype), deviation(dtype=dtype))


def table(dtype=DTYPE, **options) -> TabulatedMetric:
    return tabulate(decoder(dtype), LOWER.to(dtype), UPPER.to(dtype), **options)


def inside(n, generator, dtype=DTYPE):
    return torch.lerp(LOWER, UPPER, torch.rand(n, 2, generator=generator, dtype=DTYPE)).to(dtype)


def relative(M, exact):
    return torch.linalg.matrix_norm(M - exact) / torch.linalg.matrix_norm(exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("resolution", [2, 7, 24])
def test_exact_at_the_nodes_and_at_the_edges(resolution, dtype):
    share = torch.linspace(0, 1, resolution + 1, dtype=dtype)[:, None]
    z = torch.cartesian_prod(*torch.lerp(LOWER.to(dtype), UPPER.to(dtype), share).T)
    M = table(dtype, resolution=resolution)(z)
    assert M.dtype == dtype
    assert relative(M, decoder(dtype)(z)).max() < 200 * torch.finfo(dtype).eps


def test_every_box_holds_its_corners(generator):
    for _ in range(50):
        lower = torch.randn(2, generator=generator)
        upper = lower + torch.rand(2, generator=generator) + 0.01
        M = tabulate(flat_plane().metric, lower, upper, resolution=7)
        beyond = torch.stack([lower - 1e-3, upper + 1e-3])
        assert torch.isfinite(M(torch.stack([lower, upper]))).all()
        assert torch.isnan(M(beyond)).all()


def test_the_error_is_of_second_order(generator):
    z = inside(500, generator)
    exact = decoder()(z)
    tables = [table(resolution=n) for n in (32, 64, 128)]
    worst, mean = zip(
        *[(float(e.max()), float(e.mean())) for e in (relative(t(z), exact) for t in tables)], strict=True
    )
    for errors in (mean, [t.error for t in tables], [t.typical_error for t in tables]):
        ratios = [a / b for a, b in itertools.pairwise(errors)]
        assert ratios == pytest.approx([4, 4], rel=0.15)
    for t, largest in zip(tables, worst, strict=True):
        assert t.typical_error < t.error
        assert largest < 1.1 * t.error


def test_a_constant_metric_has_no_error():
    metric = linear_decoder("", linear_map(2, 5, 300)).metric
    assert tabulate(metric, LOWER, UPPER, resolution=8).error < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_symmetric_and_positive(dtype, generator):
    def fold(z):  # of rank one, in directions that turn
        J = torch.stack([(3 * z[..., 1]).cos(), (3 * z[..., 0]).sin()], dim=-1)
        return J[..., None] * J[..., None, :]

    z = inside(1000, generator, dtype)
    for metric in (decoder(dtype), fold, lambda z: 0 * fold(z)):
        M = tabulate(metric, LOWER.to(dtype), UPPER.to(dtype), resolution=9)(z)
        assert torch.equal(M, M.mT)
        assert (torch.linalg.eigvalsh(M) >= -10 * torch.finfo(dtype).eps * M.abs().amax((1, 2)).unsqueeze(-1)).all()


def test_narrow_directions_stay_narrow_where_they_turn(generator):
    def wall(z):  # steep across circles, all but flat along them
        n = z / z.norm(dim=-1, keepdim=True)
        return 1e6 * n[..., None] * n[..., None, :] + torch.eye(2, dtype=z.dtype)

    z = 1 + torch.rand(500, 2, generator=generator, dtype=DTYPE)
    M = tabulate(wall, torch.ones(2, dtype=DTYPE), torch.full((2,), 2.0, dtype=DTYPE), resolution=64)(z)
    assert torch.linalg.eigvalsh(M)[:, 0].sub(1).abs().max() < 1e-3


def test_outside_is_nan():
    M = table(resolution=8)
    z = torch.tensor(
        [[0.0, 0.0], [1.01, 0.0], [0.0, -1.01], [9.0, 9.0], [math.nan, 0.0], [math.inf, 0.0], [-1e30, 1e30]]
    )
    finite = torch.isfinite(M(z.to(DTYPE))).flatten(1)
    assert finite[0].all()
    assert not finite[1:].any()


def test_shapes():
    M = table(resolution=4)
    for batch in ((), (3,), (2, 3), (0,)):
        assert M(torch.zeros(*batch, 2, dtype=DTYPE)).shape == (*batch, 2, 2)
    assert M.resolution == 4
    assert not M(torch.zeros(2, dtype=DTYPE)).requires_grad


@pytest.mark.parametrize("metric", [decoder(), half_plane().metric, flat_plane().metric])
def test_differentiable_inside(metric, generator):
    # away from the cells' borders, also for isotropic tensors
    M = tabulate(metric, torch.tensor([0.0, 1.0], dtype=DTYPE), torch.tensor([1.0, 2.0], dtype=DTYPE), resolution=4)
    cell = torch.randint(0, 4, (5, 2), generator=generator)
    z = (cell + 0.2 + 0.6 * torch.rand(5, 2, generator=generator, dtype=DTYPE)) / 4
    z = (z + torch.tensor([0.0, 1.0], dtype=DTYPE)).requires_grad_()
    assert torch.autograd.gradcheck(M, z)


def test_curves_on_a_table_are_those_on_the_metric():
    start, end = torch.tensor([[-1.0, -0.5]], dtype=DTYPE), torch.tensor([[0.7, 1.5]], dtype=DTYPE)
    exact = geodesic(decoder(), start, end)
    found = geodesic(table(), start, end)
    assert float(found.length) == pytest.approx(float(exact.length), rel=1e-4)


# Walks


def test_a_walk_stops_at_the_edge():
    M = tabulate(flat_plane().metric, LOWER, UPPER, resolution=4)
    walk = random_walk(M, torch.zeros(60, 2, dtype=DTYPE), n_steps=60, step_size=0.1)
    left = walk.status == WalkStatus.LEFT
    assert 3 < left.sum() < 57
    assert ((walk.points >= LOWER) & (walk.points <= UPPER)).all()
    assert (walk.n_steps[left] < 60).all() and (walk.n_steps[~left] == 60).all()
    # up to that step it is the walk without a table
    free = random_walk(flat_plane().metric, torch.zeros(60, 2, dtype=DTYPE), n_steps=60, step_size=0.1)
    torch.testing.assert_close(walk.points[~left], free.points[~left])


@pytest.mark.slow
def test_walks_on_a_table_are_distributed_as_on_the_metric():
    start = torch.zeros(1500, 2, dtype=torch.float32)
    box = torch.full((2,), 15.0)
    M = tabulate(decoder(torch.float32), -box, box, resolution=256)
    exact, found = (
        random_walk(metric, start, n_steps=80, step_size=0.2, max_stride=0.3, seed=seed)
        for seed, metric in enumerate((decoder(torch.float32), M))
    )
    assert (found.status == WalkStatus.COMPLETED).all()
    shares = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9])
    for n in (20, 80):
        one, other = (walk.points[:, n].norm(dim=-1).quantile(shares) for walk in (exact, found))
        torch.testing.assert_close(one, other, rtol=0.1, atol=0.02)
    one, other = (float(walk.n_clipped.double().mean()) for walk in (exact, found))
    assert one == pytest.approx(other, rel=0.1, abs=0.5)


# Bad input


BAD = {
    "metric: got int, expected a PullbackMetric or a callable": {"metric": 3},
    r"metric: returned \(9, 2\) for points \(9, 2\), expected \(9, 2, 2\)": {"metric": lambda z: z},
    r"metric: not finite at 3 of 9 points, first at z = \[-1.5, 0\]": {
        "metric": half_plane().metric,
        "lower": torch.tensor([-1.5, 0.0], dtype=DTYPE),
    },
    "lower: got list": {"lower": [0.0, 0.0]},
    r"lower: got shape \(3,\), expected \(2,\)": {"lower": torch.zeros(3, dtype=DTYPE)},
    r"upper: got shape \(1, 2\), expected \(2,\)": {"upper": torch.ones(1, 2, dtype=DTYPE)},
    "upper: 1 of 2 entries are not finite": {"upper": torch.tensor([1.0, math.inf], dtype=DTYPE)},
    "upper: got dtype torch.float32, expected torch.float64 like lower": {"upper": UPPER.float()},
    r"lower, upper: got \[-1.5, -1.0\] and \[1.0, -1.0\], expected lower < upper": {
        "upper": torch.tensor([1.0, -1.0], dtype=DTYPE)
    },
    "resolution: got 1, expected at least 2": {"resolution": 1},
    "resolution: got 2.0, expected an integer": {"resolution": 2.0},
}


@pytest.mark.parametrize("sentence", BAD)
def test_bad_input_is_told(sentence):
    arguments = {"metric": flat_plane().metric, "lower": LOWER, "upper": UPPER, "resolution": 2} | BAD[sentence]
    with pytest.raises((TypeError, ValueError), match=sentence):
        tabulate(arguments.pop("metric"), arguments.pop("lower"), arguments.pop("upper"), **arguments)


@pytest.mark.parametrize("z", [torch.zeros(4, 3, dtype=DTYPE), torch.zeros(4, 2)], ids=["d = 3", "float32"])
def test_points_of_another_kind_are_told(z):
    with pytest.raises(ValueError, match=r"z: got .*, expected torch.float64 \(..., 2\) on cpu like the table"):
        table(resolution=2)(z)
