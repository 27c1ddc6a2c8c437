"""Autoencoders and adversarial networks: their losses, their training, and what counts as collapsed."""

import dataclasses

import pytest
import torch
from project import bundled, interrupted_training
from torch import nn

from geolib.companion.models import generators, training
from geolib.companion.models.networks import autoencoder, gan
from geolib.companion.models.networks.autoencoder import Autoencoder, AutoencoderConfig
from geolib.companion.models.networks.gan import GAN, GANConfig
from geolib.companion.models.networks.schedule import ConstantTraining
from geolib.companion.models.networks.vae import VAE, VAEConfig
from geolib.companion.models.recipes import MeanRecipe, recipe

BRIEF = ConstantTraining(epochs=3, variance_epochs=1, batch_size=64, seed=2)
SMALL = {Autoencoder: AutoencoderConfig(widths=(24, 12)), GAN: GANConfig(widths=(24, 12))}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    found = bundled(tmp_path_factory, (2, 4))
    return dataclasses.replace(found, train_images=found.train_images[:300], train_labels=found.train_labels[:300])


@pytest.fixture
def derived(monkeypatch, tmp_path):
    monkeypatch.setenv("GEOLIB_DERIVED", str(tmp_path / "derived"))


def same(first, second):
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- losses


@pytest.mark.smoke
def test_a_reconstruction_loss_that_can_be_computed_by_hand(data, generator):
    model = Autoencoder(AutoencoderConfig(widths=(24, 12)))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    x = data.train_images[:5]
    loss = autoencoder._reconstruction(model, x, torch.randn(x.shape, generator=generator))
    torch.testing.assert_close(loss, (x - 0.5).square().sum(-1))


@pytest.mark.smoke
def test_noise_has_the_stated_deviation(data, generator):
    noisy = []
    model = Autoencoder(AutoencoderConfig(widths=(24, 12), noise=0.7), generator=generator)
    model.body.register_forward_pre_hook(lambda module, given: noisy.append(given[0]))
    x = data.train_images[:50]
    autoencoder._reconstruction(model, x, torch.randn(x.shape, generator=generator))
    assert float((noisy[0] - x).std()) == pytest.approx(0.7, rel=0.02)


@pytest.mark.smoke
@pytest.mark.parametrize("penalty", [0.0, 3.0])
def test_adversarial_losses_of_a_linear_critic(data, generator, penalty):
    model = GAN(GANConfig(widths=(), penalty=penalty), generator=generator)
    x, noise = data.train_images[:5], torch.randn(5, 2, generator=generator)
    real, fake = model.critic(x).squeeze(-1), model.critic(model.mean(noise)).squeeze(-1)
    # -log of the probability that each is called what it is; the slope of a linear critic is its weight
    expected = -torch.sigmoid(real).log() - torch.sigmoid(-fake).log()
    expected = expected + penalty / 2 * model.critic[0].weight.square().sum()
    torch.testing.assert_close(gan._critic_loss(model, x, noise), expected)
    torch.testing.assert_close(gan._generator_loss(model, x, noise), -torch.sigmoid(fake).log())


@pytest.mark.smoke
def test_each_player_changes_its_own_side(data, derived):
    model = GAN(SMALL[GAN], generator=torch.Generator().manual_seed(0))
    (phase,) = model.phases(BRIEF)
    x, noise = data.train_images[:20], torch.randn(20, 2)
    for player, mine, others in zip(phase.players, (model.critic, model.mean), (model.mean, model.critic), strict=True):
        model.zero_grad()
        player.loss(model, x, noise).mean().backward()
        assert {id(p) for p in player.parameters} == {id(p) for p in mine.parameters()}
        assert all(bool(p.grad.any()) for p in mine.parameters())
        assert not {id(p) for p in player.parameters} & {id(p) for p in others.parameters()}


@pytest.mark.smoke
def test_an_activation_that_there_is_not():
    with pytest.raises(ValueError, match="activation: got 'relu', expected one of 'tanh', 'sigmoid'"):
        VAE(VAEConfig(activation="relu"))


# --- training


@pytest.mark.smoke
@pytest.mark.parametrize("kind", [Autoencoder, GAN])
def test_two_trainings_are_the_same_and_a_killed_one_goes_on(kind, data, monkeypatch, tmp_path, capsys):
    def train(folder):
        monkeypatch.setenv("GEOLIB_DERIVED", str(tmp_path / folder))
        return training.trained_model(kind, data, SMALL[kind], BRIEF, label="model")

    whole, history, path = train("whole")
    _, _, other = train("again")
    assert path.read_bytes() == other.read_bytes()
    assert not any(p.requires_grad for p in whole.parameters())
    interrupted_training(2, lambda: train("killed"))
    resumed, told, _ = train("killed")
    assert "model: going on after epoch 1" in capsys.readouterr().out
    assert same(resumed, whole)
    assert told == history
    assert [entry["epoch"] for entry in history] == [1, 2, 3]


@pytest.mark.slow
def test_an_autoencoder_is_better_than_principal_components(data, derived):
    config = ConstantTraining(epochs=40, variance_epochs=1, batch_size=32, seed=0)
    model, history, _ = training.trained_model(
        Autoencoder, data, AutoencoderConfig(widths=(128, 32), activation="tanh"), config, label="model"
    )
    assert history[-1]["training"] < history[0]["training"]
    x = data.train_images
    centred = x - x.mean(0)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    principal = (centred - centred @ axes[:2].T @ axes[:2]).square().sum(-1).mean()
    with torch.no_grad():
        assert (x - model.mean(model.encode(x))).square().sum(-1).mean() < principal


@pytest.mark.slow
def test_an_adversarial_network_comes_nearer_to_the_data(data, derived):
    """By the energy distance over its own largest value (Székely & Rizzo 2013): 0 for equal distributions."""

    def distance(x, y):
        across, own, others = (torch.cdist(*pair).mean() for pair in ((x, y), (x, x), (y, y)))
        return float((2 * across - own - others) / (2 * across))

    config = ConstantTraining(epochs=60, variance_epochs=1, batch_size=32, seed=0)
    trained, _, _ = training.trained_model(GAN, data, GANConfig(widths=(64, 32)), config, label="model")
    z = torch.randn(300, 2, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        made = trained.mean(z)
        untrained = GAN(GANConfig(widths=(64, 32)), generator=torch.Generator().manual_seed(0)).mean(z)
    one_image = data.train_images.mean(0).expand(300, -1)
    assert distance(made, data.train_images) < 0.5 * distance(one_image, data.train_images)
    assert distance(made, data.train_images) < 0.5 * distance(untrained, data.train_images)


# --- generators


class _Copies(nn.Module):
    """Gives back images, one after the other, whatever the latents are."""

    def __init__(self, images):
        super().__init__()
        self.images = images

    def forward(self, z):
        return self.images[torch.arange(len(z)) % len(self.images)]


@pytest.mark.smoke
@pytest.mark.parametrize("n_classes", [3, 7])
def test_classes_are_counted_among_what_is_generated(n_classes, tmp_path_factory):
    everything = bundled(tmp_path_factory, tuple(range(10)))
    model = GAN(SMALL[GAN])
    model.mean = _Copies(everything.train_images[everything.train_labels < n_classes])
    g = generators.mean_generator(everything, model)
    assert g.n_classes == n_classes
    assert g.collapsed == (n_classes < 5)
    assert g.train_latents.shape == (len(everything.train_images), 2)


@pytest.mark.smoke
def test_a_model_that_collapsed_is_trained_again_from_other_seeds(data, monkeypatch):
    seeds, counts = [], iter([1, 2, 9])

    def train(kind, data, config, training, *, device, label):
        seeds.append(training.seed)
        return GAN(config), [], None

    def encode(data, model):
        return generators.MeanGenerator(data, model, torch.zeros(3, 2), torch.zeros(3, 2), next(counts))

    monkeypatch.setattr("geolib.companion.models.recipes.trained_model", train)
    monkeypatch.setattr("geolib.companion.models.recipes.mean_generator", encode)
    ten = dataclasses.replace(data, classes=tuple(range(10)))
    chosen = MeanRecipe("gan", "GAN", lambda: ten, GAN, SMALL[GAN], BRIEF)
    found = chosen.mean_generator()
    assert (found.n_classes, found.n_collapsed, found.collapsed) == (9, 2, False)
    assert len(set(seeds)) == 3
    counts = iter([1] * 4)
    assert chosen.mean_generator().n_collapsed == 4  # at most three more, and it says so
    assert len(seeds) == 7


@pytest.mark.smoke
def test_recipes_of_the_report_have_its_layers_and_its_optimiser():
    for name, widths, activation in (
        ("ramirez_vae", (128, 32), "tanh"),
        ("ramirez_vae_wide", (256, 64), "tanh"),
        ("ramirez_vae_sigmoid", (128, 32), "sigmoid"),
        ("ramirez_dae", (128, 32), "sigmoid"),
        ("ramirez_gan", (128, 32), "tanh"),
    ):
        chosen = recipe(name)
        assert (chosen.model.widths, chosen.model.activation, chosen.model.latent_dim) == (widths, activation, 2)
        (group,) = chosen.training.optimizer([nn.Parameter(torch.zeros(1))]).param_groups
        assert (group["lr"], group["betas"]) == (1e-2, (0.5, 0.99))
        assert chosen.training.rate(0, 9) == chosen.training.rate(8, 9) == 1e-2
