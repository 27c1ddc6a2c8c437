"""Several decoders for the latents of one encoder, each trained from its own initial weights."""

import functools
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn

from geolib import ensemble
from geolib.companion.data.datasets import ImageData
from geolib.companion.models.networks.schedule import Phase, Player, TrainingConfig
from geolib.companion.models.networks.vae import VAE, VAEConfig, decoder, drawn, initialised
from geolib.variance import Ensemble


@dataclass(frozen=True)
class DecodersConfig:
    """Decoders with the architecture of a VAE's own."""

    vae: VAEConfig
    n_members: int = 8

    def as_dict(self) -> dict:
        """JSON values, for cache keys and files."""
        return {"architecture": "decoders", **asdict(self), "vae": self.vae.as_dict()}


@torch.no_grad()
def encoded(data: ImageData, vae: VAE, name: str) -> ImageData:
    """The same data, each training image with the mean and the log-variance of its latent behind its pixels.

    Args:
        data: what the VAE was trained on.
        vae: with the encoder.
        name: that of the VAE's file, which the decoders' own will depend on.
    """
    device = next(vae.parameters()).device
    posteriors = [torch.cat(vae.posterior(x.to(device)), dim=-1).cpu() for x in data.train_images.split(4096)]
    rows = torch.cat([data.train_images, torch.cat(posteriors)], dim=-1)
    return replace(data, train_images=rows, checksums={**data.checksums, "encoder": name})


class Decoders(nn.Module):
    """K decoders that see the same batches. Initial weights and draws of latents are each one's own."""

    kind = "decoders"

    def __init__(self, config: DecodersConfig, *, generator: torch.Generator | None = None):
        super().__init__()
        self.config = config
        sizes = [config.vae.latent_dim, *reversed(config.vae.widths), config.vae.data_dim]
        self.members = nn.ModuleList(decoder(sizes, config.vae.activation) for _ in range(config.n_members))
        initialised(self, generator)

    @property
    def noise_dim(self) -> int:
        """Draws per image and member."""
        return self.config.vae.latent_dim

    def phases(self, training: TrainingConfig) -> tuple[Phase, ...]:
        """One phase, in which every member takes a step on each batch."""
        players = [Player(functools.partial(_misfit, k), list(f.parameters())) for k, f in enumerate(self.members)]
        return (Phase("reconstruction", training.epochs, tuple(players)),)

    def fixed(self) -> "Decoders":
        """Itself, ready to be measured: in evaluation mode, without gradients."""
        return self.eval().requires_grad_(False)

    def ensemble(self) -> Ensemble:
        """The members as one immersion."""
        return ensemble(self.members)


def _misfit(k: int, model: Decoders, rows: Tensor, noise: Tensor) -> Tensor:
    """The part of the negative evidence lower bound ``(n,)`` that depends on member k, for rows of ``encoded``."""
    config = model.config.vae
    x, mean, log_variance = rows.split([config.data_dim, config.latent_dim, config.latent_dim], dim=-1)
    images = model.members[k](drawn((mean, log_variance), noise))
    return (x - images).square().sum(-1) / (2 * config.output_variance)
