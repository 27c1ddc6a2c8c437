"""The authors' architecture, their variance fit, and their published weights: what is read, and what is refused."""

import copy
import dataclasses
import hashlib
import io
import pickle
from pathlib import Path

import pytest
import torch
from project import bundled, interrupted_training
from torch import nn

from geolib import PullbackMetric, jacobian
from geolib.companion.data import datasets
from geolib.companion.models import generators, michelis_becker, recipes, training
from geolib.companion.models.networks import schedule
from geolib.companion.models.networks.vae import (
    VAE,
    ConvolutionalVAEConfig,
    convolutional_decoder,
    folded,
    n_parameters,
)
from geolib.companion.models.recipes import recipe


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    data = bundled(tmp_path_factory, (2, 4))
    return dataclasses.replace(data, train_images=data.train_images[:128], train_labels=data.train_labels[:128])


def lived_in(d=2):
    """A model whose norms have seen batches, so that they are not what they were made as."""
    vae = VAE(ConvolutionalVAEConfig(latent_dim=d), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        for layer in vae.mean:
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.uniform_(0.5, 2)
                layer.bias.uniform_(-0.5, 0.5)
        for _ in range(3):
            vae.mean(torch.randn(16, d))
            vae.body(torch.rand(16, 784))
    return vae.eval()


# --- architecture


@pytest.mark.smoke
def test_shapes_and_units(data):
    vae = lived_in(3)
    assert vae.encode(data.train_images[:5]).shape == (5, 3)
    pixels = vae.mean(torch.randn(7, 3)).detach()
    assert pixels.shape == vae.std(torch.randn(7, 3)).shape == (7, 784)
    assert float(pixels.min()) >= 0
    assert float(pixels.max()) <= 1
    seen = []
    vae.body[2].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    vae.encode(torch.tensor([[0.0, 1.0] * 392]))
    assert sorted(set(seen[0].flatten().tolist())) == [-1.0, 1.0]
    assert not any(p.requires_grad for p in vae.mean[10].parameters()), "the units are trained"


@pytest.mark.smoke
def test_a_seed_gives_the_same_weights_and_leaves_torchs_own_draws_alone():
    def made(seed):
        return VAE(ConvolutionalVAEConfig(), generator=torch.Generator().manual_seed(seed)).state_dict()

    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first, again, other = made(1), made(1), made(2)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["latent_mean.weight"], other["latent_mean.weight"])


@pytest.mark.smoke
def test_folding_keeps_the_map():
    vae = lived_in()
    before = copy.deepcopy(vae)
    z, x = torch.randn(9, 2), torch.rand(9, 784)
    mean, latents = before.mean(z), before.encode(x)
    assert len(before.mean) == len(vae.fixed().mean) + 2
    kinds = {type(layer) for layer in (*vae.mean, *vae.body)}
    assert nn.BatchNorm2d not in kinds
    assert {nn.ConvTranspose2d, nn.Conv2d} <= kinds, "a parametrised layer is of a class of its own"
    torch.testing.assert_close(vae.mean(z), mean)
    torch.testing.assert_close(vae.encode(x), latents)
    assert not any(p.requires_grad for p in vae.parameters())


@pytest.mark.smoke
def test_layers_without_norms_stay_as_they_are():
    plain = nn.Sequential(nn.Linear(2, 3), nn.Tanh())
    assert list(folded(plain)) == list(plain)


@pytest.mark.slow
@pytest.mark.parametrize("fixed", [False, True])
def test_the_metric_is_that_of_reverse_mode(fixed):
    """With spectral and batch norm as layers, and folded into the convolutions."""
    vae = lived_in().double()
    vae = vae.fixed() if fixed else vae
    z = torch.randn(2, 2, dtype=torch.float64)
    # a row is its own map, so that one reverse pass per pixel serves all rows
    maps = [lambda q, f=f: f(q).sum(0) for f in (vae.mean, vae.std)]
    jacobians = [torch.autograd.functional.jacobian(function, z).transpose(0, 1) for function in maps]
    expected = sum(jac.mT @ jac for jac in jacobians)
    torch.testing.assert_close(PullbackMetric(vae.mean, vae.std)(z), expected)


@pytest.mark.smoke
def test_second_derivatives_of_the_folded_decoder_are_those_of_reverse_mode():
    mean = lived_in().double().fixed().mean
    z, u = torch.randn(2, 2, dtype=torch.float64), torch.randn(2, 784, dtype=torch.float64)
    tangents = torch.eye(2, dtype=torch.float64)[:, None].expand(2, 2, 2)
    _, _, pull = jacobian.push_forward_twice(mean, z, tangents)
    for row, point in enumerate(z):
        expected = torch.autograd.functional.hessian(lambda q, row=row: mean(q[None])[0] @ u[row], point)
        torch.testing.assert_close(pull(u)[1][row], expected)


@pytest.mark.smoke
def test_a_model_in_training_mode_is_refused():
    vae = lived_in().train()
    with pytest.raises(ValueError, match="BatchNorm2d layer is in training mode"):
        PullbackMetric(vae.mean)(torch.zeros(1, 2))


# --- training and recipes


@pytest.mark.smoke
def test_the_learning_rate_falls_by_a_factor_an_epoch():
    config = schedule.DecayingTraining()
    assert [config.rate(epoch, 15) for epoch in (0, 1, 2)] == pytest.approx([5e-3, 5e-3 * 0.95, 5e-3 * 0.95**2])
    (group,) = config.optimizer([nn.Parameter(torch.zeros(1))]).param_groups
    assert (group["lr"], group["weight_decay"]) == (5e-3, 1e-4)
    (plain,) = schedule.TrainingConfig().optimizer([nn.Parameter(torch.zeros(1))]).param_groups
    assert plain["weight_decay"] == 0


@pytest.mark.smoke
def test_the_recipe_has_the_settings_of_their_code():
    chosen, sixteen = recipe("michelis_becker_code"), recipe("michelis_becker_16")
    assert (chosen.n_centers, chosen.curvature, chosen.fit) == (8, 1.0, "adam")
    assert (sixteen.n_centers, sixteen.model.latent_dim) == (64, 16)
    large, small = (n_parameters(VAE(recipe(name).model)) for name in recipes.PAIRS["michelis_becker_code"])
    assert large / small == pytest.approx(16, rel=0.1)
    # the variance of a pixel and zeta, in their units: [-1, 1] is twice as wide
    assert 4 * chosen.model.output_variance == pytest.approx(1.65, abs=2e-3)
    assert chosen.zeta / 4 == pytest.approx(1e-2)


@pytest.mark.smoke
def test_their_images_are_the_first_of_each_class(monkeypatch, tmp_path, data):
    monkeypatch.setattr(datasets, "load", lambda *_, **__: data)
    monkeypatch.setattr(recipes, "FEW", 3)
    few = recipe("michelis_becker_code").load()
    assert few.train_labels.bincount()[[2, 4]].tolist() == [3, 3]
    for label in (2, 4):
        expected = data.train_images[data.train_labels == label][:3]
        torch.testing.assert_close(few.train_images[few.train_labels == label], expected)
    assert few.name != data.name
    assert few.fingerprint != data.fingerprint
    assert torch.equal(few.test_images, data.test_images)


@pytest.mark.slow
def test_a_training_that_was_killed_goes_on_with_the_norms_it_had(monkeypatch, tmp_path, data):
    config, brief = ConvolutionalVAEConfig(), schedule.DecayingTraining(epochs=2, variance_epochs=1, seed=1)
    monkeypatch.setenv("GEOLIB_DERIVED", str(tmp_path / "whole"))
    whole = training.trained_vae(data, config, brief)
    assert [entry["phase"] for entry in whole.history] == ["elbo", "elbo", "variance"]
    assert whole.history[1]["training"] < whole.history[0]["training"]
    monkeypatch.setenv("GEOLIB_DERIVED", str(tmp_path / "killed"))
    interrupted_training(2, lambda: training.trained_vae(data, config, brief))
    again = training.trained_vae(data, config, brief)
    z = torch.randn(5, 2)
    assert torch.equal(again.vae.mean(z), whole.vae.mean(z))
    assert again.history == whole.history


@pytest.mark.slow
def test_the_variance_is_trained_at_the_mean_as_it_will_be_used(monkeypatch, tmp_path, data):
    """Its epochs leave the decoder's running means alone."""
    monkeypatch.setenv("GEOLIB_DERIVED", str(tmp_path))
    z = torch.randn(5, 2)
    means = [
        training.trained_vae(
            data, ConvolutionalVAEConfig(), schedule.DecayingTraining(epochs=1, variance_epochs=n, seed=1)
        ).vae.mean(z)
        for n in (1, 3)
    ]
    assert torch.equal(*means)


# --- their variance


def blobs():
    generator = torch.Generator().manual_seed(0)
    latents = torch.cat([torch.randn(60, 2, generator=generator) + 8 * shift for shift in torch.eye(2)])
    scale = torch.tensor([0.02, 0.3]).repeat_interleave(60)[:, None]
    return latents, (scale * torch.randn(120, 5, generator=generator)).square()


SETTINGS = {"n_centers": 2, "curvature": 1.0, "zeta": 4e-2, "seed": 0}


@pytest.mark.slow
def test_their_fit_finds_the_variance_of_each_cluster_where_it_is_large():
    latents, errors = blobs()
    rbf = michelis_becker.fit_precision(latents, errors, **{**SETTINGS, "curvature": 3.0}, epochs=400)
    found = rbf(latents).square()
    tight, loose = (slice(0, 60), slice(60, 120))
    assert float(found[loose].median() / errors[loose].mean()) == pytest.approx(1, rel=0.4)
    # where the precision is large, weight decay keeps it too small
    ratio = float(found[tight].median() / errors[tight].mean())
    assert 1 < ratio < 10
    assert float(found[loose].median()) > 20 * float(found[tight].median())
    far = torch.full((1, 2), 1e3)
    torch.testing.assert_close(rbf(far), torch.full((1, 5), 4e-2**-0.5))
    assert float(rbf.weights.min()) >= 0


@pytest.mark.slow
def test_their_fit_is_that_of_autograd():
    """The same steps by torch's own derivative of the likelihood, in their units."""
    latents, errors = blobs()
    rbf = michelis_becker.fit_precision(latents, errors, **SETTINGS, epochs=2)
    generator = torch.Generator().manual_seed(0)
    centers, _ = michelis_becker._lloyd(latents, 2, generator)
    torch.testing.assert_close(rbf.centers, centers)
    v = torch.exp(-rbf.bandwidths * (latents[:, None] - centers).square().sum(-1))
    weights = torch.empty(2, 5).uniform_(-(2**-0.5), 2**-0.5, generator=generator).clamp_min_(0).requires_grad_()
    optimizer = torch.optim.Adam([weights], lr=1.0, weight_decay=1e-4)
    for _ in range(2):
        for batch in torch.randperm(120, generator=generator).split(16):
            variance = 1 / (v[batch] @ weights + 1e-2)
            loss = 0.5 * (variance.log() + 4 * errors[batch] / variance).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                weights.clamp_(min=0)
    torch.testing.assert_close(rbf.weights, 4 * weights.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.smoke
def test_bandwidths_follow_the_mean_radius_and_empty_clusters_are_wide():
    points = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    centers = torch.tensor([[1.0, 0.0], [9.0, 9.0]])
    found = michelis_becker._bandwidths(points, centers, torch.tensor([0, 0]), 2.0)
    assert found.tolist() == pytest.approx([0.5 / 4, 1e-3], rel=1e-4)


@pytest.mark.smoke
def test_a_fit_that_there_is_not(data):
    with pytest.raises(ValueError, match="fit: got 'sgd', expected one of 'convex', 'adam'"):
        generators.generator(data, lived_in(), fit="sgd")


# --- published weights


def published(seed=0):
    """A state dict as theirs: spectral norm by its singular vectors, batch norm, RBF network."""
    torch.manual_seed(seed)
    state, decoder = {}, convolutional_decoder(16)
    for name, place in {**michelis_becker._PLACES, **michelis_becker._LAST}.items():
        for part, value in decoder[place].state_dict().items():
            if part.startswith("parametrizations"):
                ending = {"original": "weight_orig", "_u": "weight_u", "_v": "weight_v"}[part.split(".")[-1]]
                state[f"{name}.{ending}"] = value
            else:
                state[f"{name}.{part}"] = value
    state["rbfNN.centers"], state["rbfNN.bandwidth"] = torch.randn(64, 16), 0.1 * torch.rand(64)
    state["rbfNN.zeta"], state["rbfNN.W.weight"] = torch.tensor([1e-2]), torch.rand(784, 64)
    return state, decoder.eval()


def as_bytes(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


@pytest.mark.smoke
def test_published_weights_give_the_decoder_and_variance_that_they_were_saved_from():
    state, decoder = published()
    metric = michelis_becker.metric_of(as_bytes(state), "it")
    z = torch.randn(3, 16)
    torch.testing.assert_close(metric.mean(z), decoder(z).detach(), rtol=1e-4, atol=1e-5)
    v = torch.exp(-state["rbfNN.bandwidth"] * (z[:, None] - state["rbfNN.centers"]).square().sum(-1))
    # on [-1, 1] deviations are twice as large
    expected = (v @ state["rbfNN.W.weight"].T + 1e-2).rsqrt() / 2
    torch.testing.assert_close(metric.std(z), expected)
    assert metric.latent_dim == 16


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("touched"),))


@pytest.mark.smoke
def test_what_are_no_plain_weights_is_refused_and_not_run(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    state, _ = published()
    for contents in (
        pickle.dumps(Evil(), protocol=2),
        as_bytes({"lin.weight": Evil()}),
        b"",
        b"garbage",
        as_bytes(state)[:5000],
    ):
        with pytest.raises(ValueError, match=r"weights\.pth: not a readable file of plain weights"):
            michelis_becker.metric_of(contents, "weights.pth")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.smoke
def test_weights_of_something_else_are_refused():
    state, _ = published()
    lacking = {name: value for name, value in state.items() if name != "conv.1.BatchNorm.running_var"}
    wide = {**state, "conv.0.ConvTranspose.bias": torch.zeros(16)}
    for wrong, message in (
        (lacking, "has no tensor 'conv.1.BatchNorm.running_var'"),
        (wide, "its tensors are not those of their decoder"),
        ({**state, "lin.weight": 3}, r"not a readable file of plain weights \(a state dict of tensors is expected\)"),
        ([1, 2], r"not a readable file of plain weights \(a state dict of tensors is expected\)"),
    ):
        with pytest.raises(ValueError, match=f"it: {message}"):
            michelis_becker.metric_of(as_bytes(wrong), "it")


@pytest.fixture
def place(monkeypatch, tmp_path):
    """Where the user's own files are; nothing is downloaded."""
    (tmp_path / "own" / "michelis_becker").mkdir(parents=True)
    monkeypatch.setenv("GEOLIB_DATA", str(tmp_path / "own"))
    monkeypatch.setenv("GEOLIB_RAW", str(tmp_path / "raw"))
    monkeypatch.delenv("GEOLIB_DATA_SOURCE", raising=False)

    def refuse(folder, checksums, mirrors):
        raise ConnectionError("no mirror answers")

    monkeypatch.setattr(michelis_becker, "fetch", refuse)
    return tmp_path / "own" / "michelis_becker" / michelis_becker.WEIGHTS


@pytest.mark.smoke
def test_the_published_file_is_known_by_its_checksum(monkeypatch, place):
    contents = as_bytes(published()[0])
    place.write_bytes(contents)
    found = hashlib.sha256(contents).hexdigest()
    with pytest.raises(ValueError, match=rf"is not the published file .*found {found}\). Replace or remove it"):
        michelis_becker.published_metric()
    monkeypatch.setattr(michelis_becker, "WEIGHTS_SHA256", found)
    assert michelis_becker.published_metric().latent_dim == 16


@pytest.mark.smoke
@pytest.mark.parametrize("source", ["auto", "bundled"])
def test_weights_that_are_nowhere_are_asked_for(monkeypatch, place, source):
    monkeypatch.setenv("GEOLIB_DATA_SOURCE", source)
    with pytest.raises(FileNotFoundError, match=r"put it into \$GEOLIB_DATA/michelis_becker/"):
        michelis_becker.published_metric()


@pytest.mark.smoke
def test_weights_are_downloaded_where_they_are_not(monkeypatch, place, tmp_path):
    contents = as_bytes(published()[0])
    asked = []

    def fetch(folder, checksums, mirrors):
        asked.append((folder, list(checksums), mirrors))
        folder.mkdir(parents=True)
        (folder / michelis_becker.WEIGHTS).write_bytes(contents)

    monkeypatch.setattr(michelis_becker, "fetch", fetch)
    monkeypatch.setattr(michelis_becker, "WEIGHTS_SHA256", hashlib.sha256(contents).hexdigest())
    assert michelis_becker.published_metric().latent_dim == 16
    ((folder, files, mirrors),) = asked
    assert (folder, files) == (tmp_path / "raw" / "michelis_becker", ["trainedVAE_D.pth"])
    assert all(mirror.startswith("https://") and mirror.endswith("/") for mirror in mirrors)
