"""models, training and weights: what a killed training leaves, and what a damaged file does."""

import ast
import dataclasses
import json
import multiprocessing
import os
import re
import signal
import struct

import pytest
import torch
from project import ROOT, bundled, interrupted_training, stop_in_epoch
from torch import nn

from geolib.companion.cache import progress
from geolib.companion.models import training, weights
from geolib.companion.models.networks import schedule
from geolib.companion.models.networks import vae as models
from geolib.companion.models.networks.vae import VAE, VAEConfig
from geolib.companion.models.recipes import recipe

CONFIG = VAEConfig(widths=(24, 12))
RECIPE = schedule.TrainingConfig(epochs=6, variance_epochs=5, batch_size=64, seed=3)  # checkpoints after 1, 5, 10
EPOCHS = RECIPE.epochs + RECIPE.variance_epochs


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return few(bundled(tmp_path_factory, (2, 4)))


def few(data):
    """The first 300 images: real digits, and an epoch takes milliseconds."""
    return dataclasses.replace(data, train_images=data.train_images[:300], train_labels=data.train_labels[:300])


@pytest.fixture
def derived(monkeypatch, tmp_path):
    monkeypatch.setenv("GEOLIB_DERIVED", str(tmp_path / "derived"))
    return tmp_path / "derived"


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """One uninterrupted training that the tests below compare with; nobody changes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEOLIB_DERIVED", str(tmp_path_factory.mktemp("uninterrupted")))
        return training.trained_vae(data, CONFIG, RECIPE)


def same(first, second):
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def artefacts(folder):
    return sorted(path.name for path in folder.iterdir())


# --- models


@pytest.mark.smoke
def test_the_two_compared_models_stand_sixteen_to_one():
    large, small = (models.n_parameters(VAE(recipe(f"digits_{size}").model)) for size in ("large", "small"))
    assert large / small == pytest.approx(16, rel=0.1)
    layers = [(784, 32), (32, 16), (16, 2), (16, 2), (2, 16), (16, 32), (32, 784), (2, 16), (16, 784)]
    assert small == sum(inputs * outputs + outputs for inputs, outputs in layers)


@pytest.mark.smoke
@pytest.mark.parametrize("d", [2, 3])
def test_shapes_of_encoder_and_decoder(data, generator, d):
    vae = VAE(VAEConfig(latent_dim=d, widths=(24, 12)), generator=generator)
    z = vae.encode(data.train_images[:7])
    assert z.shape == (7, d)
    assert not z.requires_grad
    assert [part.shape for part in vae.posterior(data.train_images[:7])] == [(7, d), (7, d)]
    for batch in ((), (7,), (4, 5)):
        z = torch.randn(*batch, d, generator=generator)
        assert vae.mean(z).shape == vae.std(z).shape == (*batch, 784)
    assert 0 < float(vae.mean(z).detach().min()) < float(vae.mean(z).detach().max()) < 1


@pytest.mark.smoke
def test_encoding_in_parts_is_encoding_at_once(data, generator):
    vae = VAE(CONFIG, generator=generator)
    images = data.train_images.repeat(15, 1)  # more than one part
    assert len(images) > 4096
    torch.testing.assert_close(vae.encode(images), vae.posterior(images)[0].detach())


@pytest.mark.smoke
def test_a_standard_deviation_is_positive_and_finite_wherever_it_is_asked_for(generator):
    vae = VAE(CONFIG, generator=generator)
    with torch.no_grad():
        for parameter in vae.std.parameters():
            parameter.mul_(1e6)
        std = vae.std(1e3 * torch.randn(100, 2, generator=generator))
    assert bool(torch.isfinite(std).all())
    assert bool(torch.isfinite(1 / std.square()).all())
    assert float(std.min()) > 0


@pytest.mark.smoke
def test_losses_of_a_model_that_can_be_computed_by_hand(data, generator):
    vae = VAE(CONFIG)
    for parameter in vae.parameters():
        nn.init.zeros_(parameter)
    x = data.train_images[:5]
    noise = torch.randn(5, 2, generator=generator)
    # posterior N(0, 1), mean 1/2, standard deviation 1, whatever the input
    squared = (x - 0.5).square().sum(-1)
    torch.testing.assert_close(models.negative_elbo(vae, x, noise), squared / (2 * CONFIG.output_variance))
    torch.testing.assert_close(models.negative_log_likelihood(vae, x, noise), squared / 2)
    # posterior N((3, 4), 2): the divergence from N(0, 1) is (|m|^2 + 2 s^2 - 2 - 2 log s^2) / 2
    with torch.no_grad():
        vae.latent_mean.bias.copy_(torch.tensor([3.0, 4.0]))
        vae.latent_log_variance.bias.fill_(torch.tensor(2.0).log())
    divergence = (25 + 4 - 2 - 2 * torch.tensor(2.0).log()) / 2
    torch.testing.assert_close(models.negative_elbo(vae, x, noise), squared + divergence)


# --- training


@pytest.mark.smoke
@pytest.mark.parametrize("name", ["epochs", "variance_epochs", "batch_size"])
def test_recipes_that_train_nothing(name):
    with pytest.raises(ValueError, match=f"{name}: got 0, expected at least 1"):
        schedule.TrainingConfig(**{name: 0})


@pytest.mark.smoke
def test_a_trained_model_is_ready_to_be_measured(trained):
    assert not trained.vae.training
    assert not any(parameter.requires_grad for parameter in trained.vae.parameters())
    assert {parameter.device.type for parameter in trained.vae.parameters()} == {"cpu"}


@pytest.mark.smoke
def test_history_has_both_phases_and_the_validation_loss_falls(trained):
    phases = [("elbo", n + 1) for n in range(RECIPE.epochs)]
    phases += [("variance", n + 1) for n in range(RECIPE.variance_epochs)]
    assert [(entry["phase"], entry["epoch"]) for entry in trained.history] == phases
    for phase in ("elbo", "variance"):
        own = [entry for entry in trained.history if entry["phase"] == phase]
        for loss in ("training", "validation"):
            assert own[-1][loss] < own[0][loss], (phase, loss)
    assert training.final_validation(trained) == trained.history[RECIPE.epochs - 1]["validation"]


@pytest.mark.smoke
def test_the_variance_phase_changes_the_variance_only(data, derived, trained):
    other = training.trained_vae(data, CONFIG, dataclasses.replace(RECIPE, variance_epochs=1))
    differing = {
        name.split(".")[0]
        for name, value in other.vae.state_dict().items()
        if not torch.equal(value, trained.vae.state_dict()[name])
    }
    assert differing == {"std"}


@pytest.mark.smoke
def test_trained_twice_is_loaded(monkeypatch, data, derived, capsys):
    first = training.trained_vae(data, CONFIG, RECIPE)
    assert artefacts(derived) == [first.path.name]
    assert "going on" not in capsys.readouterr().out
    monkeypatch.setattr(training, "_Run", None)  # whoever trains fails
    second = training.trained_vae(data, CONFIG, RECIPE)
    assert capsys.readouterr().out == ""
    assert same(first.vae, second.vae)
    assert (first.history, first.path) == (second.history, second.path)


@pytest.mark.smoke
def test_the_seed_decides_the_weights(data, derived, trained):
    again = training.trained_vae(data, CONFIG, RECIPE)
    assert same(again.vae, trained.vae)
    assert again.path.name == trained.path.name
    torch.manual_seed(99)  # a draw from the global generator would show
    other = training.trained_vae(data, CONFIG, dataclasses.replace(RECIPE, seed=4))
    assert not torch.equal(other.vae.mean[0].weight, trained.vae.mean[0].weight)
    assert other.path != again.path


@pytest.mark.smoke
def test_test_images_have_no_part_in_training(data, derived, trained):
    blank = dataclasses.replace(data, test_images=torch.zeros_like(data.test_images))
    assert same(training.trained_vae(blank, CONFIG, RECIPE).vae, trained.vae)


@pytest.mark.smoke
def test_whatever_the_weights_depend_on_names_their_file(data, derived, trained):
    brief = schedule.TrainingConfig(epochs=1, variance_epochs=1)
    found = {
        training.trained_vae(data, CONFIG, brief).path.name,
        training.trained_vae(data, CONFIG, dataclasses.replace(brief, batch_size=32)).path.name,
        training.trained_vae(data, CONFIG, dataclasses.replace(brief, learning_rate=1e-2)).path.name,
        training.trained_vae(data, VAEConfig(widths=(24, 13)), brief).path.name,
        training.trained_vae(data, dataclasses.replace(CONFIG, output_variance=1.0), brief).path.name,
        training.trained_vae(dataclasses.replace(data, checksums={"other": "0"}), CONFIG, brief).path.name,
    }
    assert len(found) == 6


@pytest.mark.smoke
def test_a_loss_that_is_not_a_number_ends_the_training_at_once(data, derived):
    images = data.train_images.clone()
    images[::7, 5] = torch.nan
    with pytest.raises(ValueError, match=r"the loss is nan in epoch 1 of phase 'elbo'; lower learning_rate"):
        training.trained_vae(dataclasses.replace(data, train_images=images), CONFIG, RECIPE)
    assert artefacts(derived) == []


@pytest.mark.smoke
def test_training_says_epoch_and_losses_to_the_process_that_watches(monkeypatch, data, derived, capsys):
    said = []
    monkeypatch.setenv(progress.VARIABLE, "a file that nobody writes")
    monkeypatch.setattr(progress, "say", said.append)
    losses = training.trained_vae(data, CONFIG, RECIPE, label="model").history[-1]
    lines = [line.strip() for line in said if line.strip()]
    assert lines[-1] == (
        f"model: {EPOCHS} of {EPOCHS} epochs, variance {losses['training']:.2f}, validation {losses['validation']:.2f}"
    )
    assert capsys.readouterr().out == ""


# --- interrupted training


def interrupt(data, number):
    interrupted_training(number, lambda: training.trained_vae(data, CONFIG, RECIPE))


@pytest.mark.smoke
@pytest.mark.parametrize(("number", "kept"), [(1, None), (2, 1), (5, 1), (6, 5), (7, 5), (11, 10)])
def test_an_interrupted_training_ends_with_the_same_weights(*, data, derived, trained, capsys, number, kept):
    interrupt(data, number)
    left = artefacts(derived)
    assert len(left) == (0 if kept is None else 1)
    assert all(name.endswith(".checkpoint.safetensors") for name in left)
    capsys.readouterr()
    resumed = training.trained_vae(data, CONFIG, RECIPE, label="model")
    said = capsys.readouterr().out
    assert ("going on" in said) == (kept is not None)
    if kept is not None:
        assert f"model: going on after epoch {kept}\n" in said
    assert same(resumed.vae, trained.vae)
    assert resumed.history == trained.history
    assert artefacts(derived) == [resumed.path.name]


@pytest.mark.smoke
def test_a_training_may_be_interrupted_again_and_again(data, derived, trained):
    for number in (3, 6, 2, 5):  # epochs counted from each start: the checkpoints after 1, 5, 5, 5
        interrupt(data, number)
    resumed = training.trained_vae(data, CONFIG, RECIPE)
    assert same(resumed.vae, trained.vae)
    assert resumed.history == trained.history


@pytest.mark.smoke
@pytest.mark.parametrize(
    "spoil", [lambda b: b[: len(b) // 2], lambda b: b[:-9] + bytes([b[-9] ^ 1]) + b[-8:], lambda b: b""]
)
def test_a_damaged_checkpoint_starts_anew_and_says_so(*, data, derived, trained, capsys, spoil):
    interrupt(data, 3)
    (checkpoint,) = derived.glob("*.checkpoint.safetensors")
    checkpoint.write_bytes(spoil(checkpoint.read_bytes()))
    capsys.readouterr()
    fresh = training.trained_vae(data, CONFIG, RECIPE)
    said = capsys.readouterr().out
    assert f"the checkpoint is damaged ({checkpoint}: " in said
    assert "training starts anew" in said
    assert same(fresh.vae, trained.vae)
    assert artefacts(derived) == [fresh.path.name]


@pytest.mark.smoke
def test_a_damaged_model_is_trained_again(data, derived, trained, capsys):
    path = training.trained_vae(data, CONFIG, RECIPE).path
    path.write_bytes(path.read_bytes()[:-1])
    again = training.trained_vae(data, CONFIG, RECIPE)
    assert "is damaged" in capsys.readouterr().out
    assert same(again.vae, trained.vae)
    assert artefacts(derived) == [path.name, f"{path.name}.refused"]


def of_another_training(tensors, metadata):
    return tensors, {**metadata, "training": {**metadata["training"], "seed": 99}}


def of_another_width(tensors, metadata):
    name = sorted(tensors)[0]
    return {**tensors, name: tensors[name][:-1]}, metadata


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (of_another_training, r"made for another configuration: .*'seed': 99"),
        (of_another_width, r"weights of another model: .* has shape"),
    ],
)
def test_an_intact_file_of_another_model_is_not_taken_for_this_one(*, data, derived, trained, capsys, other, sentence):
    path = training.trained_vae(data, CONFIG, RECIPE).path
    weights.save(path, *other(*weights.load(path)))
    again = training.trained_vae(data, CONFIG, RECIPE)
    assert re.search(sentence, capsys.readouterr().out)
    assert same(again.vae, trained.vae)
    assert artefacts(derived) == [path.name, f"{path.name}.refused"]


@pytest.mark.smoke
def test_an_intact_checkpoint_of_another_model_starts_anew(data, derived, trained, capsys):
    interrupt(data, 3)
    (checkpoint,) = derived.glob("*.checkpoint.safetensors")
    tensors, metadata = weights.load(checkpoint)
    name = next(name for name in sorted(tensors) if name.startswith("model."))
    weights.save(checkpoint, {**tensors, name: tensors[name][:-1]}, metadata)
    fresh = training.trained_vae(data, CONFIG, RECIPE)
    assert "training starts anew" in capsys.readouterr().out
    assert same(fresh.vae, trained.vae)


def be_killed(where, number, data):
    """In a process of its own: train until the ``number``-th epoch, or checkpoint, and be killed there."""
    torch.set_num_threads(1)

    def kill():
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        if where == "epoch":
            stop_in_epoch(patch, number, kill)
        else:
            moved = []

            def replace(source, destination):
                moved.append(destination)
                if len(moved) == number:  # written beside its place, not yet moved there
                    kill()
                original(source, destination)

            original = os.replace
            patch.setattr(os, "replace", replace)
        training.trained_vae(data, CONFIG, RECIPE)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
@pytest.mark.parametrize(("where", "number", "kept"), [("epoch", 3, 1), ("epoch", 11, 10), ("checkpoint", 2, 1)])
def test_a_killed_training_ends_with_the_same_weights(*, data, derived, trained, capfd, where, number, kept):
    process = multiprocessing.get_context("spawn").Process(target=be_killed, args=(where, number, data))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert [path.stat().st_size > 0 for path in derived.glob("vae-*.checkpoint.safetensors")] == [True]
    capfd.readouterr()
    resumed = training.trained_vae(data, CONFIG, RECIPE)
    assert f"going on after epoch {kept}\n" in capfd.readouterr().out
    assert same(resumed.vae, trained.vae)
    assert resumed.history == trained.history


# --- files of weights

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b.c": torch.tensor(7), "empty": torch.zeros(0, 2)}
METADATA = {"history": [{"phase": "elbo", "validation": 1.25}], "source": "bundled"}


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.safetensors"
    weights.save(path, TENSORS, METADATA)
    return path


@pytest.mark.smoke
def test_weights_come_back_as_they_were(saved):
    tensors, metadata = weights.load(saved)
    assert metadata == METADATA
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(tensors[name], tensor)
        assert (tensors[name].dtype, tensors[name].device.type) == (tensor.dtype, "cpu")


@pytest.mark.smoke
def test_the_layout_in_memory_does_not_matter(saved, tmp_path):
    views = {name: tensor.T.contiguous().T if tensor.ndim == 2 else tensor for name, tensor in TENSORS.items()}
    assert not views["a"].is_contiguous()
    weights.save(tmp_path / "again", dict(reversed(views.items())), METADATA)
    tensors, _ = weights.load(tmp_path / "again")
    assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())


@pytest.mark.smoke
def test_every_flipped_bit_is_noticed(saved):
    contents = saved.read_bytes()
    unnoticed = []
    for position in range(len(contents)):
        # the lowest bit: a letter becomes another letter, a digit another digit
        saved.write_bytes(contents[:position] + bytes([contents[position] ^ 1]) + contents[position + 1 :])
        try:
            weights.load(saved)
        except ValueError:
            continue
        unnoticed.append(contents[max(0, position - 12) : position + 1])
    assert unnoticed == []


@pytest.mark.smoke
def test_every_truncation_is_noticed(saved):
    contents = saved.read_bytes()
    for length in range(len(contents)):
        saved.write_bytes(contents[:length])
        with pytest.raises(ValueError, match="not a readable safetensors file"):
            weights.load(saved)


@pytest.mark.smoke
def test_an_altered_tensor_is_refused_with_both_sums(saved):
    contents = bytearray(saved.read_bytes())
    contents[-1] ^= 0x80
    saved.write_bytes(contents)
    with pytest.raises(ValueError, match=rf"{saved.name}: expected checksum [0-9a-f]{{64}}, found [0-9a-f]{{64}}"):
        weights.load(saved)


@pytest.mark.smoke
def test_foreign_files_are_refused(tmp_path):
    path = tmp_path / "foreign.safetensors"
    torch.save(TENSORS, path)
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        weights.load(path)
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(ValueError, match="has no checksum of its contents, so it was not written by this project"):
        weights.load(path)
    with pytest.raises(FileNotFoundError):
        weights.load(tmp_path / "nothing")


@pytest.mark.smoke
def test_what_one_device_trained_opens_without_it(monkeypatch, data, derived, trained):
    # nothing in the file may name a device
    contents = trained.path.read_bytes()
    (length,) = struct.unpack("<Q", contents[:8])
    header = json.loads(contents[8 : 8 + length])
    assert {frozenset(entry) for name, entry in header.items() if name != "__metadata__"} == {
        frozenset({"dtype", "shape", "data_offsets"})
    }
    assert "device" not in header["__metadata__"]["geolib"]
    if torch.cuda.is_available():  # the same file name for every device, and the CPU takes what CUDA made
        there = training.trained_vae(data, CONFIG, RECIPE, device="cuda")
        assert {parameter.device.type for parameter in there.vae.parameters()} == {"cuda"}
        assert there.path.name == trained.path.name
        monkeypatch.setattr(training, "_Run", None)
        here = training.trained_vae(data, CONFIG, RECIPE, device="cpu")
        assert {parameter.device.type for parameter in here.vae.parameters()} == {"cpu"}
        assert same(here.vae, there.vae.cpu())


@pytest.mark.smoke
def test_nothing_that_is_stored_is_a_pickle(trained):
    assert trained.path.read_bytes()[8:9] == b"{"
    forbidden = {"pickle", "joblib", "dill", "cloudpickle", "shelve", "marshal"}
    for path in sorted((ROOT / "geolib").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            imported += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in imported} & forbidden, path
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called != "torch.save", f"{path}:{node.lineno}"
                if called == "torch.load":  # weights that others published: tensors and nothing else
                    assert "weights_only=True" in ast.unparse(node), f"{path}:{node.lineno}"
                if called == "np.load":
                    assert "allow_pickle=False" in ast.unparse(node), f"{path}:{node.lineno}"
