"""networks: a variance that is learned with the mean, and a training that asks for an isometry."""

import dataclasses
import math

import pytest
import torch
from project import bundled, interrupted_training
from torch.distributions import Normal, kl_divergence

from geolib import PullbackMetric
from geolib.companion.models import training
from geolib.companion.models.networks import isometric, learned_variance, schedule
from geolib.companion.models.networks.isometric import IsometricConfig, IsometricVAE, distortion
from geolib.companion.models.networks.learned_variance import LearnedVarianceConfig, LearnedVarianceVAE
from geolib.companion.models.networks.vae import negative_elbo

pytestmark = pytest.mark.smoke

LEARNED = LearnedVarianceConfig(widths=(24, 12))
BRIEF = schedule.ConstantFilledTraining(epochs=7, batch_size=64, learning_rate=1e-3, filled_to=500, seed=3)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    found = bundled(tmp_path_factory, (0, 1, 7))
    return dataclasses.replace(found, train_images=found.train_images[:300], train_labels=found.train_labels[:300])


@pytest.fixture
def derived(monkeypatch, tmp_path):
    monkeypatch.setenv("GEOLIB_DERIVED", str(tmp_path / "derived"))
    return tmp_path / "derived"


# --- the variational autoencoder of Table 1


def test_its_layers_are_those_of_the_table():
    vae = LearnedVarianceVAE(LearnedVarianceConfig())
    sizes = {tuple(p.shape) for name, p in vae.named_parameters() if name.endswith("weight")}
    assert sizes == {(64, 784), (32, 64), (2, 32), (32, 2), (64, 32), (784, 64)}
    assert len([name for name, _ in vae.named_parameters() if name.endswith("weight")]) == 8


def test_no_variance_is_below_one(data, generator):
    vae = LearnedVarianceVAE(LEARNED, generator=generator)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.mul_(5.0)
        std = vae.std(10 * torch.randn(200, 2, generator=generator))
        _, log_variance = vae.posterior(data.train_images)
    assert float(std.min()) >= 1
    assert float(std.max()) > 1.5
    assert float(log_variance.min()) >= 0


def test_a_deviation_stays_finite_wherever_it_is_asked_for(generator):
    vae = LearnedVarianceVAE(LEARNED, generator=generator)
    with torch.no_grad():
        for parameter in vae.std_head.parameters():
            parameter.mul_(1e6)
        std = vae.std(1e3 * torch.randn(100, 2, generator=generator))
    assert bool(torch.isfinite(std).all())


def test_mean_and_deviation_share_their_hidden_layers(generator):
    vae = LearnedVarianceVAE(LEARNED, generator=generator).eval().requires_grad_(False)
    z = torch.randn(5, 2, generator=generator)
    before = vae.std(z)
    vae.mean[0].weight.add_(0.1)
    assert not torch.equal(vae.std(z), before)
    # both maps give a metric, as any two maps do
    M = PullbackMetric(vae.mean, vae.std)(z)
    J_mean, J_std = (torch.func.vmap(torch.func.jacfwd(part))(z) for part in (vae.mean, vae.std))
    torch.testing.assert_close(M, J_mean.mT @ J_mean + J_std.mT @ J_std, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_its_loss_is_the_likelihood_and_the_weighed_divergence(data, generator, weight):
    vae = LearnedVarianceVAE(LEARNED, generator=generator).requires_grad_(False)
    vae.divergence_weight = weight
    x, noise = data.train_images[:9], torch.randn(9, 2, generator=generator)
    mean, log_variance = vae.posterior(x)
    q = Normal(mean, (log_variance / 2).exp())
    z = mean + q.scale * noise
    likelihood = Normal(vae.mean(z), vae.std(z)).log_prob(x) + math.log(2 * math.pi) / 2
    expected = -likelihood.sum(-1) + weight * kl_divergence(q, Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(learned_variance._negative_elbo(vae, x, noise), expected, rtol=1e-5, atol=1e-3)


def test_the_divergence_counts_for_more_and_more_over_the_first_third(monkeypatch, data, derived):
    seen = []

    def loss(vae, x, noise):
        if vae.training:
            seen.append(vae.divergence_weight)
        return original(vae, x, noise)

    original = learned_variance._negative_elbo
    monkeypatch.setattr(learned_variance, "_negative_elbo", loss)
    training.trained_vae(data, LEARNED, dataclasses.replace(BRIEF, epochs=9, filled_to=1))
    assert list(dict.fromkeys(seen)) == pytest.approx([1 / 3, 2 / 3, 1])
    assert seen.count(1.0) == 7 * seen.count(seen[0])


def test_a_killed_training_of_a_learned_variance_ends_with_the_same_weights(monkeypatch, tmp_path, data):
    found = []
    for place, number in (("whole", None), ("interrupted", 3)):
        monkeypatch.setenv("GEOLIB_DERIVED", str(tmp_path / place))
        if number is not None:  # while the weight still rises
            interrupted_training(number, lambda: training.trained_vae(data, LEARNED, BRIEF))
        found.append(training.trained_vae(data, LEARNED, BRIEF))
    a, b = (one.vae.state_dict() for one in found)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert found[0].history == found[1].history
    assert isinstance(found[0].vae, LearnedVarianceVAE)
    assert found[0].path.read_bytes() == found[1].path.read_bytes()


def test_an_epoch_goes_several_times_through_few_images(monkeypatch, data, derived):
    rows = []

    def loss(vae, x, noise):
        if vae.training:
            rows.append(x)
        return original(vae, x, noise)

    original = learned_variance._negative_elbo
    monkeypatch.setattr(learned_variance, "_negative_elbo", loss)
    vae = training.trained_vae(data, LEARNED, dataclasses.replace(BRIEF, epochs=1, filled_to=700))
    assert [len(batch) for batch in rows] == [64] * 10 + [60]  # whole batches but for the last
    images = torch.cat(rows)
    # a tenth of 300 is held out; none comes a third time before all have come twice
    assert images.unique(dim=0, return_counts=True)[1].sort().values.tolist() == [2] * 110 + [3] * 160
    assert images[:540].unique(dim=0, return_counts=True)[1].tolist() == [2] * 270
    assert math.isfinite(vae.history[0]["training"])


@pytest.mark.parametrize(("n", "length"), [(16200, 16200), (20000, 20000), (215, 16200)])
def test_an_epoch_leaves_no_image_out(n, length):
    order = schedule.FilledTraining(filled_to=16200).order(n, torch.Generator().manual_seed(0))
    assert len(order) == length
    assert order.unique().tolist() == list(range(n))


def test_filling_takes_the_draws_of_an_epoch_without_it():
    orders = [
        kind.order(300, torch.Generator().manual_seed(2))
        for kind in (schedule.FilledTraining(filled_to=300), schedule.TrainingConfig())
    ]
    assert torch.equal(*orders)


def test_a_constant_rate_stays_one_where_epochs_are_filled():
    assert [BRIEF.rate(epoch, 7) for epoch in range(7)] == [1e-3] * 7
    assert schedule.FilledTraining(learning_rate=1e-3).rate(3, 7) == schedule.TrainingConfig().rate(3, 7)
    assert BRIEF.optimizer([torch.nn.Parameter(torch.ones(1))]).defaults["betas"] == (0.9, 0.999)


# --- the isometric regulariser


def test_distortion_is_the_variation_of_the_eigenvalues(generator):
    A = torch.randn(40, 2, 3, generator=generator, dtype=torch.float64)
    M = A @ A.mT
    eigenvalues = torch.linalg.eigvalsh(M).flatten()
    expected = float(eigenvalues.var(correction=0) / eigenvalues.mean().square())
    assert float(distortion(M)) == pytest.approx(expected, rel=1e-9)
    assert float(distortion(7 * M)) == pytest.approx(expected, rel=1e-9)
    assert float(distortion(torch.eye(2).expand(5, 2, 2) * 3)) == pytest.approx(0, abs=1e-6)


def test_its_loss_is_that_of_a_vae_and_the_weighed_distortion(data, generator):
    vae = IsometricVAE(IsometricConfig(widths=(24, 12), weight=0.0), generator=generator).requires_grad_(False)
    x, noise = data.train_images[:20], torch.randn(20, 3, generator=generator)
    plain = isometric._regularised(vae, x, noise)
    torch.testing.assert_close(plain, negative_elbo(vae, x, noise[:, :-1]))
    vae.config = dataclasses.replace(vae.config, weight=5.0)
    more = isometric._regularised(vae, x, noise) - plain
    torch.testing.assert_close(more, more[:1].expand(20), rtol=1e-4, atol=1e-4)
    assert float(more[0]) > 0


def test_the_regulariser_has_a_gradient_in_the_decoder(data, generator):
    vae = IsometricVAE(IsometricConfig(widths=(24, 12)), generator=generator).double()
    z = torch.randn(20, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = vae.mean[0].weight
    (slope,) = torch.autograd.grad(distortion(PullbackMetric(vae.mean)(z)), weight)
    step = 1e-6
    with torch.no_grad():
        values = []
        for sign in (1, -1):
            weight[3, 1] += sign * step
            values.append(float(distortion(PullbackMetric(vae.mean)(z))))
            weight[3, 1] -= sign * step
    assert float(slope[3, 1]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5)


def test_a_stronger_regulariser_trains_a_more_isometric_decoder(data, derived):
    found = {}
    for weight in (0.0, 1000.0):
        config = IsometricConfig(widths=(24, 12), weight=weight)
        brief = schedule.TrainingConfig(epochs=15, variance_epochs=1, batch_size=64, learning_rate=5e-3)
        vae = training.trained_vae(data, config, brief).vae
        assert isinstance(vae, IsometricVAE)
        found[weight] = float(distortion(PullbackMetric(vae.mean)(vae.encode(data.test_images))))
    assert found[1000.0] < found[0.0] / 2
