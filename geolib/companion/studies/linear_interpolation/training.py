"""Notebook 01: how well three VAEs are trained, and what their latent space looks like."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geolib.companion.data.datasets import ImageData
from geolib.companion.models.training import TrainedVAE, final_validation
from geolib.companion.models.vae import VAE, n_parameters
from geolib.companion.studies import summaries
from geolib.companion.studies.evidence import number

PAPER_RATIO = 16  # of the parameters of VAE1 over those of VAE2


@dataclass(frozen=True)
class Training:
    """The three VAEs of Michelis & Becker 2021's experiments, and the test images as the first of them encodes them."""

    trained: dict[str, TrainedVAE]
    """``"VAE"``, ``"VAE1"`` and ``"VAE2"``"""
    latents: Tensor
    """``(n, 2)``, posterior means of the test images"""
    labels: Tensor
    """``(n,)``"""

    @property
    def vae(self) -> VAE:
        """The VAE that encodes the test images."""
        return self.trained["VAE"].vae

    @property
    def sizes(self) -> dict[str, int]:
        """Parameters of every model."""
        return {label: n_parameters(trained.vae) for label, trained in self.trained.items()}

    @property
    def ratio_of_sizes(self) -> float:
        """Parameters of VAE1 over those of VAE2."""
        return self.sizes["VAE1"] / self.sizes["VAE2"]

    @property
    def losses(self) -> dict[str, float]:
        """The validation loss of every model after its last epoch, in nats per image."""
        return {label: final_validation(trained) for label, trained in self.trained.items()}

    @property
    def gaps(self) -> dict[str, float]:
        """Validation loss less training loss in the last epoch, in nats per image: what a model learned by heart."""
        last = {
            label: [entry for entry in trained.history if entry["phase"] == "elbo"][-1]
            for label, trained in self.trained.items()
        }
        return {label: entry["validation"] - entry["training"] for label, entry in last.items()}

    @property
    def effect_of_size(self) -> str:
        """What the larger model's parameters change in the validation loss, in words."""
        large, small = self.losses["VAE1"], self.losses["VAE2"]
        change = 100 * abs(large / small - 1)
        return f"{change:.0f} % {'lower' if large < small else 'higher'}"

    @property
    def widest_gap(self) -> str:
        """The model whose validation loss lies farthest above its training loss, in words."""
        label, gap = max(self.gaps.items(), key=lambda item: item[1])
        if gap <= 0:
            return "No model does worse on the held-out images than on its training images"
        return f"{label} has learned most by heart: its validation loss is {gap:.1f} nats above its training loss"

    @property
    def share_beside_its_own_class(self) -> float:
        """In per cent, the test images whose nearest neighbour among the encoded test images shows the same digit."""
        nearest = []
        for rows in torch.arange(len(self.latents)).split(1024):
            distance = torch.cdist(self.latents[rows], self.latents).cpu()
            distance[torch.arange(len(rows)), rows] = torch.inf  # an image is no neighbour of itself
            nearest.append(distance.argmin(-1))
        return 100 * summaries.share(self.labels[torch.cat(nearest)] == self.labels)

    @property
    def numbers(self) -> list[dict[str, Any]]:
        """Rows of the numbers table."""
        return [
            number(
                "MB-5..8",
                "parameters of VAE1 over VAE2",
                self.ratio_of_sizes,
                paper=PAPER_RATIO,
                note="all parameters, variance network included",
            ),
            *(
                number("training", f"validation loss of {label}", loss, unit="nats")
                for label, loss in self.losses.items()
            ),
            number(
                "training",
                "test images whose nearest neighbour in the latent space shows the same digit",
                self.share_beside_its_own_class,
                unit="%",
            ),
        ]


def measure(trained: dict[str, TrainedVAE], data: ImageData) -> Training:
    """Encode the test images, which no training has seen."""
    vae = trained["VAE"].vae
    device = next(vae.parameters()).device
    return Training(trained, vae.encode(data.test_images.to(device)), data.test_labels)
