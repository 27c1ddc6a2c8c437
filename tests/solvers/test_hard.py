"""Metrics on which curves creep, tunnel, or run away: what is said of them holds, against exact distances."""

import itertools
import math

import pytest
import torch
from problems import half_plane, half_plane_distance, seeded
from promises import assert_keeps_its_promises
from torch import nn

from geolib import PullbackMetric, curve_length, geodesic, geodesic_residual, is_geodesic

pytestmark = pytest.mark.smoke

DTYPE = torch.float64
RTOL = 1e-4


def conformal(z):
    """exp(6 x) I: the plane in other coordinates, by w = exp(3 (x + i y)) / 3."""
    return (6 * z[..., 0]).exp()[..., None, None] * torch.eye(2, dtype=z.dtype)


def conformal_distance(a, b):
    """Where the segment from w(a) to w(b) leaves the origin on the same side as the straight line does."""

    def w(z):
        radius = (3 * z[..., 0]).exp() / 3
        return torch.stack([radius * (3 * z[..., 1]).cos(), radius * (3 * z[..., 1]).sin()], dim=-1)

    return (w(a) - w(b)).norm(dim=-1)


@pytest.mark.slow
@pytest.mark.parametrize("init", ["line", "auto"])
def test_more_steps_give_no_longer_curve(init):
    """A segment can jump over the origin of w, around which the whole turn lies within 2 % of the length."""
    start, end = torch.tensor([[-0.2, -1.3], [1.1, -2.2]], dtype=DTYPE)
    distance = float(conformal_distance(start, end))
    excess = []
    for max_steps in (100, 300, 900, 3000):
        g = geodesic(conformal, start, end, max_steps=max_steps, init=init)
        assert_keeps_its_promises(conformal, start, end, g)
        excess.append(float(g.length) / distance - 1)
        if g.converged:
            assert excess[-1] < 5 * RTOL
    assert excess[1] < 5 * RTOL
    assert all(later < earlier + RTOL for earlier, later in itertools.pairwise(excess))


def test_conformal_pairs_converge_to_their_distance(generator):
    start, end = torch.rand(2, 30, 2, generator=generator, dtype=DTYPE) * 2 - 1
    end[:, 1] = start[:, 1] + 0.45 * (end[:, 1] - start[:, 1])  # an angle below pi
    g = geodesic(conformal, start, end, init="line")
    excess = g.length / conformal_distance(start, end) - 1
    assert g.converged.double().mean() > 0.9
    assert (excess[g.converged] < 2 * RTOL).all()


@pytest.mark.slow
def test_what_converges_in_logarithms_is_as_short_as_it_says(generator):
    """The half-plane by (x, log y); three in a thousand pairs need finer points than the curve's own."""

    def metric(z):
        return torch.diag_embed(torch.stack([(-2 * z[..., 1]).exp(), torch.ones_like(z[..., 0])], dim=-1))

    start, end = half_plane().sample(1000, generator, DTYPE)
    g = geodesic(metric, *(torch.stack([z[:, 0], z[:, 1].log()], dim=-1) for z in (start, end)))
    excess = g.length / half_plane_distance(start, end) - 1
    assert g.converged.double().mean() > 0.99
    assert (excess[g.converged] < 2 * RTOL).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_a_narrow_bump_between_points_is_seen(seed):
    """Narrower than a segment, beside the line; the way around it is shorter than the way over its flank."""
    at, width = (0.013, 0.02) if seed == 0 else (-0.4, 0.03)
    metric = PullbackMetric(
        lambda z: torch.cat(
            [z, 0.1 * torch.exp(-(((z[:, :1] - at) / width) ** 2) / 2 - ((z[:, 1:] / 0.05) ** 2) / 2)], dim=-1
        )
    )
    start, end = torch.tensor([[-1.0, 0.004], [1.0, 0.0]], dtype=DTYPE)
    g = geodesic(metric, start, end)
    t = torch.linspace(0, 1, 257, dtype=DTYPE)
    aside = (math.pi * t).sin()[:, None] * t.new_tensor([0.0, 1.0])
    line = torch.lerp(start, end, t[:, None])
    best = min(
        float(geodesic(metric, start, end, init=line + height * aside, n_segments=256).length)
        for height in (-0.3, -0.1, -0.05, 0.05, 0.1, 0.3)
    )
    assert g.converged
    assert float(g.length) <= best * (1 + 2 * RTOL)


def nearly_singular(seed):
    """Sixteen dimensions through three narrow layers, each of which presses most directions together."""

    def build():
        sizes = (16, 20, 20, 20, 100)
        layers = []
        for inputs, outputs in itertools.pairwise(sizes):
            layer = nn.Linear(inputs, outputs)
            nn.init.normal_(layer.weight, std=0.5 / math.sqrt(inputs))
            nn.init.normal_(layer.bias, std=0.5)
            layers += [layer, nn.Tanh()]
        return nn.Sequential(*layers[:-1])

    return PullbackMetric(seeded(build, seed, DTYPE))


@pytest.mark.slow
def test_nearly_singular_metrics_converge(generator):
    """Most of 24 pairs on four decoders, to the lengths that the spline method needs many more steps for."""
    converged, excess = [], []
    for seed in (1, 2, 3, 4):
        metric = nearly_singular(seed)
        start, end = 2 * torch.randn(2, 6, 16, generator=generator, dtype=DTYPE)
        eigenvalues = torch.linalg.eigvalsh(metric(start))
        assert (eigenvalues[:, -1] / eigenvalues[:, 0]).median() > 1e4
        g = geodesic(metric, start, end)
        measured = curve_length(metric, g.curve(torch.linspace(0, 1, 4097, dtype=DTYPE)))
        torch.testing.assert_close(g.length[g.converged], measured[g.converged], rtol=2 * RTOL, atol=0)
        assert (g.improvement > 0.01).all()
        converged.append(g.converged)
        excess.append(g.length / geodesic(metric, start, end, method="spline").length - 1)
    assert torch.cat(converged).sum() >= 22
    assert (torch.cat(excess) < 3 * RTOL).sum() >= 22
    assert (torch.cat(excess) < 1e-2).all()


@pytest.mark.slow
def test_one_pair_in_512_dimensions_converges():
    net = seeded(lambda: nn.Sequential(nn.Linear(512, 512), nn.Tanh(), nn.Linear(512, 784)), 0, torch.float32)
    start, end = torch.randn(2, 512, generator=torch.Generator().manual_seed(1))
    g = geodesic(PullbackMetric(net), start, end)
    assert g.converged
    assert g.improvement > 1e-3


ONTO = {
    "rank 1 of 2": (2, lambda z: z[..., :1] + z[..., 1:].square()),
    "rank 2 of 3": (3, lambda z: torch.stack([z[..., 0] + z[..., 2] ** 2, 2 * z[..., 1] + z[..., 0].sin()], dim=-1)),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", ONTO)
def test_a_singular_metric_given_as_a_callable_is_not_certified_whatever_the_curve(what):
    """Curves may take any way along the fibres, so distances are those between the images."""
    d, onto = ONTO[what]

    def metric(z):
        J = torch.func.vmap(torch.func.jacrev(onto))(z.reshape(-1, d))
        return (J.mT @ J).reshape(*z.shape, d)

    start = torch.tensor([[-0.5, -0.9, -1.0], [0.2, 0.6, 0.3]], dtype=DTYPE)[:, -d:]
    end = torch.tensor([[0.6, 0.4, 1.2], [-0.4, -0.8, -1.5]], dtype=DTYPE)[:, -d:]
    distance = (onto(end) - onto(start)).norm(dim=-1)
    line = torch.lerp(start[:, None], end[:, None], torch.linspace(0, 1, 65, dtype=DTYPE)[:, None])
    assert (curve_length(metric, line) > 1.05 * distance).all()
    assert not is_geodesic(geodesic_residual(metric, line), 1e-4).any()
    g = geodesic(metric, start, end, init="line")
    torch.testing.assert_close(g.length, distance, rtol=1e-3, atol=0)
