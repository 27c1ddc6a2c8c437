"""An importance-weighted autoencoder: a variational autoencoder trained on a tighter bound."""

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from geolib.companion.models.networks.schedule import Phase, Player, TrainingConfig
from geolib.companion.models.networks.vae import VAE, decoder, initialised, mlp

LIKELIHOODS = ("gaussian", "bernoulli")


@dataclass(frozen=True)
class IWAEConfig:
    """Architecture of an IWAE: widths are the encoder's hidden layers from data to latent, the decoder's reversed."""

    data_dim: int = 784
    latent_dim: int = 2
    widths: tuple[int, ...] = (256, 64)
    likelihood: str = "gaussian"
    """one of ``LIKELIHOODS``; data are in the unit cube for the first, and 0 or 1 for the second"""
    output_variance: float = 0.01
    """of the Gaussian likelihood, fixed; a Bernoulli likelihood has none"""
    n_importance: int = 5
    """K, posterior samples per image in training"""
    activation: str = "tanh"
    """one of ``vae.ACTIVATIONS``"""

    def __post_init__(self) -> None:
        if self.likelihood not in LIKELIHOODS:
            known = ", ".join(map(repr, LIKELIHOODS))
            raise ValueError(f"likelihood: got {self.likelihood!r}, expected one of {known}")
        if self.n_importance < 1:
            raise ValueError(f"n_importance: got {self.n_importance}, expected at least 1")

    def as_dict(self) -> dict:
        """JSON values, for cache keys and files."""
        return {"architecture": "importance weighted", **asdict(self), "widths": list(self.widths)}

    def parts(self, generator: torch.Generator | None) -> dict[str, nn.Module]:
        """The modules of an ``IWAE`` by name. Their initial weights are drawn from ``generator`` where there is one."""
        inward = [self.data_dim, *self.widths]
        parts = {
            "body": nn.Sequential(*mlp(inward, self.activation)),
            "latent_mean": nn.Linear(inward[-1], self.latent_dim),
            "latent_log_variance": nn.Linear(inward[-1], self.latent_dim),
            "mean": decoder([self.latent_dim, *reversed(inward)], self.activation),
        }
        for part in parts.values():
            initialised(part, generator)
        return parts


class IWAE(VAE):
    """A ``VAE`` without a variance network that is trained on the bound of K importance samples.

    ``mean`` gives pixels, or their probabilities where the likelihood is Bernoulli; ``logits`` is what is before its
    sigmoid.

    Source:
        Burda, Grosse & Salakhutdinov 2016; Chen et al. 2018, who use it with both likelihoods.
    """

    kind = "iwae"

    @property
    def noise_dim(self) -> int:
        """Draws per image in training: K latents."""
        return self.config.n_importance * self.config.latent_dim

    @property
    def logits(self) -> nn.Sequential:
        """``mean`` without its sigmoid, ``z (..., d) -> (..., D)``."""
        return self.mean[:-1]

    def phases(self, training: TrainingConfig) -> tuple[Phase, ...]:
        """One phase, on the bound."""
        return (Phase("bound", training.epochs, (Player(_negative_bound, list(self.parameters())),)),)


def log_weights(model: IWAE, x: Tensor, noise: Tensor) -> Tensor:
    r"""Logarithms of the importance weights :math:`w_k = p(x \mid z_k) p(z_k) / q(z_k \mid x)`.

    Args:
        model: decoder p and encoder q.
        x: data ``(n, D)``.
        noise: standard normal draws ``(n, K, d)``, from which the encoder makes z.

    Returns:
        ``(n, K)``, in nats and with all constants.
    """
    mean, log_variance = (part.unsqueeze(1) for part in model.posterior(x))
    z = mean + torch.exp(0.5 * log_variance) * noise
    # both normal densities have the same constant
    against_prior = 0.5 * (noise.square() + log_variance - z.square()).sum(-1)
    return _log_likelihood(model, x.unsqueeze(1), z) + against_prior


def bound(model: IWAE, x: Tensor, noise: Tensor) -> Tensor:
    r"""One draw of the importance-weighted bound :math:`\log \frac{1}{K} \sum_k w_k` of each row of ``x``.

    Its expectation over the noise is the evidence lower bound for K = 1, never falls with K, and goes to
    :math:`\log p(x)`.

    Args:
        model: as for ``log_weights``.
        x: data ``(n, D)``.
        noise: standard normal draws ``(n, K, d)``; K need not be that of the training.

    Returns:
        ``(n,)``, in nats.

    Source:
        Burda, Grosse & Salakhutdinov 2016, Eq. 8 and Theorem 1; Chen et al. 2018.
    """
    return torch.logsumexp(log_weights(model, x, noise), dim=1) - math.log(noise.shape[1])


def _log_likelihood(model: IWAE, x: Tensor, z: Tensor) -> Tensor:
    """log p(x | z) ``(n, K)`` of ``x (n, 1, D)`` and ``z (n, K, d)``."""
    if model.config.likelihood == "bernoulli":
        logits = model.logits(z)
        return (x * logits - softplus(logits)).sum(-1)
    variance = model.config.output_variance
    constant = x.shape[-1] * math.log(2 * math.pi * variance)
    return -0.5 * ((x - model.mean(z)).square().sum(-1) / variance + constant)


def _negative_bound(model: IWAE, x: Tensor, noise: Tensor) -> Tensor:
    return -bound(model, x, noise.unflatten(1, (model.config.n_importance, model.config.latent_dim)))
