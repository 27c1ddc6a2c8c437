"""Where a generator's data lie in its latent space, and how much of a curve lies there."""

from dataclasses import dataclass

import torch
from scipy.spatial import KDTree
from torch import Tensor

from geolib.companion.data.datasets import ImageData
from geolib.companion.models.networks.autoencoder import Autoencoder
from geolib.companion.models.networks.vae import VAE
from geolib.companion.studies import summaries
from geolib.paths.starts.routes import smoothed_polygon

LEVEL = 0.05
"""of the two-sample test: images pass it whose p-value is above"""
_LOTS = 999
OFF = 0.99  # quantile of the test latents' distance to the nearest training latent, beyond which we say "off the data"


def distance_to(tree: KDTree, z: Tensor) -> Tensor:
    """From ``z (..., d)`` to the nearest point of a tree ``(...)``, on the CPU."""
    flat = z.detach().double().cpu()
    return torch.from_numpy(tree.query(flat.reshape(-1, z.shape[-1]).numpy())[0]).reshape(z.shape[:-1])


class OffTheData:
    """Tells which latents are farther from the training latents than nearly all test latents are."""

    def __init__(self, train_latents: Tensor, test_latents: Tensor):
        self._tree = KDTree(train_latents.double().cpu().numpy())
        self.limit = float(self.distance(test_latents).quantile(OFF))

    def distance(self, z: Tensor) -> Tensor:
        """From ``z (..., d)`` to the nearest training latent ``(...)``, on the CPU."""
        return distance_to(self._tree, z)

    def __call__(self, z: Tensor) -> Tensor:
        """Which of ``z (..., d)`` are off the data ``(...)``, on the CPU."""
        return self.distance(z) > self.limit

    def shares(self, points: Tensor) -> Tensor:
        """The share of the length of polygons ``(n, N + 1, d)`` with equal steps that is off the data ``(n,)``."""
        return self(_middles(points)).double().mean(-1)

    def mean_distance(self, points: Tensor) -> Tensor:
        """The mean distance of polygons ``(n, N + 1, d)`` with equal steps to the nearest training latent ``(n,)``."""
        return self.distance(_middles(points)).mean(-1)


def _middles(points: Tensor) -> Tensor:
    return (points[:, 1:] + points[:, :-1]) / 2


def evenly(points: Tensor) -> Tensor:
    """Polygons ``(n, N + 1, d)`` at equal steps of latent length."""
    return smoothed_polygon(points, points.diff(dim=1).norm(dim=-1), points.shape[1] - 1, times=0)


@dataclass(frozen=True)
class TwoSampleTest:
    """Whether images that a model makes can be told from real ones, tested at ``LEVEL``."""

    share: float
    """of images, made and real, whose nearest neighbour among all others is of their own kind"""
    p: float
    """how often the share is as large or larger where made and real are drawn by lot"""
    n: int
    """images of each kind"""

    @property
    def passes(self) -> bool:
        """Whether the test does not tell the two apart."""
        return self.p > LEVEL

    @property
    def outcome(self) -> str:
        """In words."""
        found = "not told apart from" if self.passes else "told apart from"
        return f"{found} real images at the {100 * LEVEL:.0f} % level, p = {self.p:.3f}, {self.n:,} images of each kind"


def two_sample_test(made: Tensor, real: Tensor, *, seed: int = 0) -> TwoSampleTest:
    """Test whether images made ``(n, D)`` and real ones ``(n, D)`` can be told apart by their nearest neighbours.

    About a half of all images have a nearest neighbour of their own kind where the two have one distribution, all where
    they are apart. Lots are drawn ``_LOTS`` times, so that no p-value is below ``1 / (_LOTS + 1)``.

    Source:
        Lopez-Paz & Oquab 2017, with the nearest neighbour as classifier; the permutation test of Schilling 1986.
    """
    nearest = summaries.nearest_others(torch.cat([made, real]))
    kinds = torch.arange(len(nearest)) < len(made)
    generator = torch.Generator().manual_seed(seed)
    lots = torch.stack([kinds[torch.randperm(len(kinds), generator=generator)] for _ in range(_LOTS)])
    found = int((kinds[nearest] == kinds).sum())
    as_large = int(((lots[:, nearest] == lots).sum(-1) >= found).sum())
    return TwoSampleTest(found / len(kinds), (1 + as_large) / (1 + _LOTS), len(made))


@torch.no_grad()
def reconstruction_over_principal_components(data: ImageData, model: VAE | Autoencoder) -> float:
    """The squared error of decoded test images over that of as many principal components as there are latents.

    The components are those of the training images.
    """
    device = next(model.parameters()).device
    train, test = (x.to(device) for x in (data.train_images, data.test_images))
    latents = model.encode(test)
    centre = train.mean(0)
    *_, components = torch.pca_lowrank(
        train - centre, q=min(latents.shape[-1] + 8, *train.shape), center=False, niter=8
    )
    components = components[:, : latents.shape[-1]]
    kept = centre + (test - centre) @ components @ components.T
    errors = [(test - x).double().square().sum() for x in (model.mean(latents), kept)]
    return float(errors[0] / errors[1])
