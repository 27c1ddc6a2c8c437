"""A variational autoencoder that learns the mean and the variance of its likelihood together."""

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from geolib.companion.models.networks.schedule import Phase, Player, TrainingConfig
from geolib.companion.models.networks.vae import VAE, Exponential, decoder, divergence, drawn, initialised, mlp


@dataclass(frozen=True)
class LearnedVarianceConfig:
    """The architecture of Danielou et al. 2024, Table 1.

    Both log variances, of the posterior and of the likelihood, come out of a softplus: no variance is below 1.
    """

    data_dim: int = 784
    latent_dim: int = 2
    widths: tuple[int, ...] = (64, 32)
    activation: str = "tanh"
    rise: float = 1 / 3
    """share of the training in which the weight of the divergence from the prior rises to 1"""

    def as_dict(self) -> dict:
        """JSON values, for cache keys and files."""
        return {"architecture": "learned variance", **asdict(self), "widths": list(self.widths)}

    def parts(self, generator: torch.Generator | None) -> dict[str, nn.Module]:
        """The modules of a ``LearnedVarianceVAE`` by name. Their initial weights are drawn from ``generator``."""
        inward = [self.data_dim, *self.widths]
        outward = [self.latent_dim, *reversed(self.widths), self.data_dim]
        parts = {
            "body": nn.Sequential(*mlp(inward, self.activation)),
            "latent_mean": nn.Linear(inward[-1], self.latent_dim),
            "latent_log_variance": nn.Sequential(nn.Linear(inward[-1], self.latent_dim), nn.Softplus()),
            "mean": decoder(outward, self.activation),
            "std_head": nn.Sequential(nn.Linear(outward[-2], self.data_dim), nn.Softplus(), Exponential()),
        }
        for part in parts.values():
            initialised(part, generator)
        return parts


class LearnedVarianceVAE(VAE):
    """A ``VAE`` whose ``std`` shares the hidden layers of ``mean`` and is trained with it."""

    divergence_weight = 1.0

    @property
    def std(self) -> nn.Sequential:
        """Latents to standard deviations, none of them below 1."""
        return nn.Sequential(*self.mean[:-2], *self.std_head)

    def phases(self, training: TrainingConfig) -> tuple[Phase, ...]:
        """One phase, in which the divergence from the prior counts for more and more."""
        everything = Player(_negative_elbo, list(self.parameters()))
        return (Phase("elbo", training.epochs, (everything,), before_epoch=_weigh_divergence),)


def _weigh_divergence(vae: LearnedVarianceVAE, epoch: int, epochs: int) -> None:
    rising = max(1, math.ceil(vae.config.rise * epochs))
    vae.divergence_weight = min(1.0, (epoch + 1) / rising)


def _negative_elbo(vae: LearnedVarianceVAE, x: Tensor, noise: Tensor) -> Tensor:
    posterior = vae.posterior(x)
    hidden = vae.mean[:-2](drawn(posterior, noise))
    before = vae.std_head[0](hidden)
    # exp(-softplus(h)) is sigmoid(-h): half the time of a standard deviation, its logarithm and a quotient
    squared = (x - vae.mean[-2:](hidden)).square() * torch.sigmoid(-before)
    misfit = (softplus(before) + squared).sum(-1) / 2
    return misfit + vae.divergence_weight * divergence(posterior)
