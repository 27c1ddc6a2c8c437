"""A variational autoencoder that is asked to keep distances: an isometric regulariser beside its loss."""

from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from geolib import PullbackMetric
from geolib.companion.models.networks.schedule import Phase, Player, TrainingConfig
from geolib.companion.models.networks.vae import VAE, VAEConfig, negative_elbo_of


@dataclass(frozen=True)
class IsometricConfig(VAEConfig):
    """A ``VAEConfig`` with the weight of the regulariser."""

    weight: float = 1.0
    """nats per image and unit of ``distortion``"""
    overshoot: float = 0.2
    """how far beyond two latents the points between them reach, at which the metric is looked at, as a share"""
    every: int = 4
    """of the images of a batch every so many-th has such a point, as metrics cost more than the loss"""

    def as_dict(self) -> dict:
        """JSON values, for cache keys and files."""
        return {"architecture": "isometric", **asdict(self), "widths": list(self.widths)}


class IsometricVAE(VAE):
    """A ``VAE`` that is trained with the regulariser."""

    @property
    def noise_dim(self) -> int:
        """Draws per image: for its latent, and for where the metric is looked at."""
        return self.config.latent_dim + 1

    def phases(self, training: TrainingConfig) -> tuple[Phase, ...]:
        """Those of a ``VAE``, the first with the regulariser."""
        elbo, variance = super().phases(training)
        (player,) = elbo.players
        (std,) = variance.players
        without = Player(lambda vae, x, noise: std.loss(vae, x, noise[:, :-1]), std.parameters)
        regularised = Player(_regularised, player.parameters)
        return replace(elbo, players=(regularised,)), replace(variance, players=(without,))


def distortion(M: Tensor) -> Tensor:
    r"""How far metric tensors ``(n, d, d)`` are from one multiple of the identity, a scalar.

    .. math:: d \, \frac{E[\operatorname{tr} M^2]}{E[\operatorname{tr} M]^2} - 1

    is the squared coefficient of variation of all eigenvalues over all points: 0 for an isometry up to scale.

    Source:
        Lee et al. 2022, the relaxed distortion measure, without their factor and shift.
    """
    traces = M.diagonal(dim1=-2, dim2=-1).sum(-1)
    return M.shape[-1] * M.square().sum((-2, -1)).mean() / traces.mean().square() - 1


def _regularised(vae: IsometricVAE, x: Tensor, noise: Tensor) -> Tensor:
    posterior = vae.posterior(x)
    loss = negative_elbo_of(vae, x, posterior, noise[:, :-1])
    mean, _ = posterior
    # points on the lines between latents and a little beyond; a normal draw becomes an even one
    share = torch.special.ndtr(noise[:, -1:]) * (1 + 2 * vae.config.overshoot) - vae.config.overshoot
    z = torch.lerp(mean, mean.roll(1, 0), share)[:: vae.config.every]
    return loss + vae.config.weight * distortion(PullbackMetric(vae.mean)(z))
