"""A denoising autoencoder: latents without a prior, a decoder without a variance."""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from geolib.companion.models.networks.schedule import Phase, Player, TrainingConfig
from geolib.companion.models.networks.vae import decoder, initialised, mlp


@dataclass(frozen=True)
class AutoencoderConfig:
    """Architecture of a denoising autoencoder: widths are the encoder's hidden layers, the decoder's reversed."""

    data_dim: int = 784
    latent_dim: int = 2
    widths: tuple[int, ...] = (128, 32)
    activation: str = "sigmoid"
    noise: float = 0.3
    """standard deviation of the noise that is added to the pixels and has to be removed"""

    def as_dict(self) -> dict:
        """JSON values, for cache keys and files."""
        return {"architecture": "denoising autoencoder", **asdict(self), "widths": list(self.widths)}


class Autoencoder(nn.Module):
    """An encoder and a decoder ``mean`` that give images back from noisy ones."""

    kind = "autoencoder"

    def __init__(self, config: AutoencoderConfig, *, generator: torch.Generator | None = None):
        super().__init__()
        self.config = config
        inward = [config.data_dim, *config.widths]
        self.body = nn.Sequential(*mlp(inward, config.activation), nn.Linear(inward[-1], config.latent_dim))
        self.mean = decoder([config.latent_dim, *reversed(inward)], config.activation)
        initialised(self, generator)

    @property
    def noise_dim(self) -> int:
        """Draws per image."""
        return self.config.data_dim

    def phases(self, training: TrainingConfig) -> tuple[Phase, ...]:
        """One phase."""
        return (Phase("reconstruction", training.epochs, (Player(_reconstruction, list(self.parameters())),)),)

    def fixed(self) -> "Autoencoder":
        """Itself, ready to be measured."""
        return self.eval().requires_grad_(False)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Latents ``(n, d)`` of images ``(n, D)`` without noise."""
        return torch.cat([self.body(part) for part in x.split(4096)])


def _reconstruction(model: Autoencoder, x: Tensor, noise: Tensor) -> Tensor:
    return (x - model.mean(model.body(x + model.config.noise * noise))).square().sum(-1)
