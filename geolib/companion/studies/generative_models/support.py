"""Where a generator's data lie in its latent space, and how much of a curve lies there."""

import torch
from scipy.spatial import KDTree
from torch import Tensor

from geolib.companion.data.datasets import ImageData
from geolib.companion.models.networks.autoencoder import Autoencoder
from geolib.companion.models.networks.vae import VAE
from geolib.companion.studies import summaries
from geolib.paths.starts.routes import smoothed_polygon

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


def told_apart(made: Tensor, real: Tensor) -> float:
    """How often an image's nearest neighbour among all others, made ``(n, D)`` and real ``(n, D)``, is of its own kind.

    About a half where the two cannot be told apart, 1 where they are apart.

    Source:
        Lopez-Paz & Oquab 2017, with the nearest neighbour as classifier.
    """
    both = torch.cat([made, real])
    return summaries.share_beside_its_own_kind(both, torch.arange(len(both)) < len(made))


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
