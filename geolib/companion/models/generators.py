"""A trained VAE as the generator whose geometry is studied: its latents, its variance, its metric."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from geolib import PullbackMetric, RBFPrecision, fit_rbf_precision
from geolib.companion.data.datasets import ImageData
from geolib.companion.models import michelis_becker
from geolib.companion.models.vae import VAE

# Pixels that are black in every image have no error at all; a floor of 2.5 grey levels keeps their precision finite.
VARIANCE_FLOOR = 0.01**2
FITS = ("convex", "adam")
"""how the RBF variance is fitted: as this project does, or as the code of Michelis & Becker 2021 does"""


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
) -> Generator:
    """Encode the data with the model's own encoder, fit the RBF variance to it, and put the metric together.

    Raises:
        ValueError: where ``fit`` is none of ``FITS``, and as the fits.
    """
    if fit not in FITS:
        raise ValueError(f"fit: got {fit!r}, expected one of {', '.join(map(repr, FITS))}")
    device = next(vae.parameters()).device
    images = data.train_images.to(device)
    latents = vae.encode(images)
    settings = {"n_centers": n_centers, "curvature": curvature, "zeta": zeta, "seed": seed}
    if fit == "adam":
        few = slice(michelis_becker.FIT_IMAGES)
        errors = variance_target(vae, images[few], latents[few], floor=0.0)
        rbf = michelis_becker.fit_precision(latents[few], errors, **settings)
    else:
        rbf = fit_rbf_precision(latents, variance_target(vae, images, latents), **settings)
    metric = PullbackMetric(vae.mean, rbf)
    return Generator(data, vae, rbf, metric, latents, vae.encode(data.test_images.to(device)), data.test_labels)


def in_double(g: Generator) -> Generator:
    """The same generator in float64, for maps whose condition number float32 cannot hold."""
    vae, rbf = (copy.deepcopy(module).double() for module in (g.vae, g.rbf))
    latents = (g.train_latents.double(), g.test_latents.double())
    return Generator(g.data, vae, rbf, PullbackMetric(vae.mean, rbf), *latents, g.test_labels)


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
