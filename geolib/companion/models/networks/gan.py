"""A generative adversarial network: a generator that a critic cannot tell from the data."""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from geolib.companion.models.networks.schedule import Phase, Player, TrainingConfig
from geolib.companion.models.networks.vae import decoder, initialised, mlp


@dataclass(frozen=True)
class GANConfig:
    """Architecture of a generative adversarial network: widths are the critic's hidden layers, from data inward, and
    the generator's reversed."""

    data_dim: int = 784
    latent_dim: int = 2
    widths: tuple[int, ...] = (128, 32)
    activation: str = "tanh"
    penalty: float = 1.0
    """weight of the critic's squared slope at the data, without which a learning rate of 0.01 ends in few classes"""

    def as_dict(self) -> dict:
        """JSON values, for cache keys and files."""
        return {"architecture": "adversarial", **asdict(self), "widths": list(self.widths)}


class GAN(nn.Module):
    """A generator ``mean`` from standard normal latents to images, and the critic that trains it."""

    kind = "gan"

    def __init__(self, config: GANConfig, *, generator: torch.Generator | None = None):
        super().__init__()
        self.config = config
        inward = [config.data_dim, *config.widths]
        self.critic = nn.Sequential(*mlp(inward, config.activation), nn.Linear(inward[-1], 1))
        self.mean = decoder([config.latent_dim, *reversed(inward)], config.activation)
        initialised(self, generator)

    @property
    def noise_dim(self) -> int:
        """Draws per image."""
        return self.config.latent_dim

    def phases(self, training: TrainingConfig) -> tuple[Phase, ...]:
        """One phase of two players."""
        critic = Player(_critic_loss, list(self.critic.parameters()))
        return (Phase("adversarial", training.epochs, (critic, Player(_generator_loss, list(self.mean.parameters())))),)

    def fixed(self) -> "GAN":
        """Itself, ready to be measured."""
        return self.eval().requires_grad_(False)


def _critic_loss(model: GAN, x: Tensor, noise: Tensor) -> Tensor:
    """Goodfellow et al. 2014, with the gradient penalty R1 of Mescheder et al. 2018."""
    with torch.no_grad():
        fakes = model.mean(noise)
    x = x.detach().requires_grad_()
    real = model.critic(x)
    loss = softplus(-real) + softplus(model.critic(fakes))
    if model.config.penalty > 0:
        (slope,) = torch.autograd.grad(real.sum(), x, create_graph=True)
        loss = loss + model.config.penalty / 2 * slope.square().sum(-1, keepdim=True)
    return loss.squeeze(-1)


def _generator_loss(model: GAN, x: Tensor, noise: Tensor) -> Tensor:
    """Goodfellow et al. 2014, the form that does not saturate."""
    return softplus(-model.critic(model.mean(noise))).squeeze(-1)
