"""Generative models as plain modules."""

import copy
import itertools
import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import fusion, parametrize
from torch.nn.utils.parametrizations import spectral_norm

from geolib.companion.models.networks.schedule import Phase, Player, TrainingConfig

# smooth: the metric's derivatives exist everywhere, which the geodesic equation asks for
ACTIVATIONS = {"tanh": nn.Tanh, "sigmoid": nn.Sigmoid}


@dataclass(frozen=True)
class VAEConfig:
    """Architecture of a VAE: widths are the encoder's hidden layers from data to latent, the decoder's reversed."""

    data_dim: int = 784
    latent_dim: int = 2
    widths: tuple[int, ...] = (256, 64)
    output_variance: float = 0.5
    """variance of the Gaussian likelihood while the mean is trained"""
    activation: str = "tanh"
    """one of ``ACTIVATIONS``"""

    def as_dict(self) -> dict:
        """JSON values, for cache keys and files."""
        return {**asdict(self), "widths": list(self.widths)}

    def parts(self, generator: torch.Generator | None) -> dict[str, nn.Module]:
        """The modules of a ``VAE`` by name. Their initial weights are drawn from ``generator`` where there is one."""
        inward = [self.data_dim, *self.widths]
        outward = [self.latent_dim, *reversed(self.widths), self.data_dim]
        parts = {
            "body": nn.Sequential(*mlp(inward, self.activation)),
            "latent_mean": nn.Linear(inward[-1], self.latent_dim),
            "latent_log_variance": nn.Linear(inward[-1], self.latent_dim),
            "mean": decoder(outward, self.activation),
            # narrow on purpose: a variance head as wide as the mean's learns the training set's noise
            "std": _variance_head(self.latent_dim, self.widths[-1], self.data_dim),
        }
        for part in parts.values():
            initialised(part, generator)
        return parts


@dataclass(frozen=True)
class ConvolutionalVAEConfig:
    """The architecture in the code of Michelis & Becker 2021: convolutions with spectral norm, batch norm and ELU.

    The networks see pixels on [-1, 1] inside. Outside they are on [0, 1], as everywhere in this project.
    """

    latent_dim: int = 2
    channels: int = 32
    output_variance: float = math.exp(0.5) / 4
    """of the Gaussian likelihood on [0, 1]: a log-variance of 0.5 on [-1, 1]"""
    variance_width: int = 64
    """of the variance network, which their code does not have: ours, for the same lessons"""

    def as_dict(self) -> dict:
        """JSON values, for cache keys and files."""
        return {"architecture": "convolutional", **asdict(self)}

    def parts(self, generator: torch.Generator | None) -> dict[str, nn.Module]:
        """The modules of a ``VAE`` by name. Their initial weights are drawn from ``generator`` where there is one."""
        with torch.random.fork_rng(devices=[]):  # layers draw their weights from torch's own generator
            if generator is not None:
                torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
            encoder = nn.Sequential(
                nn.Unflatten(1, (1, 28, 28)),
                _rescaled(2.0, -1.0),
                *_block(nn.Conv2d(1, self.channels, 4, stride=2)),
                *_block(nn.Conv2d(self.channels, self.channels, 3, stride=2)),
                nn.Flatten(),
            )
            return {
                "body": encoder,
                "latent_mean": nn.Linear(self.channels * 6 * 6, self.latent_dim),
                "latent_log_variance": nn.Linear(self.channels * 6 * 6, self.latent_dim),
                "mean": convolutional_decoder(self.latent_dim, self.channels),
                "std": _variance_head(self.latent_dim, self.variance_width, 28 * 28),
            }


def convolutional_decoder(latent_dim: int, channels: int = 32, *, spectral: bool = True) -> nn.Sequential:
    """Latents ``(n, d)`` to pixels ``(n, 784)`` on [0, 1], as in the code of Michelis & Becker 2021.

    Args:
        latent_dim: d.
        channels: of both transposed convolutions.
        spectral: whether the transposed convolutions are divided by their spectral norm.
    """
    return nn.Sequential(
        nn.Linear(latent_dim, channels * 6 * 6),
        nn.Unflatten(1, (channels, 6, 6)),
        *_block(nn.ConvTranspose2d(channels, channels, 3, stride=2), spectral=spectral),
        *_block(nn.ConvTranspose2d(channels, channels, 4, stride=2), spectral=spectral),
        nn.Conv2d(channels, 1, 1),
        nn.Tanh(),
        _rescaled(0.5, 0.5),
        nn.Flatten(),
    )


def _block(convolution: nn.Module, *, spectral: bool = True) -> list[nn.Module]:
    normed = spectral_norm(convolution) if spectral else convolution
    return [normed, nn.BatchNorm2d(convolution.out_channels), nn.ELU()]


def _rescaled(scale: float, shift: float) -> nn.Conv2d:
    """Other units for grey levels, as a layer that nothing trains and whose derivatives every rule knows."""
    layer = nn.Conv2d(1, 1, 1).requires_grad_(False)
    nn.init.constant_(layer.weight, scale)
    nn.init.constant_(layer.bias, shift)
    return layer


def _variance_head(latent_dim: int, width: int, data_dim: int) -> nn.Sequential:
    return nn.Sequential(*mlp([latent_dim, width], "tanh"), nn.Linear(width, data_dim), Exponential())


def folded(layers: nn.Sequential) -> nn.Sequential:
    """The same map in evaluation mode with fewer layers: convolutions hold their spectral norm and batch norm."""
    kept: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            fuse_transposed = isinstance(kept[-1], nn.ConvTranspose2d)
            kept[-1] = fusion.fuse_conv_bn_eval(kept[-1], layer, transpose=fuse_transposed)
        elif parametrize.is_parametrized(layer):
            kept.append(parametrize.remove_parametrizations(copy.deepcopy(layer), "weight"))
        else:
            kept.append(layer)
    # this order in memory takes half as long on a CPU; a training's checkpoint would not keep it
    return nn.Sequential(*kept).to(memory_format=torch.channels_last)


def mlp(sizes: list[int], activation: str) -> list[nn.Module]:
    """Linear layers from each size to the next, each followed by the activation."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation: got {activation!r}, expected one of {', '.join(map(repr, ACTIVATIONS))}")
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), ACTIVATIONS[activation]()]
    return layers


def decoder(sizes: list[int], activation: str) -> nn.Sequential:
    """Latents to pixels on [0, 1], by linear layers from each size to the next."""
    return nn.Sequential(*mlp(sizes[:-1], activation), nn.Linear(*sizes[-2:]), nn.Sigmoid())


def initialised(module: nn.Module, generator: torch.Generator | None) -> None:
    """Draw the initial weights of all linear layers (Glorot & Bengio 2010), where there is a generator."""
    for layer in module.modules() if generator is not None else ():
        if isinstance(layer, nn.Linear):
            bound = math.sqrt(6 / (layer.in_features + layer.out_features))
            nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
            nn.init.zeros_(layer.bias)


class Exponential(nn.Module):
    """A log-variance to a standard deviation, bounded so that neither it nor its inverse overflows float32."""

    def forward(self, log_variance: Tensor) -> Tensor:
        return torch.exp(0.5 * log_variance.clamp(-14.0, 14.0))


class VAE(nn.Module):
    """A variational autoencoder with Gaussian posterior, Gaussian likelihood and smooth activations.

    ``mean`` and ``std`` are the two maps ``z (..., d) -> (..., D)`` that a ``PullbackMetric`` takes.
    """

    kind = "vae"
    mean: nn.Sequential
    std: nn.Sequential

    def __init__(self, config: VAEConfig | ConvolutionalVAEConfig, *, generator: torch.Generator | None = None):
        super().__init__()
        self.config = config
        for name, part in config.parts(generator).items():
            self.add_module(name, part)

    @property
    def noise_dim(self) -> int:
        """Draws per image."""
        return self.config.latent_dim

    def phases(self, training: TrainingConfig) -> tuple[Phase, ...]:
        """First the evidence lower bound, then the variance head with all else fixed."""
        mean = [p for name, p in self.named_parameters() if not name.startswith("std.")]
        std = Player(negative_log_likelihood, list(self.std.parameters()))
        return (
            Phase("elbo", training.epochs, (Player(negative_elbo, mean),)),
            # at the mean as it will be used
            Phase("variance", training.variance_epochs, (std,), norms_follow=False),
        )

    def fixed(self) -> "VAE":
        """Itself, ready to be measured: in evaluation mode, without gradients, norms folded into convolutions."""
        self.eval().requires_grad_(False)
        self.body, self.mean = folded(self.body), folded(self.mean)
        return self

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
    return negative_elbo_of(vae, x, vae.posterior(x), noise)


def negative_elbo_of(vae: VAE, x: Tensor, posterior: tuple[Tensor, Tensor], noise: Tensor) -> Tensor:
    """``negative_elbo`` where the posterior's mean and log-variance are known."""
    reconstruction = (x - vae.mean(drawn(posterior, noise))).square().sum(-1) / (2 * vae.config.output_variance)
    return reconstruction + divergence(posterior)


def drawn(posterior: tuple[Tensor, Tensor], noise: Tensor) -> Tensor:
    """A draw ``(n, d)`` from normal distributions with these means and log-variances ``(n, d)``."""
    mean, log_variance = posterior
    return mean + torch.exp(0.5 * log_variance) * noise


def divergence(posterior: tuple[Tensor, Tensor]) -> Tensor:
    """Kullback-Leibler divergence ``(n,)`` of normal distributions from the standard normal prior."""
    mean, log_variance = posterior
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)


def negative_log_likelihood(vae: VAE, x: Tensor, noise: Tensor) -> Tensor:
    """The variance head's loss, mean and encoder given: ``(n,)``, up to a constant."""
    with torch.no_grad():
        z = drawn(vae.posterior(x), noise)
        squared = (x - vae.mean(z)).square()
    std = vae.std(z)
    return (std.log() + squared / (2 * std.square())).sum(-1)


def n_parameters(vae: VAE) -> int:
    """How many numbers training sets."""
    return sum(p.numel() for p in vae.parameters())
