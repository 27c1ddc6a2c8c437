"""features: logistic regression and VGG-19 as feature maps, and what weight files must be."""

import dataclasses
import hashlib
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from project import bundled, clean_environment
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from torch.func import jacrev, jvp

from geolib import PullbackMetric, geodesic
from geolib.companion.models import features
from geolib.companion.models.features import VGG19, fit_logistic, vgg_weights

# torchvision's VGG-19: number in the name, channels out, channels in
CONVOLUTIONS = [
    *((0, 64, 3), (2, 64, 64), (5, 128, 64), (7, 128, 128)),
    *((10, 256, 128), (12, 256, 256), (14, 256, 256), (16, 256, 256)),
    *((19, 512, 256), (21, 512, 512), (23, 512, 512), (25, 512, 512)),
    *((28, 512, 512), (30, 512, 512), (32, 512, 512), (34, 512, 512)),
]
SMALL = {"width": 2, "size": 32}


@pytest.fixture
def data(tmp_path_factory):
    """A few digits of two and of four classes."""
    return few(bundled(tmp_path_factory, (2, 4, 5, 7)))


def few(data, classes=None):
    classes = classes or data.classes
    parts = {}
    for split, n in (("train", 300), ("test", 100)):
        labels = getattr(data, f"{split}_labels")
        rows = torch.isin(labels, torch.tensor(classes)).nonzero().flatten()[:n]
        parts |= {f"{split}_images": getattr(data, f"{split}_images")[rows], f"{split}_labels": labels[rows]}
    return dataclasses.replace(data, classes=tuple(classes), **parts)


@pytest.fixture(autouse=True)
def derived(monkeypatch, tmp_path):
    monkeypatch.setenv("GEOLIB_DERIVED", str(tmp_path / "derived"))
    monkeypatch.delenv(features.VGG_VARIABLE, raising=False)


def images(n, *, seed=0, dtype=torch.float32):
    return torch.rand(n, 784, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def network(*, seed=0, **options):
    """A small VGG-19 with random weights that keep the size of what passes through."""
    torch_state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    net = VGG19(**(SMALL | options))
    for name, parameter in net.named_parameters():
        torch.nn.init.kaiming_normal_(parameter) if parameter.ndim > 1 else torch.nn.init.normal_(parameter, std=0.1)
        assert name.startswith("features.")
    torch.random.set_rng_state(torch_state)
    return net


# --- logistic regression


@pytest.mark.slow
def test_the_maps_are_those_of_scikit_learn(data):
    found = fit_logistic(data)
    fitted = LogisticRegression(C=1.0, tol=1e-3, max_iter=1000)
    fitted.fit(data.train_images.numpy(), data.train_labels.numpy())
    expected = fitted.predict_proba(data.test_images.numpy())
    np.testing.assert_allclose(found.probabilities(data.test_images), expected, atol=1e-5)
    torch.testing.assert_close(found.logits(data.test_images).softmax(-1), found.probabilities(data.test_images))
    assert found.test_accuracy == pytest.approx(fitted.score(data.test_images.numpy(), data.test_labels.numpy()))
    assert found.test_accuracy > 0.8
    assert found.classes == (2, 4, 5, 7)
    assert not found.logits.weight.requires_grad


@pytest.mark.slow
def test_two_classes_have_two_outputs(data):
    two = few(data, (2, 7))
    found = fit_logistic(two)
    fitted = LogisticRegression(C=1.0, tol=1e-3, max_iter=1000)
    fitted.fit(two.train_images.numpy(), two.train_labels.numpy())
    np.testing.assert_allclose(
        found.probabilities(two.test_images), fitted.predict_proba(two.test_images.numpy()), atol=1e-5
    )


@pytest.mark.slow
def test_a_fit_is_made_once_for_each_strength(data, monkeypatch):
    soft, hard = fit_logistic(data, strength=1e-3), fit_logistic(data)
    assert soft.logits.weight.norm() < 0.3 * hard.logits.weight.norm()
    monkeypatch.setattr(features, "LogisticRegression", None)  # whoever fits anew fails
    torch.testing.assert_close(fit_logistic(data, strength=1e-3).logits.weight, soft.logits.weight)
    assert fit_logistic(data).strength == 1.0


@pytest.mark.slow
def test_a_fit_of_another_strength_is_not_taken_for_this_one(data, tmp_path, capsys):
    soft = fit_logistic(data, strength=1e-3)
    (own,) = (tmp_path / "derived").glob("logistic-*.safetensors")
    fit_logistic(data)
    (other,) = set((tmp_path / "derived").glob("logistic-*.safetensors")) - {own}
    shutil.copy(other, own)
    torch.testing.assert_close(fit_logistic(data, strength=1e-3).logits.weight, soft.logits.weight)
    assert f"{own.name} is damaged (made for another configuration: {{" in capsys.readouterr().out


@pytest.mark.smoke
def test_what_cannot_be_classified(data):
    with pytest.raises(ValueError, match="data: got the class 2 alone, expected at least two"):
        fit_logistic(few(data, (2,)))
    with pytest.raises(ValueError, match="strength: got 0"):
        fit_logistic(data, strength=0)


# --- Bernoulli pixels


def enumerated_fisher(logits, z):
    """The Fisher matrix at ``z (d,)`` as the mean outer product of scores, over all outcomes of a few pixels."""
    a = logits(z)
    outcomes = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=z.dtype)] * len(a))

    def log_likelihood(z, x):
        a = logits(z)
        return (x * a - torch.nn.functional.softplus(a)).sum()

    scores = torch.stack([torch.func.grad(log_likelihood)(z, x) for x in outcomes])
    chance = torch.stack([log_likelihood(z, x) for x in outcomes]).exp()
    assert float(chance.sum()) == pytest.approx(1)
    return torch.einsum("x,xa,xb->ab", chance, scores, scores)


def decoder_of_few_pixels(scale=1.0):
    layers = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 5))
    random = torch.Generator().manual_seed(2)
    for parameter in layers.parameters():
        parameter.detach().normal_(generator=random)
    torch.nn.init.normal_(layers[2].weight, std=scale, generator=random)
    return layers.double().requires_grad_(False)


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_the_metric_of_bernoulli_pixels_is_their_fisher_matrix(scale):
    logits = decoder_of_few_pixels(scale)
    z = torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.stack([enumerated_fisher(logits, each) for each in z])
    for angles in (features.bernoulli_angles, lambda a: 2 * torch.atan(torch.tanh(a / 4))):  # and as documented
        torch.testing.assert_close(PullbackMetric(logits, features=angles)(z), expected, rtol=1e-8, atol=1e-10)


def test_angles_are_those_of_the_square_root_of_probabilities():
    p = torch.linspace(0, 1, 1001, dtype=torch.float64)
    found = features.bernoulli_angles(torch.logit(p[1:-1]))
    torch.testing.assert_close(found, 2 * p[1:-1].sqrt().arcsin())
    ends = features.bernoulli_angles(torch.tensor([-1e30, -1e3, 1e3, 1e30]))
    torch.testing.assert_close(ends, torch.tensor([0, 0, torch.pi, torch.pi]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pixels_that_are_surely_black_or_white_have_finite_derivatives(dtype):
    logits = torch.tensor([-1e30, -1e4, -200, -40, -20, 0, 20, 40, 200, 1e4, 1e30], dtype=dtype, requires_grad=True)
    (slope,) = torch.autograd.grad(features.bernoulli_angles(logits).sum(), logits, create_graph=True)
    p = torch.sigmoid(logits.detach().double())
    torch.testing.assert_close(slope.detach().double(), (p * (1 - p)).sqrt(), rtol=1e-3, atol=1e-7)
    (bend,) = torch.autograd.grad(slope.sum(), logits)
    assert bool(torch.isfinite(bend).all())


def test_geodesics_of_bernoulli_pixels_where_nearly_all_are_black_or_white():
    logits = decoder_of_few_pixels(30.0).float()
    metric = PullbackMetric(logits, features=features.bernoulli_angles)
    z = torch.randn(6, 2, generator=torch.Generator().manual_seed(1))
    found = geodesic(metric, z[:3], z[3:])
    assert bool((found.length <= found.line_length * (1 + 1e-5)).all())
    # no pixel can go farther than from black to white and all of them at once
    assert bool(torch.isfinite(found.length).all())


# --- VGG-19


@pytest.mark.smoke
def test_parameters_have_torchvisions_names_and_shapes():
    with torch.device("meta"):
        net = VGG19(layer="relu5_4")
    shapes = {name: tuple(p.shape) for name, p in net.named_parameters()}
    expected = {f"features.{n}.weight": (out, into, 3, 3) for n, out, into in CONVOLUTIONS}
    expected |= {f"features.{n}.bias": (out,) for n, out, _ in CONVOLUTIONS}
    assert shapes == expected
    assert set(net.state_dict()) == set(expected)


@pytest.mark.smoke
@pytest.mark.parametrize(("layer", "last", "side"), [("relu5_2", 30, 2), ("relu1_1", 0, 32), ("relu3_4", 16, 8)])
def test_a_layer_ends_the_network(layer, last, side):
    net = network(layer=layer)
    assert [n for n, layer in enumerate(net.features) if isinstance(layer, torch.nn.Conv2d)][-1] == last
    channels = net.features[last].out_channels
    out = net(images(2))
    assert out.shape == (2, channels * side**2)
    assert (out >= 0).all() and (out > 0).any()


@pytest.mark.smoke
def test_an_image_is_resized_and_normalised_as_grey():
    net = network(layer="relu1_1", size=28, width=3)
    net.features[0].weight.zero_()
    net.features[0].bias.zero_()
    for channel in range(3):
        net.features[0].weight[channel, channel, 1, 1] = 1
    x = images(2)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = ((x[:, None] - mean[:, None]) / std[:, None]).relu()
    torch.testing.assert_close(net(x).reshape(2, 3, 784), expected)
    larger = network(layer="relu1_1", size=56)
    assert larger(torch.full((1, 784), 0.3))[0].reshape(2, 56, 56)[:, 5:-5, 5:-5].flatten(1).std(-1).max() < 1e-6


@pytest.mark.smoke
@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_derivatives_are_those_of_the_map(monkeypatch, at_once):
    net = network().double()
    monkeypatch.setattr(net, "_at_once", lambda x, copies: at_once)
    x = images(3, dtype=torch.float64)
    tangents = torch.randn(2, 3, 784, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    value, derivatives = net.push_forward(x, tangents)
    for k in range(2):
        expected = jvp(net.features, (net._prepared(x),), (net._resized(tangents[k]) / net.scale,))
        torch.testing.assert_close(value, expected[0].flatten(1))
        torch.testing.assert_close(derivatives[k], expected[1].flatten(1))
    torch.testing.assert_close(net(x), value)
    assert derivatives.norm() > 0
    again, _, pull = net.push_forward_twice(x, tangents)
    torch.testing.assert_close(again, value)
    cotangent = torch.randn(value.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    back, blocks = pull(cotangent)
    assert blocks is None  # piecewise affine
    torch.testing.assert_close((back * tangents[0]).sum(), (cotangent * derivatives[0]).sum())


@pytest.mark.slow
def test_the_metric_under_vgg_is_that_of_its_jacobian():
    net = network(layer="relu3_1", size=16).double()
    A = torch.randn(2, 784, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) / 10
    metric = PullbackMetric(lambda z: torch.sigmoid(z @ A), features=net)
    z = torch.tensor([[0.3, -0.2], [1.0, 0.5]], dtype=torch.float64)
    J = torch.stack([jacrev(lambda p: net(torch.sigmoid(p[None] @ A))[0])(p) for p in z])
    torch.testing.assert_close(metric(z), J.mT @ J)
    g = geodesic(metric, z[0], z[1], n_segments=4, init="line", max_steps=2)
    assert 0 < g.length <= g.line_length


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"layer": "relu5_5"}, "layer: got 'relu5_5', expected one of 'relu1_1'"),
        ({"layer": "relu5_2", "size": 15}, "size: got 15, expected at least 16"),
        ({"width": 0}, "width: got 0, expected at least 1"),
    ],
)
def test_what_is_no_layer(options, sentence):
    with pytest.raises((TypeError, ValueError), match=sentence):
        VGG19(**(SMALL | options))


@pytest.mark.smoke
def test_images_of_another_shape_are_named():
    with pytest.raises(ValueError, match=r"x: got images of shape \(2, 783\), expected \(n, 784\)"):
        network()(images(2)[:, 1:])
    with pytest.raises(ValueError, match=r"features: failed on points of shape \(1, 5\).*x: got images of shape"):
        PullbackMetric(lambda z: z.repeat(1, 5)[:, :5], features=network())(torch.zeros(1, 2))


# --- weight files


@pytest.fixture
def state():
    """All of torchvision's parameters, at the small width, and a classifier that nobody needs."""
    return {**network(layer="relu5_4").state_dict(), "classifier.0.weight": torch.zeros(3, 3)}


@pytest.mark.smoke
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("by_variable", [True, False])
def test_weights_come_from_the_file_that_is_named(monkeypatch, tmp_path, state, suffix, by_variable):
    path = tmp_path / f"mine{suffix}"
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    if by_variable:
        monkeypatch.setenv(features.VGG_VARIABLE, str(path))
    found = vgg_weights(None if by_variable else path)
    net = found.network(**SMALL)
    torch.testing.assert_close(
        net(images(2)), network(layer="relu5_4").features[:32](net._prepared(images(2))).flatten(1)
    )
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not found.verified
    assert "not torchvision's" in found.notice


@pytest.mark.smoke
def test_no_file_named_is_no_error():
    assert vgg_weights() is None


@pytest.mark.smoke
def test_a_name_with_a_checksum_is_held_to_it(tmp_path, state):
    path = tmp_path / "vgg19-00000000.pth"
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"path: .*vgg19-00000000.pth has SHA-256 \w{64}, its name says 00000000"):
        vgg_weights(path)
    honest = path.rename(tmp_path / f"vgg19-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth")
    assert vgg_weights(honest).sha256.startswith(honest.stem[-8:])


@pytest.mark.smoke
def test_torchvisions_file_is_known_by_its_checksum(state):
    known = features.VGGWeights(state, "dcbb9e9d" + 56 * "0")
    assert known.verified
    assert known.notice == ""


class Evil:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.smoke
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "pickle", "list"])
def test_broken_files_are_refused_by_name(tmp_path, capsys, state, kind, suffix):
    path = tmp_path / f"broken{suffix}"
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    contents = {
        "empty": b"",
        "text": b"no weights",
        "truncated": path.read_bytes()[:5000],
        "pickle": pickle.dumps(Evil()),
    }
    if kind == "list":
        torch.save([1, 2], path)
    else:
        path.write_bytes(contents[kind])
    before = path.read_bytes()
    with pytest.raises(ValueError, match=rf"path: .*broken{suffix} holds no readable weights \(.+\)"):
        vgg_weights(path)
    assert "executed" not in capsys.readouterr().out
    assert path.read_bytes() == before


@pytest.mark.smoke
def test_a_file_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setenv(features.VGG_VARIABLE, str(tmp_path / "gone.pth"))
    with pytest.raises(FileNotFoundError, match=r"\$GEOLIB_VGG: no file .*gone.pth; expected torchvision's"):
        vgg_weights()


@pytest.mark.smoke
def test_parameters_that_do_not_fit_are_named(state):
    def said(**changes):
        changed = {name: value for name, value in (state | changes).items() if value is not None}
        with pytest.raises(ValueError) as error:
            features.VGGWeights(changed, "").network(**SMALL)
        return str(error.value)

    assert said(**{"features.5.weight": None}) == "weights: no features.5.weight, which torchvision's VGG-19 has"
    assert said(**{"features.5.bias": torch.zeros(7)}).endswith("features.5.bias has shape (7,), expected (4,)")
    assert said(**{"features.0.bias": torch.tensor([0.0, torch.nan])}).startswith("weights: features.0.bias: 1 of 2")
    with pytest.raises(ValueError, match=r"features.0.weight has shape \(2, 3, 3, 3\), expected \(64, 3, 3, 3\)"):
        features.VGGWeights(state, "").network()


# --- memory

MEASURED = """
import resource, sys
import torch
from torch import nn
from geolib import PullbackMetric, geodesic

torch.set_num_threads(1)
torch.manual_seed(0)
mean = nn.Sequential(nn.Linear(2, 784), nn.Sigmoid())
std = nn.Sequential(nn.Linear(2, 784), nn.Softplus())
# 512 x 14 x 14 outputs, as relu5_2 has at 224 x 224 pixels
convolution = nn.Conv2d(1, 512, 3, stride=2, padding=1)
features = nn.Sequential(nn.Unflatten(1, (1, 28, 28)), convolution, nn.Tanh(), nn.Flatten())
for module in (mean, std, features):
    module.requires_grad_(False)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
z = torch.randn(40, 2)
if sys.argv[1] == "Eq. 3":
    metric = PullbackMetric(mean, features=features)
    M = metric(z)
    geodesic(metric, z[0], z[1], n_segments=16, init="line")
else:
    metric = PullbackMetric(mean, std, features)
    M = metric(z[:8])
assert features(mean(z[:1])).shape == (1, 512 * 14 * 14) and bool(torch.isfinite(M).all())
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("equation", "most"), [("Eq. 3", 700), ("Eq. 4", 500)])
def test_memory_stays_flat_with_a_hundred_thousand_features(equation, most):
    """In MB; the features' Jacobian, 100,352 x 784, would take 315 for each of 40 points, or of 8."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, equation],
        env=clean_environment(PYTHONPATH=":".join(sys.path)),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < most
