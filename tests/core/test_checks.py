"""What bad input gets: every wrong decoder is refused before any work, by a sentence that names it."""

import functools

import numpy as np
import pytest
import torch
from problems import conv_decoder, half_plane, mlp
from torch import nn

from geolib import METHODS, PullbackMetric, checks, curve_length, geodesic

pytestmark = pytest.mark.smoke

DTYPE = torch.float64
Z = torch.tensor([[0.1, 0.2], [0.3, -0.4], [1.0, 0.5]], dtype=DTYPE)
W = torch.tensor([[1.0, 0.5, -1.0], [0.2, -2.0, 0.7]], dtype=DTYPE)


def decode(z):
    return torch.tanh(z @ W)


# The checks themselves


def test_latent_points_says_what_came_and_what_is_allowed():
    checks.latent_points("z", torch.zeros(2))
    checks.latent_points("z", torch.zeros(0, 2))
    with pytest.raises(TypeError, match=r"z: got list, expected a torch\.Tensor"):
        checks.latent_points("z", [1.0])
    with pytest.raises(TypeError, match=r"z: got dtype torch\.int64"):
        checks.latent_points("z", torch.zeros(2, dtype=torch.long))
    for half in (torch.float16, torch.bfloat16):
        with pytest.raises(TypeError, match=r"z: got dtype torch\.b?float16, expected float32 or float64"):
            checks.latent_points("z", torch.zeros(2, dtype=half))
    with pytest.raises(ValueError, match=r"z: got shape \(\), expected \(\.\.\., d\)"):
        checks.latent_points("z", torch.zeros(()))
    with pytest.raises(ValueError, match=r"got shape \(3, 0\)"):
        checks.latent_points("z", torch.zeros(3, 0))
    with pytest.raises(ValueError, match=r"got shape \(1, 2\), expected \(\.\.\., n, d\) with n >= 2"):
        checks.latent_points("z", torch.zeros(1, 2), min_points=2)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_finite_counts_and_locates(bad):
    x = torch.zeros(4, 3)
    checks.finite("x", x)
    x[2, 1] = x[3, 0] = bad
    with pytest.raises(ValueError, match=r"x: 2 of 12 entries are not finite, first at index \(2, 1\)"):
        checks.finite("x", x)
    with pytest.raises(ValueError, match=r"at 2 of 4 points, first at z = \[5, 7\]"):
        checks.finite("x", x, at=torch.tensor([[0.0, 0], [0, 0], [5, 7], [1, 1]]))


def test_finite_lets_an_overflowing_sum_pass():
    checks.finite("x", torch.full((100,), 1e38))


def test_infinities_that_cancel_are_found():
    with pytest.raises(ValueError, match="2 of 2"):
        checks.finite("x", torch.tensor([torch.inf, -torch.inf]))


def test_numbers():
    assert checks.integer("n", 3, at_least=3) == 3
    assert checks.positive("a", 2) == 2.0
    assert type(checks.integer("n", np.int64(3), at_least=3)) is int
    assert checks.seed(2**32 - 1) == 2**32 - 1
    with pytest.raises(ValueError, match="seed: got 4294967296, expected at most 4294967295"):
        checks.seed(2**32)
    assert checks.one_of("m", "a", ("a", "b")) == "a"
    for wrong in (True, 2.0, "2", None):
        with pytest.raises(TypeError, match="n: got"):
            checks.integer("n", wrong, at_least=1)
    with pytest.raises(ValueError, match="n: got 2, expected at least 3"):
        checks.integer("n", 2, at_least=3)
    for wrong in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="a: got"):
            checks.positive("a", wrong)
    for wrong in (True, "1", None):
        with pytest.raises(TypeError, match="a: got"):
            checks.positive("a", wrong)
    with pytest.raises(ValueError, match="m: got 'c', expected one of 'a', 'b'"):
        checks.one_of("m", "c", ("a", "b"))


def test_same_kind():
    with pytest.raises(TypeError, match=r"a: got dtype torch\.float32, expected torch\.float64 like b"):
        checks.same_kind("a", torch.zeros(1), "b", torch.zeros(1, dtype=DTYPE))
    with pytest.raises(ValueError, match="a: got device meta, expected cpu like b"):
        checks.same_kind("a", torch.zeros(1, device="meta"), "b", torch.zeros(1))


# Arguments of the metric


def test_metric_refuses_what_cannot_be_called():
    for arguments in ((None,), (W,), (decode, W), (decode, None, 3)):
        with pytest.raises(TypeError, match="expected a callable"):
            PullbackMetric(*arguments)
    for chunk_size, error in ((0, ValueError), (-1, ValueError), (2.0, TypeError), (True, TypeError)):
        with pytest.raises(error, match="chunk_size"):
            PullbackMetric(decode, chunk_size=chunk_size)


def test_metric_refuses_bad_points():
    metric = PullbackMetric(decode)
    for call in (metric, metric.immersion):
        with pytest.raises(ValueError, match="no points"):
            call(Z[:0])
        with pytest.raises(TypeError, match="z: got ndarray"):
            call(Z.numpy())
        with pytest.raises(ValueError, match="z: 1 of 6 entries are not finite"):
            call(Z.clone().index_put_((torch.tensor(1), torch.tensor(0)), torch.tensor(torch.nan, dtype=DTYPE)))
        with pytest.raises(ValueError, match="mean: failed on points of shape"):
            call(torch.zeros(3, 5, dtype=DTYPE))


# Modules that are no fixed maps yet


class VAE(nn.Module):
    """A module whose decoder is a method."""

    def __init__(self, layer):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 4, dtype=DTYPE), layer)

    def decode(self, z, scale=1.0):
        return self.net(z) * scale

    forward = decode


class Holder:
    """A plain object around a module."""

    def __init__(self, net):
        self.net = net

    def __call__(self, z):
        return self.net(z)


def twice(function):
    return lambda z: 2 * function(z)


LAYERS = {
    "batch norm": lambda: nn.BatchNorm1d(4, dtype=DTYPE),
    "dropout": lambda: nn.Dropout(0.3),
}
WRAPPINGS = {
    "module": lambda vae: vae,
    "lambda": lambda vae: lambda z: vae(z) + 1,
    "lambda of a method": lambda vae: lambda z: vae.decode(z) + 1,
    "lambda of a bound method": lambda vae: twice(vae.decode),
    "nested lambda": lambda vae: twice(lambda z: vae(z) + 1),
    "bound method": lambda vae: vae.decode,
    "partial of a module": functools.partial,
    "partial of a bound method": lambda vae: functools.partial(vae.decode, scale=2.0),
    "partial of a function of the module": lambda vae: functools.partial(lambda net, z: net(z), vae),
    "plain object": Holder,
}


@pytest.mark.slow
@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("position", ["mean", "std", "features"])
def test_training_mode_is_refused_however_the_module_is_wrapped(wrapping, layer, position):
    vae = VAE(LAYERS[layer]()).train()
    function = WRAPPINGS[wrapping](vae)
    maps = {
        "mean": {"mean": function},
        "std": {"mean": mlp(2, 4), "std": function},
        "features": {"mean": mlp(2, 2), "features": function},
    }[position]
    metric = PullbackMetric(**maps)
    with pytest.raises(ValueError, match=rf"^{position}: "):
        metric(Z)
    vae.eval()
    assert torch.isfinite(metric(Z)).all()


def test_training_mode_is_named_with_its_remedy_and_leaves_the_statistics_alone():
    decoder = conv_decoder()
    before = decoder[2].running_mean.clone()
    metric = PullbackMetric(decoder.train())
    with pytest.raises(ValueError, match=r"mean: its BatchNorm2d layer is in training mode.*\.eval\(\)"):
        metric(Z)
    assert torch.equal(decoder[2].running_mean, before)


def test_training_mode_is_refused_after_a_good_call_too():
    decoder = conv_decoder()
    metric = PullbackMetric(decoder)
    metric(Z)
    decoder.train()
    with pytest.raises(ValueError, match="training mode"):
        metric(Z)
    with pytest.raises(ValueError, match="training mode"):
        metric.immersion(Z)


def test_random_leaky_relu_is_refused():
    with pytest.raises(ValueError, match="mean: its RReLU layer is in training mode"):
        PullbackMetric(VAE(nn.RReLU()).train())(Z)


def test_training_mode_of_other_layers_is_no_matter():
    net = nn.Sequential(nn.Linear(2, 4, dtype=DTYPE), nn.LayerNorm(4, dtype=DTYPE), nn.Tanh()).train()
    assert torch.isfinite(PullbackMetric(net)(Z)).all()


# Maps that are wrong in themselves


WRONG = {
    "another batch size": (lambda z: decode(z)[:1].expand(2, -1)[:, :3], ValueError, r"returned shape"),
    "one row for all": (lambda z: decode(z).mean(0, keepdim=True), ValueError, "returned shape"),
    "images": (lambda z: decode(z).reshape(-1, 1, 3), ValueError, r"returned shape .*flatten"),
    "rank one": (lambda z: decode(z)[:, 0], ValueError, "returned shape"),
    "squeezed": (lambda z: decode(z).squeeze(), ValueError, "returned shape"),
    "a tuple": (lambda z: (decode(z), decode(z)), ValueError, "returned tuple"),
    "NaN": (lambda z: decode(z) * torch.nan, ValueError, "not finite"),
    "inf": (lambda z: decode(z) / 0.0, ValueError, "not finite"),
    # a logarithm's derivative is finite where itself is not
    "NaN at one point": (lambda z: (0.5 - z).log(), ValueError, r"not finite at 1 of 3.*z = \[1, 0\.5\]"),
    "float32": (lambda z: decode(z).float(), TypeError, "float32"),
    "detached": (lambda z: decode(z.detach()), ValueError, "does not depend on z"),
    "constant": (lambda z: torch.ones(len(z), 3, dtype=z.dtype), ValueError, "does not depend on z"),
    "numpy": (lambda z: torch.from_numpy(decode(z).numpy().copy()), ValueError, "does not depend on z|failed"),
    "inference mode": (torch.inference_mode()(decode), ValueError, "does not depend on z"),
    "mixes rows by mean": (lambda z: decode(z) + z.mean(), ValueError, "depends on the rest of its batch"),
    "mixes rows by softmax": (lambda z: decode(z).softmax(0), ValueError, "depends on the rest of its batch"),
    "random": (lambda z: decode(z) + torch.randn(len(z), 3, dtype=z.dtype), ValueError, "two calls .* differ"),
    "dropout": (lambda z: nn.functional.dropout(decode(z), 0.5), ValueError, "two calls .* differ"),
    "raises": (lambda z: z @ torch.ones(3, 3, dtype=z.dtype), ValueError, "failed on points of shape"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_maps_are_refused(what):
    wrong, error, sentence = WRONG[what]
    torch.manual_seed(0)
    for metric in (PullbackMetric(wrong), PullbackMetric(lambda z: z * 1.0, features=wrong)):
        with pytest.raises(error, match=sentence):
            metric(Z)
        with pytest.raises(error, match=sentence):
            metric.immersion(Z)


@pytest.mark.parametrize("position", ["std", "features"])
@pytest.mark.parametrize("what", ["detached", "images", "random"])
def test_the_map_that_is_wrong_is_named(position, what):
    wrong, error, _ = WRONG[what]
    with pytest.raises(error, match=f"^{position}: "):
        PullbackMetric(lambda z: z * 1.0, **{position: wrong})(Z)


def test_std_of_another_width_is_refused():
    with pytest.raises(ValueError, match="std: returned 2 outputs, expected 3 like mean"):
        PullbackMetric(decode, lambda z: z * 2.0)(Z)


# what passes for two different points must not slip through for one, or for one that is repeated
@pytest.mark.parametrize("first", [Z[0], Z[:1], Z[:1].expand(3, 2)], ids=["one", "batch of one", "repeated"])
def test_a_decoder_that_mixes_rows_is_refused_whatever_the_first_call_was(first):
    metric = PullbackMetric(lambda z: decode(z) - decode(z).mean(0) + z.sum(-1, keepdim=True))
    with pytest.raises(ValueError, match="depends on the rest of its batch"):
        metric(first)
        metric(Z)


def test_a_decoder_under_no_grad_is_refused_or_works():
    """Forward mode sees through no_grad and the solver's backward pass does not: it must be told, not fail half-way."""
    metric = PullbackMetric(torch.no_grad()(decode))
    try:
        assert geodesic(metric, Z[0], Z[1]).length > 0
    except ValueError as error:
        assert str(error).startswith("mean: ")


def test_decoders_at_the_edge_of_what_is_allowed():
    def writes_in_place(z):
        x = z @ W
        x[:, 0] = x[:, 1].sin()
        return x.tanh_()

    rotate = nn.Linear(2, 3, dtype=DTYPE).requires_grad_(False)
    for fine in (writes_in_place, rotate, torch.sin, nn.Identity(), functools.partial(torch.mul, other=2.0)):
        assert torch.isfinite(PullbackMetric(fine)(Z)).all()


def test_curves_and_geodesics_refuse_wrong_decoders_too():
    wrong = PullbackMetric(WRONG["images"][0])
    with pytest.raises(ValueError, match="flatten"):
        curve_length(wrong, Z)
    with pytest.raises(ValueError, match="flatten"):
        geodesic(wrong, Z[0], Z[1])


# plain callables z -> M have checks of their own
@pytest.mark.parametrize(
    ("metric", "error", "sentence"),
    [
        (3, TypeError, "metric: got int"),
        (lambda z: z, ValueError, "metric: returned .* expected"),
        (lambda z: None, ValueError, "metric: returned NoneType"),
        (lambda z: torch.eye(2).expand(*z.shape, 2), TypeError, "metric's value: got dtype torch.float32"),
        (lambda z: torch.eye(2, dtype=DTYPE).expand(*z.shape, 2) / 0.0, ValueError, "metric: not finite"),
    ],
)
def test_wrong_callables_are_refused(metric, error, sentence):
    with pytest.raises(error, match=sentence):
        curve_length(metric, Z)


@pytest.mark.parametrize("metric", [PullbackMetric(mlp()), half_plane().metric], ids=["decoder", "callable"])
@pytest.mark.parametrize("method", METHODS)
def test_input_is_checked_once(method, metric, monkeypatch, generator):
    """At the door; what runs behind it trusts its points."""
    names = []
    check = checks.latent_points

    def counted(name, z, **options):
        names.append(name)
        check(name, z, **options)

    monkeypatch.setattr(checks, "latent_points", counted)
    start, end = 1 + torch.rand(2, 3, 2, generator=generator, dtype=torch.float64)
    latents = 1 + torch.rand(30, 2, generator=generator, dtype=torch.float64)
    geodesic(metric, start, end, method=method, init="best", latents=latents, max_steps=3)
    assert sorted(names) == ["end", "latents", "start"]
    names.clear()
    init = torch.lerp(start[:, None], end[:, None], torch.linspace(0, 1, 9, dtype=torch.float64)[:, None])
    geodesic(metric, start, end, method=method, init=init, latents=latents, max_steps=3)
    assert sorted(set(names) - {"latents"}) == ["end", "init", "start"]
    assert len(set(names)) == len(names)


def test_an_empty_graph_is_refused():
    z = torch.zeros(2, 2)
    with pytest.raises(ValueError, match=r"latents: got shape \(0, 2\), expected \(..., n, d\) with n >= 1"):
        geodesic(half_plane().metric, z + 1, z + 2, init="graph", latents=z[:0])
