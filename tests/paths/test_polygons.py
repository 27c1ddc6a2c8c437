"""Shortest curves on piecewise linear maps: polygons with corners at kinks."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from geolib import (
    PullbackMetric,
    Status,
    curve_length,
    fit_rbf_precision,
    geodesic,
    geodesic_residual,
    is_geodesic,
)
from geolib.paths.kinks.cells import Cells
from geolib.paths.kinks.descent import descend
from geolib.paths.kinks.lengths import exact_length
from geolib.paths.kinks.model import ALONG
from geolib.paths.kinks.polygons import Polygons
from geolib.riemannian import as_metric

F64 = torch.float64


def linear(weight, bias=None):
    weight = torch.tensor(weight, dtype=F64)
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=F64)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(torch.zeros(len(weight)) if bias is None else torch.tensor(bias))
    return layer


def quadrants(weight):
    """A map that is linear in every quadrant, from ``relu`` of x, -x, y, -y."""
    return nn.Sequential(linear([[1, 0], [-1, 0], [0, 1], [0, -1]]), nn.ReLU(), linear(weight))


def decoder(activation, seed, sizes=(8, 64, 64, 200)):
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for n_in, n_out in itertools.pairwise(sizes):
        layer = nn.Linear(n_in, n_out, dtype=F64)
        with torch.no_grad():
            layer.weight.copy_(torch.randn(n_out, n_in, generator=generator, dtype=F64) / math.sqrt(n_in))
            layer.bias.copy_(torch.randn(n_out, generator=generator, dtype=F64) / math.sqrt(n_in))
        layers += [layer, activation()]
    return nn.Sequential(*layers[:-1])


def pairs(n, d, seed):
    return torch.randn(2, n, d, generator=torch.Generator().manual_seed(seed), dtype=F64)


def on_chords(metric, g, n=4096):
    """The lengths of curves on so many chords."""
    t = torch.linspace(0, 1, n + 1, dtype=F64)
    return torch.stack([curve_length(metric, points) for points in g.curve(t)])


@pytest.mark.slow
@pytest.mark.parametrize("height", [0.3, 1.5, 20.0])
def test_a_folded_plane_is_unfolded(height):
    metric = PullbackMetric(quadrants([[1, -1, 0, 0], [0, 0, 1, -1], [height, height, 0, 0]]))
    start, end = pairs(40, 2, 0)
    flat = torch.tensor([math.hypot(1, height), 1.0], dtype=F64)
    g = geodesic(metric, start, end)
    assert g.converged.all()
    assert torch.allclose(g.length, ((start - end) * flat).norm(dim=-1), rtol=1e-4)


@pytest.mark.parametrize("slope", [0.0, 0.3])
def test_a_sheared_half_plane_bends_curves_at_the_kink(slope):
    """``(x, y + 3 leaky_relu(x))`` is flat, and its shortest curves have one corner, where they meet x = 0."""
    one = 1 / (1 + slope)
    net = nn.Sequential(
        linear([[1, 0], [-1, 0], [0, 1], [0, -1]]),
        nn.LeakyReLU(slope),
        linear([[one, -one, 0, 0], [3, 0, one, -one]]),
    )
    metric = PullbackMetric(net)
    start, end = pairs(40, 2, 1)
    true = (metric.immersion(start) - metric.immersion(end)).norm(dim=-1)
    g = geodesic(metric, start, end)
    assert g.converged.all()
    assert torch.allclose(g.length, true, rtol=1.1e-4)
    assert (g.line_length > 1.01 * true).sum() >= 5


def around_an_apex(angle_of_quadrant, start, end):
    """The distance on four flat sectors of one angle round a point, between points at polar coordinates there."""
    turn = (start[1] - end[1]).abs()
    turn = torch.minimum(turn, 4 * angle_of_quadrant - turn)
    straight = (start[0] ** 2 + end[0] ** 2 - 2 * start[0] * end[0] * turn.cos()).clamp_min(0).sqrt()
    return torch.where(turn < math.pi, straight, start[0] + end[0])


def polar(weight, z):
    """Polar coordinates on the four sectors ``(2, n)``, and the angle of one of them."""
    weight = torch.tensor(weight, dtype=F64)
    axes = torch.stack([weight[:, 0], weight[:, 2], weight[:, 1], weight[:, 3]])  # x, y, -x, -y
    cosine = nn.functional.cosine_similarity(axes, axes.roll(-1, 0), dim=-1)
    angles = cosine.acos()
    quadrant = (torch.atan2(z[:, 1], z[:, 0]) % (2 * math.pi) / (math.pi / 2)).long().clamp(max=3)
    before = torch.cat([torch.zeros(1, dtype=F64), angles.cumsum(0)])[quadrant]
    image = PullbackMetric(quadrants(weight.tolist())).immersion(z)
    inside = nn.functional.cosine_similarity(image, axes[quadrant], dim=-1).clamp(-1, 1).acos()
    return torch.stack([image.norm(dim=-1), before + inside]), angles


# a pyramid's tip, round which the angle is smaller than 2 pi, and a corner with more of it, through which curves pass
PYRAMID = [[1, -1, 0, 0], [0, 0, 1, -1], [2, 2, 2, 2]]
MONKEY = [[1, -1, 0, 0], [0, 0, 1, -1], [2, 2, -2, -2]]


@pytest.mark.slow
@pytest.mark.parametrize(("weight", "passes"), [(PYRAMID, False), (MONKEY, True)])
def test_apexes(weight, passes):
    start, end = pairs(30, 2, 2)
    # straight over the apex, along a kink and obliquely
    start = torch.cat([start, torch.tensor([[-1.0, 0], [-1, -0.7], [-1, -1]], dtype=F64)])
    end = torch.cat([end, torch.tensor([[1.0, 0], [1, 0.7], [1, 1]], dtype=F64)])
    (a, angles), (b, _) = polar(weight, start), polar(weight, end)
    assert torch.allclose(angles, angles[0].expand(4))
    assert (4 * angles[0] > 2 * math.pi) == passes
    true = around_an_apex(angles[0], a, b)
    g = geodesic(PullbackMetric(quadrants(weight)), start, end)
    # a curve that passes an apex by a hair, on one side, could gain where its cells end, and is not certified
    assert g.converged.double().mean() >= (0.85 if passes else 1)
    excess = g.length / true - 1
    assert excess.min() > -1e-9
    # both ways round a tip are shortest curves beside themselves
    assert (excess < 1.1e-4).double().mean() > (0.97 if passes else 0.8)
    if passes:
        assert ((true - a[0] - b[0]).abs() < 1e-12).sum() >= 5


@pytest.mark.slow
@pytest.mark.parametrize("activation", [nn.ReLU, lambda: nn.LeakyReLU(0.1)])
def test_decoders(activation):
    net = decoder(activation, seed=11)
    metric = PullbackMetric(net)
    start, end = pairs(12, 8, 12)
    g = geodesic(metric, start, end)
    assert g.converged.double().mean() >= 0.9
    assert (g.length <= g.line_length).all()
    assert torch.allclose(g.length, on_chords(metric, g), rtol=1e-4)
    best = g.length.clone()
    aside = torch.sin(math.pi * torch.linspace(0, 1, 33, dtype=F64))[:, None]
    for method, seed in (("discrete", None), ("spline", None), ("newton", 0), ("newton", 1)):
        init = "line"
        if seed is not None:
            line = torch.lerp(start[:, None], end[:, None], torch.linspace(0, 1, 33, dtype=F64)[:, None])
            init = line + 0.5 * aside * pairs(12, 8, seed)[0][:, None]
        best = torch.minimum(best, on_chords(metric, geodesic(metric, start, end, method=method, init=init)))
    assert (g.length <= best * (1 + 1e-3))[g.converged].double().mean() >= 0.9


@pytest.mark.slow
def test_what_is_left_to_gain_is_what_a_finer_solution_gains():
    """Curves that were stopped early: their residuals say by how much they are longer than the final ones."""
    metric = PullbackMetric(decoder(nn.ReLU, seed=21, sizes=(3, 32, 32, 50)))
    start, end = pairs(20, 3, 22)
    fine = geodesic(metric, start, end, rtol=1e-6, max_steps=300)
    for distance in (0.01, 0.05):
        bent = fine.curve.even_points(512)
        t = torch.linspace(0, 1, 513, dtype=F64)[:, None]
        bent = bent + distance * torch.sin(math.pi * t) * pairs(20, 3, 23)[0][:, None]
        excess = curve_length(metric, bent) / fine.length - 1
        claimed = geodesic_residual(metric, bent).square() / (2 * math.pi**2)
        settled = fine.converged & (excess > 1e-5)
        assert (claimed > excess / 1.5)[settled].double().mean() > 0.9
        assert not (is_geodesic(geodesic_residual(metric, bent), 1e-4) & (excess > 2e-4)).any()


def test_lengths_are_exact_across_kinks():
    metric = PullbackMetric(decoder(nn.ReLU, seed=31, sizes=(3, 32, 32, 50)))
    start, end = pairs(10, 3, 32)
    points = torch.stack([start, end], dim=1)
    exact = exact_length(Cells.of(as_metric(metric), points), points)
    fine = torch.lerp(start[:, None], end[:, None], torch.linspace(0, 1, 2**15 + 1, dtype=F64)[:, None])
    on_chords = curve_length(metric, fine)
    assert (on_chords < exact * (1 + 1e-12)).all()
    assert torch.allclose(on_chords, exact, rtol=3e-5)


def test_a_first_step_does_not_turn_short_segments_round():
    """It gains more than Newton's step of the length alone, which promises twice what it brings."""
    metric = PullbackMetric(decoder(nn.ReLU, seed=41, sizes=(3, 32, 32, 50)))
    lines = torch.stack(list(pairs(20, 3, 42)), dim=1)
    cells = Cells.of(as_metric(metric), lines)
    polygons = Polygons.through(cells, lines)
    rounded, along = torch.ones(20, dtype=torch.bool), torch.full((20,), ALONG, dtype=F64)
    plain = polygons.gain(cells, rounded, (1e-4, 1e-5), along, 0.0)
    brought = 1 - polygons.shortened(cells, plain.step).length / polygons.length
    assert plain.expected.mean() > 2 * brought.mean()
    corners, _, n_steps = descend(cells, lines, 1e-4, torch.ones(20, dtype=torch.long))
    assert (n_steps == 1).all()
    assert (1 - exact_length(cells, corners) / polygons.length).mean() > 1.2 * brought.mean()


@pytest.mark.slow
def test_a_pairs_curve_does_not_depend_on_its_batch():
    metric = PullbackMetric(decoder(nn.ReLU, seed=41, sizes=(3, 32, 32, 50)))
    start, end = pairs(6, 3, 42)
    together = geodesic(metric, start, end)
    for k in range(len(start)):
        assert torch.allclose(geodesic(metric, start[k], end[k]).length, together.length[k], rtol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize(("sizes", "most"), [((8, 64, 64, 200), 9), ((2, 100, 784), 1.5)])
def test_kinks_cost_a_few_times_as_much(sizes, most):
    start, end = pairs(6, sizes[0], 12)
    operations = []
    for activation in (nn.Tanh, nn.ReLU):
        metric = PullbackMetric(decoder(activation, seed=13, sizes=sizes))
        with FlopCounterMode(display=False) as counter:
            assert geodesic(metric, start, end).converged.all()
        operations.append(counter.get_total_flops())
    assert operations[1] < most * operations[0]


def test_chunks_change_nothing(monkeypatch):
    points = torch.stack(list(pairs(6, 3, 42)), dim=1)
    cells = Cells.of(as_metric(PullbackMetric(decoder(nn.ReLU, seed=41, sizes=(3, 32, 32, 50)))), points)
    whole = Polygons.through(cells, points)
    monkeypatch.setattr(Cells, "curves_at_once", lambda self, points: 2)
    parts = Polygons.through(cells, points)
    assert torch.allclose(whole.points, parts.points, rtol=1e-9, atol=1e-9)
    (one,), (other,) = whole.gains(cells, (1e-4,)), parts.gains(cells, (1e-4,))
    for name in ("step", "expected", "rounded"):
        assert torch.allclose(getattr(one, name), getattr(other, name), rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_single_precision(dtype):
    metric = PullbackMetric(decoder(nn.ReLU, seed=51, sizes=(3, 32, 32, 50)).to(dtype))
    start, end = pairs(20, 3, 52).to(dtype)
    g = geodesic(metric, start, end, rtol=1e-3)
    assert g.length.dtype == dtype
    assert g.converged.double().mean() >= 0.9


def test_only_chains_have_cells():
    chain = nn.Sequential(nn.Linear(2, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 4)))
    z = torch.zeros(1, 2)

    def cells(metric):
        return Cells.of(as_metric(metric), z)

    for metric in (
        PullbackMetric(chain),
        PullbackMetric(nn.Sequential(chain, nn.Sigmoid())),
        PullbackMetric(chain, nn.Sequential(nn.Linear(2, 4), nn.Softplus())),
        PullbackMetric(nn.Linear(2, 2), features=chain),
    ):
        assert cells(metric) is not None
    hooked = nn.Sequential(nn.Linear(2, 4), nn.ReLU())
    hooked[1].register_forward_hook(lambda module, x, y: 2 * y)
    for metric in (
        PullbackMetric(nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 4))),
        PullbackMetric(nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.ReLU())),
        PullbackMetric(nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.SELU())),
        PullbackMetric(hooked),
        PullbackMetric(lambda z: 2 * chain(z)),
        PullbackMetric(chain, lambda z: z.exp()),
        PullbackMetric(chain, nn.Sequential(nn.Linear(2, 4), nn.Softplus()), chain),
        lambda z: torch.eye(2).expand(*z.shape, 2),
    ):
        assert cells(metric) is None


BEHIND = {
    "sigmoid": lambda net, d: PullbackMetric(nn.Sequential(net, nn.Sigmoid())),
    "tanh and an affine layer": lambda net, d: PullbackMetric(
        nn.Sequential(net, nn.Tanh(), decoder(nn.Identity, seed=72, sizes=(50, 60)))
    ),
    "std with kinks": lambda net, d: PullbackMetric(
        net, nn.Sequential(decoder(nn.ReLU, seed=73, sizes=(d, 16, 50)), nn.Softplus())
    ),
    "std without": lambda net, d: PullbackMetric(
        net, fit_rbf_precision(pairs(100, d, 74)[0], torch.full((100, 50), 0.1, dtype=F64), n_centers=8)
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("behind", BEHIND)
def test_smooth_maps_behind_kinks(behind):
    metric = BEHIND[behind](decoder(nn.ReLU, seed=71, sizes=(3, 16, 16, 50)), 3)
    start, end = pairs(8, 3, 75)
    g = geodesic(metric, start, end)
    assert g.converged.double().mean() >= 0.85
    assert (g.length <= g.line_length).all()
    assert torch.allclose(g.length, on_chords(metric, g), rtol=1e-5)
    # methods that are blind to kinks find longer curves
    other = on_chords(metric, geodesic(metric, start, end, method="discrete", n_segments=64))
    assert (g.length < other * (1 + 1e-4))[g.converged].all()


@pytest.mark.slow
def test_a_decoder_of_convolutions_and_its_features():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        images = nn.Sequential(
            *(nn.Linear(4, 64), nn.ReLU(), nn.Unflatten(1, (4, 4, 4)), nn.ConvTranspose2d(4, 3, 3, stride=2)),
            *(nn.LeakyReLU(0.2, inplace=True), nn.Conv2d(3, 1, 3), nn.Sigmoid(), nn.Flatten()),
        )
        features = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    start, end = 2 * pairs(6, 4, 77)
    for metric in (PullbackMetric(images.double().eval()), PullbackMetric(images[:1], features=features.double())):
        g = geodesic(metric, start, end)
        assert g.converged.all()
        assert (g.length < 0.995 * g.line_length).any()
        assert torch.allclose(g.length, on_chords(metric, g), rtol=1e-5)


def test_a_smooth_map_behind_kinks_that_is_flat():
    """``(x, y + 3 relu(x))`` and a cylinder round which it is rolled: flat, with shortest curves that are known."""

    class Rolled(nn.Module):
        def push_forward(self, x, tangents):
            turned = torch.stack([-x[:, 0].sin(), x[:, 0].cos(), torch.ones_like(x[:, 0])], -1)
            return self(x), turned * tangents[..., [0, 0, 1]]

        def push_forward_twice(self, x, tangents):
            def pull(u):
                bent = -(u[:, 0] * x[:, 0].cos() + u[:, 1] * x[:, 0].sin())
                along = tangents[..., 0].mT
                turned = u[:, 1] * x[:, 0].cos() - u[:, 0] * x[:, 0].sin()
                return torch.stack([turned, u[:, 2]], -1), bent[:, None, None] * along[:, :, None] * along[:, None, :]

            return *self.push_forward(x, tangents), pull

        def forward(self, x):
            return torch.stack([x[:, 0].cos(), x[:, 0].sin(), x[:, 1]], -1)

    chain = nn.Sequential(linear([[1, 0], [-1, 0], [0, 1], [0, -1]]), nn.ReLU(), linear([[1, -1, 0, 0], [3, 0, 1, -1]]))
    start, end = pairs(20, 2, 76)
    true = (chain(start) - chain(end)).norm(dim=-1)
    g = geodesic(PullbackMetric(nn.Sequential(chain, Rolled())), start, end)
    assert g.converged.all()
    assert torch.allclose(g.length, true, rtol=1.1e-4)
    assert (g.line_length > 1.01 * true).sum() >= 3


def test_same_point_and_budget():
    metric = PullbackMetric(decoder(nn.ReLU, seed=61, sizes=(3, 32, 32, 50)))
    start, end = pairs(4, 3, 62)
    assert (geodesic(metric, start, start).status == Status.SAME_POINT).all()
    g = geodesic(metric, start, end, max_steps=2)
    assert (g.n_steps <= 2).all()
    assert (g.length <= g.line_length).all()
