"""geodesic(differentiable=True): gradients of lengths in the ends and in the metric's parameters."""

import re
import weakref
from pathlib import Path

import pytest
import torch
from problems import deviation, half_plane, linear_decoder, linear_map, mlp, sphere, sphere_pairs

import geolib
from geolib import GeodesicError, PullbackMetric, Status, curve_length, geodesic

pytestmark = pytest.mark.smoke

DTYPE = torch.float64
PROJECT = Path(__file__).resolve().parents[2]


def slopes(metric, start, end, parameters=(), weights=1.0, **options):
    """The gradients of the weighted sum of lengths in start, end and parameters."""
    start, end = start.clone().requires_grad_(), end.clone().requires_grad_()
    length = geodesic(metric, start, end, differentiable=True, **options).length
    return torch.autograd.grad((weights * length).sum(), (start, end, *parameters), allow_unused=True)


def exact_slopes(space, start, end):
    start, end = start.clone().requires_grad_(), end.clone().requires_grad_()
    return torch.autograd.grad(space.distance(start, end).sum(), (start, end))


def worst(found, exact):
    """The largest relative error of covectors ``(B, d)``."""
    return max(float(((a - b).norm(dim=-1) / b.norm(dim=-1)).max()) for a, b in zip(found, exact, strict=True))


# Gradients that are known


@pytest.mark.parametrize("method", ["newton", "spline"])
@pytest.mark.parametrize("space", [sphere(), half_plane()], ids=str)
def test_the_gradient_of_a_distance_is_the_unit_tangent(space, method, generator):
    start, end = space.sample(12, generator, DTYPE)
    exact = exact_slopes(space, start, end)
    assert worst(slopes(space.metric, start, end, method=method), exact) < 1e-2
    found = slopes(space.metric, start, end, method=method, rtol=1e-6)
    assert worst(found, exact) < 1e-3
    for z, slope in zip((start, end), found, strict=True):
        # of length one in the metric's inverse, whatever the pair
        unit = torch.einsum("ni,nij,nj->n", slope, torch.linalg.inv(space.tensor(z)), slope)
        torch.testing.assert_close(unit, torch.ones_like(unit), rtol=2e-3, atol=0)


def test_a_straight_image_has_the_chord_s_gradient(generator):
    space = linear_decoder("", linear_map(3, 8, 10))
    start, end = space.sample(5, generator, DTYPE)
    assert worst(slopes(space.metric, start, end), exact_slopes(space, start, end)) < 1e-9


@pytest.mark.parametrize("max_steps", [1, 100])
@pytest.mark.parametrize("kind", ["immersion", "callable"])
def test_a_scale_of_the_metric_is_a_scale_of_the_length(kind, max_steps, generator):
    """Of any curve, whether it is a geodesic or not."""
    net, scale = mlp(), torch.tensor(1.5, dtype=DTYPE, requires_grad=True)
    inner = PullbackMetric(net)
    metric = PullbackMetric(lambda z: scale * net(z)) if kind == "immersion" else lambda z: scale**2 * inner(z)
    start, end = torch.randn(2, 6, 2, generator=generator, dtype=DTYPE)
    length = geodesic(metric, start, end, max_steps=max_steps, differentiable=True).length
    for one in length:
        (slope,) = torch.autograd.grad(one, scale, retain_graph=True)
        assert float(slope) == pytest.approx(float(one.detach()) / 1.5, rel=2e-4)


def decoders():
    """Metrics with maps of their own, which a test may change."""
    mean, sigma, features = mlp(gain=1), deviation(gain=1), mlp(7, 5, 3, gain=1)
    tensor = mlp(D=4, gain=1)

    def square(z):
        A = tensor(z.reshape(-1, 2)).reshape(*z.shape[:-1], 2, 2)
        return A @ A.mT + torch.eye(2, dtype=z.dtype)

    return {
        "Eq. 1": (PullbackMetric(mean), mean),
        "Eq. 2": (PullbackMetric(mean, sigma), sigma),
        "Eq. 3": (PullbackMetric(mean, features=features), features),
        "Eq. 4": (PullbackMetric(mean, sigma, features), features),
        "callable": (square, tensor),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", decoders())
def test_gradients_are_the_differences_of_curves_that_are_solved_again(name, generator):
    metric, net = decoders()[name]
    start, end = 0.6 * torch.randn(2, 3, 2, generator=generator, dtype=DTYPE)
    weights = torch.tensor([1.0, -0.5, 2.0], dtype=DTYPE)
    options = {"rtol": 1e-8, "max_steps": 60}
    first, last = [p for p in net.parameters() if p.ndim == 2][:: 2 if name != "callable" else 1][:2]
    found = slopes(metric, start, end, (first, last), weights, **options)
    for x, slope in zip((start, end, first, last), found, strict=True):
        aside = torch.randn(x.shape, generator=generator, dtype=DTYPE)
        aside *= 1e-3 / aside.norm()
        sums = []
        for sign in (1, -1):
            with torch.no_grad():
                x.add_(sign * aside)
                sums.append((weights * geodesic(metric, start, end, **options).length).sum())
                x.sub_(sign * aside)
        difference = float(sums[0] - sums[1]) / 2
        assert float((slope * aside).sum()) == pytest.approx(
            difference, rel=1e-4, abs=2e-5 * float(slope.norm()) * 1e-3
        )


# What has a gradient, and what has none


def test_values_are_those_of_the_plain_result(generator):
    metric = PullbackMetric(mlp(), deviation())
    start, end = torch.randn(2, 5, 2, generator=generator, dtype=DTYPE)
    plain = geodesic(metric, start, end)
    assert not plain.length.requires_grad
    found = geodesic(metric, start.clone().requires_grad_(), end, differentiable=True)
    for name in ("points", "length", "line_length", "lower_bound", "residual", "status", "n_steps", "improvement"):
        assert torch.equal(getattr(found, name), getattr(plain, name)), name
        assert getattr(found, name).requires_grad == (name == "length"), name
    with torch.no_grad():
        assert not geodesic(metric, start.clone().requires_grad_(), end, differentiable=True).length.requires_grad


def test_parameters_have_gradients_where_the_ends_have_none(generator):
    net = mlp()
    start, end = torch.randn(2, 4, 2, generator=generator, dtype=DTYPE)
    geodesic(PullbackMetric(net), start, end, differentiable=True).length.sum().backward()
    mine = [p.grad for p in net.parameters()]
    theirs = slopes(PullbackMetric(net), start, end, tuple(net.parameters()))[2:]
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert all(g.abs().max() > 1e-3 for g in mine[:-1])


@pytest.mark.slow
def test_ends_are_broadcast(generator):
    space = sphere()
    start, end = sphere_pairs(3, generator, DTYPE, 0.2, 1.0)
    one, many = slopes(space.metric, start[0], end, init="line")
    assert one.shape == (2,) and many.shape == (3, 2)
    singles = [slopes(space.metric, start[0], e, init="line") for e in end]
    torch.testing.assert_close(one, sum(s for s, _ in singles), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(many, torch.stack([e for _, e in singles]), rtol=1e-5, atol=1e-6)
    row, column = slopes(space.metric, start[:, None], end[None], init="line")
    assert row.shape == (3, 1, 2) and column.shape == (1, 3, 2)
    torch.testing.assert_close(row[0, 0], one, rtol=1e-5, atol=1e-6)


def test_every_pair_has_its_own_gradient(generator):
    """Also where curves from a graph and from lines are solved apart, and joined in the order of the pairs."""
    hill = PullbackMetric(lambda z: torch.cat([z, 2 * torch.exp(-4 * z.square().sum(-1, keepdim=True))], dim=-1))
    angle = torch.linspace(0, 6.2, 40, dtype=DTYPE)
    latents = 1.2 * torch.stack([angle.cos(), angle.sin()], dim=-1)
    start = torch.tensor([[-1.2, 0.1], [-1.0, 1.0], [-1.2, 0.2]], dtype=DTYPE)
    end = torch.tensor([[1.2, 0.1], [1.0, 1.1], [1.1, 0.1]], dtype=DTYPE)
    options = {"init": "graph", "latents": latents, "rtol": 1e-6}
    weights = torch.tensor([1.0, 2.0, -3.0], dtype=DTYPE)
    together = slopes(hill, start, end, (), weights, **options)
    for i in range(3):
        for a, b in zip(together, slopes(hill, start[i], end[i], (), weights[i], **options), strict=True):
            torch.testing.assert_close(a[i], b, rtol=1e-4, atol=1e-4)


def test_pairs_that_need_more_points_than_others_keep_their_own_gradients():
    ripples = PullbackMetric(lambda z: torch.cat([z, 0.2 * torch.exp(-60 * z.square().sum(-1, keepdim=True))], dim=-1))
    start = torch.tensor([[-1.0, 0.02], [-1.0, 2.0], [-1.0, -0.05]], dtype=DTYPE)
    end = torch.tensor([[1.0, 0.1], [1.0, 2.0], [1.0, 0.03]], dtype=DTYPE)
    weights = torch.tensor([1.0, 2.0, -3.0], dtype=DTYPE)
    found = slopes(ripples, start, end, (), weights, rtol=1e-6)[1]
    torch.testing.assert_close(found[1], torch.tensor([2.0, 0.0], dtype=DTYPE), rtol=1e-6, atol=1e-6)
    # where the image is flat, gradients are unit vectors too
    torch.testing.assert_close(found.norm(dim=-1), weights.abs(), rtol=1e-3, atol=0)


def test_the_same_point_has_gradient_zero(generator):
    net = mlp()
    start, end = torch.randn(2, 3, 2, generator=generator, dtype=DTYPE)
    end[1] = start[1]
    a, b = slopes(PullbackMetric(net), start, end)
    assert torch.isfinite(a).all() and torch.isfinite(b).all()
    assert (a[1] == 0).all() and (b[1] == 0).all()
    assert (a[[0, 2]] != 0).all()
    for slope in slopes(PullbackMetric(net), start[1], end[1], tuple(net.parameters())):
        assert slope is None or (slope == 0).all()


def test_a_dead_direction_has_gradient_zero():
    dead = PullbackMetric(lambda z: z[:, :1] * z.new_tensor([1.0, -2.0, 2.0]))
    end = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=DTYPE)
    found = slopes(dead, torch.zeros(2, dtype=DTYPE), end)[1]
    torch.testing.assert_close(found, torch.tensor([[3.0, 0], [0, 0], [3, 0]], dtype=DTYPE))


def test_throw_still_raises(generator):
    start, end = torch.randn(2, 3, 2, generator=generator, dtype=DTYPE)
    with pytest.raises(GeodesicError, match="max_steps"):
        geodesic(PullbackMetric(mlp()), start, end, max_steps=1, throw=True, differentiable=True)


def test_float32(generator):
    start, end = sphere_pairs(8, generator, torch.float32)
    exact = exact_slopes(sphere(), start.double(), end.double())
    found = slopes(sphere().metric, start, end)
    assert all(slope.dtype == torch.float32 for slope in found)
    assert worst([slope.double() for slope in found], exact) < 1e-2


# Memory


class Kept:
    """A tensor that a graph keeps for its backward pass."""

    def __init__(self, tensor):
        self.tensor = tensor


def n_recorded(result):
    """How many operations the graph of the lengths holds."""
    seen, todo = set(), [result.length.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [parent for parent, _ in node.next_functions]
    return len(seen)


def test_nothing_of_the_solver_is_recorded(generator):
    """The graph does not grow with the steps, and what it keeps is less than one evaluation of the points."""
    kept = weakref.WeakSet()

    def pack(tensor):
        found = Kept(tensor)
        kept.add(found)
        return found

    metric = PullbackMetric(mlp(width=64), deviation(width=64))
    start, end = torch.randn(2, 20, 2, generator=generator, dtype=DTYPE)
    start.requires_grad_()
    counts, sizes = [], []
    for max_steps in (1, 100):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda found: found.tensor):
            result = geodesic(metric, start, end, max_steps=max_steps, rtol=1e-2, init="line", differentiable=True)
        counts.append(n_recorded(result))
        sizes.append(sum(found.tensor.numel() for found in kept))
    assert result.n_steps.max() > 1
    assert counts[1] <= 2 * counts[0] and counts[1] < 200
    assert min(sizes) > 0 and max(sizes) < 20 * 65 * 64


def test_blocks_change_nothing(generator):
    start, end = torch.randn(2, 6, 2, generator=generator, dtype=DTYPE)
    net = mlp()
    whole, parts = (slopes(PullbackMetric(net, chunk_size=c), start, end, tuple(net.parameters())) for c in (None, 16))
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


# A curve that did not converge


def test_without_convergence_it_is_the_gradient_of_the_curve(generator):
    net = mlp()
    metric = PullbackMetric(net)
    start, end = torch.randn(2, 4, 2, generator=generator, dtype=DTYPE)
    g = geodesic(metric, start, end, init="line", max_steps=1, differentiable=True)
    assert (g.status == Status.MAX_STEPS).sum() >= 3
    points = g.curve(torch.linspace(0, 1, 4001, dtype=DTYPE))
    for p in list(net.parameters())[:2]:
        (found,) = torch.autograd.grad(g.length.sum(), p, retain_graph=True)
        (expected,) = torch.autograd.grad(curve_length(metric, points.requires_grad_()).sum(), p)
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3 * float(expected.abs().max()))


# The README's example


@pytest.mark.slow
def test_a_decoder_is_trained_with_a_geodesic_loss():
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    section = text[text.index("## Your own decoder") :]
    code = next(c for c in re.findall(r"```python\n(.*?)```", section, re.S) if "differentiable=True" in c)
    assert len(code.splitlines()) <= 10
    torch.manual_seed(0)
    losses = []
    names = {"geolib": geolib, "torch": torch, "losses": losses}
    exec(code.replace("loss.backward()", "losses.append(loss.item()); loss.backward()"), names)
    assert len(losses) > 10
    assert losses[-1] < 0.1 * losses[0]
