"""Generative models as plain modules."""

import itertools
import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class VAEConfig:
    """Architecture of a VAE: widths are the encoder's hidden layers from data to latent, the decoder's reversed."""

    data_dim: int = 784
    latent_dim: int = 2
    widths: tuple[int, ...] = (256, 64)
    output_variance: float = 0.5
    """variance of the Gaussian likelihood while the mean is trained"""

    def as_dict(self) -> dict:
        """JSON values, for cache keys and files."""
        return {**asdict(self), "widths": list(self.widths)}


def _mlp(sizes: list[int]) -> list[nn.Module]:
    # tanh: the metric's derivatives exist everywhere, which the geodesic equation asks for
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    return layers


class _Exponential(nn.Module):
    """A log-variance to a standard deviation, bounded so that neither it nor its inverse overflows float32."""

    def forward(self, log_variance: Tensor) -> Tensor:
        return torch.exp(0.5 * log_variance.clamp(-14.0, 14.0))


class VAE(nn.Module):
    """A variational autoencoder with Gaussian posterior, Gaussian likelihood and smooth activations.

    ``mean`` and ``std`` are the two maps ``z (..., d) -> (..., D)`` that a ``PullbackMetric`` takes.
    """

    def __init__(self, config: VAEConfig, *, generator: torch.Generator | None = None):
        super().__init__()
        self.config = config
        inward = [config.data_dim, *config.widths]
        outward = [config.latent_dim, *reversed(config.widths)]
        self.body = nn.Sequential(*_mlp(inward))
        self.latent_mean = nn.Linear(inward[-1], config.latent_dim)
        self.latent_log_variance = nn.Linear(inward[-1], config.latent_dim)
        self.mean = nn.Sequential(*_mlp(outward), nn.Linear(outward[-1], config.data_dim), nn.Sigmoid())
        narrow = config.widths[-1]  # on purpose: a variance head as wide as the mean's learns the training set's noise
        self.std = nn.Sequential(*_mlp([config.latent_dim, narrow]), nn.Linear(narrow, config.data_dim), _Exponential())
        if generator is not None:
            for layer in self.modules():
                if isinstance(layer, nn.Linear):
                    bound = math.sqrt(6 / (layer.in_features + layer.out_features))
                    nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
                    nn.init.zeros_(layer.bias)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance ``(n, d)`` of q(z | x)."""
        hidden = self.body(x)
        return self.latent_mean(hidden), self.latent_log_variance(hidden)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Posterior means ``(n, d)`` of images ``(n, D)``."""
        return torch.cat([self.posterior(part)[0] for part in x.split(4096)])


def negative_elbo(vae: VAE, x: Tensor, noise: Tensor) -> Tensor:
    """The negative evidence lower bound of each row of ``x``, up to a constant, with one posterior sample: ``(n,)``."""
    mean, log_variance = vae.posterior(x)
    z = mean + torch.exp(0.5 * log_variance) * noise
    reconstruction = (x - vae.mean(z)).square().sum(-1) / (2 * vae.config.output_variance)
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)
    return reconstruction + divergence


def negative_log_likelihood(vae: VAE, x: Tensor, noise: Tensor) -> Tensor:
    """The variance head's loss, mean and encoder given: ``(n,)``, up to a constant."""
    with torch.no_grad():
        mean, log_variance = vae.posterior(x)
        z = mean + torch.exp(0.5 * log_variance) * noise
        squared = (x - vae.mean(z)).square()
    std = vae.std(z)
    return (std.log() + squared / (2 * std.square())).sum(-1)


def n_parameters(vae: VAE) -> int:
    """How many numbers training sets."""
    return sum(p.numel() for p in vae.parameters())
