"""Pairs so near that rounding spoils sums: the line by its tangent, against the same pairs in float64."""

import copy
import time

import pytest
import torch
from problems import deviation, half_plane, mlp
from torch import nn

from geolib import METHODS, PullbackMetric, Status, geodesic
from geolib.paths.near import near_pairs
from geolib.riemannian import as_metric

pytestmark = pytest.mark.smoke

DTYPE = torch.float64


def images(activation=nn.Tanh):
    """784 outputs near one half: large images of small differences."""
    net = mlp(2, 784, dtype=torch.float32, width=64)
    return nn.Sequential(*(activation() if isinstance(layer, nn.Tanh) else layer for layer in net), nn.Sigmoid()).eval()


DECODERS = {
    "images": images,
    "images, ReLU": lambda: images(nn.ReLU),
    "images, far from zero": lambda: nn.Sequential(images(), Shifted(30.0)),
    "Eq. 2": lambda: None,
}


class Shifted(nn.Module):
    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, x):
        return x + self.by


def metrics(what):
    """In float32 and in float64."""
    if what == "Eq. 2":
        return [PullbackMetric(mlp(dtype=k), deviation(dtype=k)) for k in (torch.float32, DTYPE)]
    decoder = DECODERS[what]()
    return PullbackMetric(decoder), PullbackMetric(copy.deepcopy(decoder).double())


def pairs_apart(distance, generator, n=20):
    start = torch.randn(n, 2, generator=generator)
    return start, start + distance * nn.functional.normalize(torch.randn(n, 2, generator=generator), dim=-1)


@pytest.mark.parametrize("distance", [2e-3, 1e-4, 1e-5])
@pytest.mark.parametrize("what", DECODERS)
def test_lengths_between_near_points_in_float32(what, distance, generator):
    """Sums gave 0 to 19 times the length, and took a second per pair."""
    single, double = metrics(what)
    start, end = pairs_apart(distance, generator)
    before = time.process_time()
    g = geodesic(single, start, end)
    assert time.process_time() - before < 10
    exact = geodesic(double, start.double(), end.double())
    assert g.converged.all()
    torch.testing.assert_close(g.length.double(), exact.length, rtol=2e-4, atol=0)
    torch.testing.assert_close(g.length, g.line_length, rtol=1e-3, atol=0)
    assert torch.equal(g.points[:, [0, -1]], torch.stack([start, end], dim=1))
    assert (g.length <= g.line_length).all()
    assert (g.lower_bound <= g.length).all()
    torch.testing.assert_close(g.lower_bound.double(), exact.lower_bound, rtol=0.3, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_near_and_far_pairs_in_one_batch(method, generator):
    metric = PullbackMetric(mlp(dtype=torch.float32))
    start, end = pairs_apart(1e-5, generator, 3)
    end[1] = start[1] + 0.3
    end[2] = start[2]
    g = geodesic(metric, start, end, method=method, latents=torch.randn(20, 2, generator=generator))
    assert g.n_steps[0] == 0
    assert g.status[[0, 2]].tolist() == [Status.CONVERGED, Status.SAME_POINT]
    alone = geodesic(metric, start[1:2], end[1:2], method=method, latents=torch.randn(20, 2, generator=generator))
    torch.testing.assert_close(g.length[1:2], alone.length, rtol=1e-4, atol=0)
    torch.testing.assert_close(g.points[0, [0, -1]], torch.stack([start[0], end[0]]), rtol=0, atol=0)


def test_a_callable_has_its_near_pairs_too(generator):
    space = half_plane()
    start = torch.rand(20, 2, generator=generator) + 1
    end = start + 1e-5 * torch.randn(20, 2, generator=generator)
    g = geodesic(space.metric, start, end)
    assert g.converged.all()
    exact = (end.double() - start.double()).norm(dim=-1) / ((start + end) / 2)[:, 1]
    torch.testing.assert_close(g.length.double(), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize("n_segments", [512, 513])
def test_segments_at_the_rounding_floor_take_no_steps(n_segments, generator):
    """One segment more than 512 in float32 took a hundred steps on curves eight times as fine, in rounding errors."""
    net = mlp(gain=2, dtype=torch.float32, D=30)
    start, step = torch.randn(2, 6, 2, generator=generator)
    end = start + 0.01 * step / step.norm(dim=-1, keepdim=True)
    g = geodesic(PullbackMetric(net), start, end, n_segments=n_segments)
    assert g.converged.all() and g.n_steps.max() <= 2
    exact = geodesic(PullbackMetric(net.double()), start.double(), end.double()).length
    torch.testing.assert_close(g.length.double(), exact, rtol=1e-4, atol=0)


def test_the_residual_is_that_of_the_line():
    """In the half-plane a horizontal line turns by its length; in float64 the points of a line say the same."""
    metric, distance = as_metric(half_plane().metric), 2e-4
    start, end = torch.tensor([[0.3, 1.0]]), torch.tensor([[0.3 + distance, 1.0]])
    near, line = near_pairs(metric, start, end, 32, 1e-6)
    assert near.all()
    assert line.residual.item() == pytest.approx(distance * torch.pi / 12**0.5, rel=1e-2)
    assert near_pairs(metric, start, end, 32, 1e-10)[1] is None  # no geodesic to that tolerance
    assert not near_pairs(metric, start.double(), end.double(), 32, 1e-6)[0].any()  # and far enough for sums


def test_where_the_metric_is_zero_nothing_is_near():
    metric = PullbackMetric(lambda z: z[:, :1] * 1.0)
    g = geodesic(metric, torch.zeros(2), torch.tensor([0.0, 1e-6]))
    assert g.status == Status.SINGULAR
    assert g.length == 0
