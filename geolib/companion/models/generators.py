"""Trained models as the generators whose geometry is studied: their latents, their variance, their metric."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from geolib import PullbackMetric, RBFPrecision, fit_rbf_precision
from geolib.companion.data.datasets import ImageData
from geolib.companion.models import michelis_becker
from geolib.companion.models.networks.autoencoder import Autoencoder
from geolib.companion.models.networks.gan import GAN
from geolib.companion.models.networks.vae import VAE

# Pixels that are black in every image have no error at all; a floor of 2.5 grey levels keeps their precision finite.
VARIANCE_FLOOR = 0.01**2
PRESENT = 0.01
"""share of a class, from which on it is counted among what a model generates"""
_COMPARED, _COMPARED_WITH = 1000, 5000  # images made, and real ones
FITS = ("convex", "adam")
"""how the RBF variance is fitted: as this project does, or as the code of Michelis & Becker 2021 does"""
TARGETS = ("errors", "network")
"""what it is fitted to: the mean's squared errors at the data, or the decoder's own variance there"""


@dataclass(frozen=True)
class Generator:
    """A decoder with the RBF variance of Arvanitidis et al. 2018, and the data it was fitted to."""

    data: ImageData
    vae: VAE
    rbf: RBFPrecision
    metric: PullbackMetric
    """the expected metric, Eq. 2"""
    train_latents: Tensor
    """(n, d)"""
    test_latents: Tensor
    """(m, d)"""
    test_labels: Tensor
    """(m,)"""


@torch.no_grad()
def variance_target(vae: VAE, images: Tensor, latents: Tensor, *, floor: float = VARIANCE_FLOOR) -> Tensor:
    """Squared errors of the decoder's mean at the data ``(n, D)``, floored: what the precision is fitted to."""
    return torch.cat(
        [(x - vae.mean(z)).square() + floor for x, z in zip(images.split(4096), latents.split(4096), strict=True)]
    )


def generator(
    data: ImageData,
    vae: VAE,
    *,
    n_centers: int = 64,
    curvature: float = 1.25,
    zeta: float = 1e-3,
    seed: int = 0,
    fit: str = "convex",
    target: str = "errors",
) -> Generator:
    """Encode the data with the model's own encoder, fit the RBF variance to it, and put the metric together.

    Raises:
        ValueError: where ``fit`` is none of ``FITS``, ``target`` none of ``TARGETS``, and as the fits.
    """
    for name, value, known in (("fit", fit, FITS), ("target", target, TARGETS)):
        if value not in known:
            raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(map(repr, known))}")
    device = next(vae.parameters()).device
    images = data.train_images.to(device)
    latents = vae.encode(images)
    settings = {"n_centers": n_centers, "curvature": curvature, "zeta": zeta, "seed": seed}
    if fit == "adam":
        few = slice(michelis_becker.FIT_IMAGES)
        errors = variance_target(vae, images[few], latents[few], floor=0.0)
        rbf = michelis_becker.fit_precision(latents[few], errors, **settings)
    else:
        with torch.no_grad():
            variance = vae.std(latents).square() if target == "network" else variance_target(vae, images, latents)
        rbf = fit_rbf_precision(latents, variance, **settings)
    metric = PullbackMetric(vae.mean, rbf)
    return Generator(data, vae, rbf, metric, latents, vae.encode(data.test_images.to(device)), data.test_labels)


@dataclass(frozen=True)
class MeanGenerator:
    """A decoder's mean alone, and where its data lie: encoded images, or draws where there is no encoder."""

    data: ImageData
    model: VAE | Autoencoder | GAN
    train_latents: Tensor
    """(n, d)"""
    test_latents: Tensor
    """(m, d)"""
    n_classes: int
    """how many classes are among what the model generates: at least ``PRESENT`` of it by the nearest image's label"""
    n_collapsed: int = 0
    """trainings before this one that collapsed"""

    @property
    def collapsed(self) -> bool:
        """Whether fewer than half of the classes are there."""
        return self.n_classes < len(self.data.classes) / 2


@torch.no_grad()
def mean_generator(data: ImageData, model: VAE | Autoencoder | GAN) -> MeanGenerator:
    """Encode the data; latents of a model without an encoder are drawn from its prior, as many as there are images."""
    device = next(model.parameters()).device
    images, test_images = data.train_images.to(device), data.test_images.to(device)
    if not isinstance(model, GAN):
        latents = [model.encode(x) for x in (images, test_images)]
    else:
        draws = torch.Generator().manual_seed(0)
        latents = [
            torch.randn(len(x), model.config.latent_dim, generator=draws).to(device) for x in (images, test_images)
        ]
    made = model.mean(latents[1][:_COMPARED])
    labels = data.train_labels.to(device)[torch.cdist(made, images[:_COMPARED_WITH]).argmin(1)]
    shares = torch.stack([(labels == label).float().mean() for label in data.classes])
    return MeanGenerator(data, model, *latents, int((shares >= PRESENT).sum()))


def in_double(g: Generator) -> Generator:
    """The same generator in float64, for maps whose condition number float32 cannot hold."""
    vae, rbf = (copy.deepcopy(module).double() for module in (g.vae, g.rbf))
    latents = (g.train_latents.double(), g.test_latents.double())
    return Generator(g.data, vae, rbf, PullbackMetric(vae.mean, rbf), *latents, g.test_labels)


def mean_in_double(g: MeanGenerator) -> PullbackMetric:
    """The metric in float64."""
    return PullbackMetric(copy.deepcopy(g.model.mean).double())


def test_pairs(data: ImageData, n_pairs: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Indices ``(n_pairs,)`` of first and second test images, all different."""
    if not 1 <= n_pairs <= len(data.test_images) // 2:
        raise ValueError(f"n_pairs: got {n_pairs}, expected 1 to {len(data.test_images) // 2}")
    order = torch.randperm(len(data.test_images), generator=torch.Generator().manual_seed(seed))
    return order[:n_pairs], order[n_pairs : 2 * n_pairs]


def class_pair(g: Generator, first: int, second: int) -> tuple[Tensor, Tensor]:
    """Latents ``(d,)`` of two classes, each the test image nearest to its class's mean."""
    chosen = []
    for label in (first, second):
        own = g.test_latents[(g.test_labels == label).to(g.test_latents.device)]
        if len(own) == 0:
            raise ValueError(f"label: got {label}, expected one of {sorted(set(g.test_labels.tolist()))}")
        chosen.append(own[(own - own.mean(0)).norm(dim=-1).argmin()])
    return chosen[0], chosen[1]
