"""iwae: the bound of an importance-weighted autoencoder, its two likelihoods, and its training."""

import dataclasses
import itertools
import math

import pytest
import torch
from project import bundled
from torch import nn
from torch.distributions import Bernoulli, MultivariateNormal, Normal, kl_divergence

from geolib.companion.models.networks.iwae import IWAE, LIKELIHOODS, IWAEConfig, bound, log_weights
from geolib.companion.models.networks.schedule import TrainingConfig
from geolib.companion.models.training import trained_model

pytestmark = pytest.mark.smoke

BRIEF = TrainingConfig(epochs=6, batch_size=64, learning_rate=3e-3, seed=3)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    found = bundled(tmp_path_factory, (0, 1, 7))
    binary = {f"{part}_images": (getattr(found, f"{part}_images")[:300] > 0.5).float() for part in ("train", "test")}
    labels = {f"{part}_labels": getattr(found, f"{part}_labels")[:300] for part in ("train", "test")}
    return dataclasses.replace(found, name="binary", **binary, **labels)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEOLIB_DERIVED", str(tmp_path_factory.mktemp("derived")))
        for likelihood in LIKELIHOODS:
            config = IWAEConfig(widths=(32, 16), likelihood=likelihood, output_variance=0.05)
            found[likelihood] = trained_model(IWAE, data, config, BRIEF, label="IWAE")
    return found


class Linear(IWAE):
    """x = W z + b with Gaussian noise, for which everything is known."""

    def __init__(self, generator, *, data_dim=4, variance=0.3):
        config = IWAEConfig(data_dim=data_dim, widths=(3,), output_variance=variance)
        super().__init__(config, generator=generator)
        self.body = nn.Identity()
        self.latent_mean = nn.Linear(data_dim, 2)
        self.latent_log_variance = nn.Linear(data_dim, 2)
        self.mean = nn.Sequential(nn.Linear(2, data_dim))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(std=0.4, generator=generator)
        self.double().requires_grad_(False)

    @property
    def evidence(self):
        W, b = self.mean[0].weight, self.mean[0].bias
        return MultivariateNormal(b, W @ W.T + self.config.output_variance * torch.eye(len(b), dtype=b.dtype))

    def with_its_posterior(self):
        """The same generator with p(z | x) as its encoder."""
        W, b = self.mean[0].weight, self.mean[0].bias
        # orthogonal columns, so that the posterior has a diagonal covariance as the encoder's
        W.copy_(torch.linalg.qr(W).Q * torch.tensor([1.5, 0.7]))
        precision = torch.eye(2, dtype=W.dtype) + W.T @ W / self.config.output_variance
        self.latent_mean.weight.copy_(torch.linalg.solve(precision, W.T / self.config.output_variance))
        self.latent_mean.bias.copy_(-self.latent_mean.weight @ b)
        self.latent_log_variance.weight.zero_()
        self.latent_log_variance.bias.copy_(-precision.diagonal().log())
        return self


def draws(n, K, generator):
    return torch.randn(n, K, 2, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_weights_are_the_ratio_of_densities(trained, data, generator, likelihood):
    model, *_ = trained[likelihood]
    x, noise = data.test_images[:7], torch.randn(7, 3, 2, generator=generator)
    mean, log_variance = model.posterior(x)
    q = Normal(mean[:, None], (log_variance / 2).exp()[:, None])
    z = q.mean + q.scale * noise
    output = model.mean(z)
    p = Normal(output, 0.05**0.5) if likelihood == "gaussian" else Bernoulli(output)
    expected = p.log_prob(x[:, None]).sum(-1) + Normal(0.0, 1.0).log_prob(z).sum(-1) - q.log_prob(z).sum(-1)
    torch.testing.assert_close(log_weights(model, x, noise), expected, rtol=1e-5, atol=1e-2)


def test_one_sample_gives_the_evidence_lower_bound(generator):
    model = Linear(generator)
    x = model.evidence.sample((5,))
    mean, log_variance = model.posterior(x)
    q = Normal(mean, (log_variance / 2).exp())
    # the expected misfit of a linear map is known: that of the mean, and the trace
    W = model.mean[0].weight
    spread = (q.variance[:, None] * W.square()).sum((1, 2))
    misfit = ((x - model.mean(mean)).square().sum(-1) + spread) / model.config.output_variance
    constant = 4 * math.log(2 * math.pi * model.config.output_variance)
    elbo = -0.5 * (misfit + constant) - kl_divergence(q, Normal(0.0, 1.0)).sum(-1)
    n = 40000
    found = bound(model, x.repeat_interleave(n, 0), draws(5 * n, 1, generator)).reshape(5, n)
    error = found.std(-1) / math.sqrt(n)
    assert float(((found.mean(-1) - elbo) / error).abs().max()) < 4


def test_with_the_true_posterior_one_sample_is_enough(generator):
    model = Linear(generator).with_its_posterior()
    x = model.evidence.sample((5,))
    torch.testing.assert_close(bound(model, x, draws(5, 1, generator)), model.evidence.log_prob(x))


def test_many_samples_reach_the_evidence(generator):
    model = Linear(generator).with_its_posterior()
    model.latent_log_variance.bias.add_(1.0)
    x = model.evidence.sample((50,))
    gaps = []
    for K in (1, 10, 2000):
        found = torch.stack([bound(model, x, draws(50, K, generator)) for _ in range(20)])
        gaps.append(float((model.evidence.log_prob(x) - found).mean()))
    assert gaps[0] > 5 * gaps[1] > 0
    assert abs(gaps[2]) < 0.002 < gaps[1]


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_the_bound_tightens_with_more_samples_on_held_out_data(trained, data, generator, likelihood):
    model, *_ = trained[likelihood]
    x = data.test_images[:60]
    means = []
    for K in (1, 5, 50):
        found = torch.stack([bound(model, x, torch.randn(len(x), K, 2, generator=generator)) for _ in range(20)])
        means.append((float(found.mean()), float(found.mean(1).std()) / math.sqrt(20)))
    for (low, low_error), (high, high_error) in itertools.pairwise(means):
        assert high - low > 3 * math.hypot(low_error, high_error)


def test_a_bound_of_many_samples_is_their_mean_weight(generator):
    model = Linear(generator)
    x, noise = model.evidence.sample((6,)), draws(6, 8, generator)
    expected = log_weights(model, x, noise).exp().mean(1).log()
    torch.testing.assert_close(bound(model, x, noise), expected)
    torch.testing.assert_close(bound(model, x, noise.flip(1)), expected)


def test_training_raises_the_bound(trained, data, generator):
    for likelihood, (model, history, path) in trained.items():
        assert {entry["phase"] for entry in history} == {"bound"}
        assert history[-1]["validation"] < history[0]["validation"]
        untrained = IWAE(model.config, generator=generator)
        noise = torch.randn(len(data.test_images), 5, 2, generator=generator)
        with torch.no_grad():
            assert float(bound(model, data.test_images, noise).mean()) > float(
                bound(untrained, data.test_images, noise).mean()
            ), likelihood
        assert path.name.startswith("iwae-")


def test_probabilities_are_the_sigmoid_of_logits(trained, generator):
    model, *_ = trained["bernoulli"]
    z = torch.randn(9, 2, generator=generator)
    torch.testing.assert_close(model.mean(z), torch.sigmoid(model.logits(z)))
    assert not hasattr(model, "std")


def test_settings_that_there_are_not():
    with pytest.raises(ValueError, match="likelihood: got 'poisson', expected one of 'gaussian', 'bernoulli'"):
        IWAEConfig(likelihood="poisson")
    with pytest.raises(ValueError, match="n_importance: got 0, expected at least 1"):
        IWAEConfig(n_importance=0)
