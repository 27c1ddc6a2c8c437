"""Notebook 01: how well three VAEs are trained, and what their latent space looks like."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from geolib.companion.data.datasets import ImageData
from geolib.companion.models import michelis_becker
from geolib.companion.models.networks.vae import VAE, n_parameters
from geolib.companion.models.recipes import FEW, Recipe
from geolib.companion.models.training import TrainedVAE, final_validation
from geolib.companion.studies import summaries
from geolib.companion.studies.evidence import number

PAPER_RATIO = 16  # of the parameters of VAE1 over those of VAE2
_SILENT = "–"  # where the paper gives no setting


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
        return 100 * summaries.share_beside_its_own_kind(self.latents, self.labels)

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


def settings(ours: Recipe, theirs: Recipe) -> str:
    """A Markdown table of the settings in the paper, in the authors' published code, in their recipe here and in ours.

    Args:
        ours: the recipe of this project's own model.
        theirs: the recipe with the settings of the authors' code.
    """
    widths = "-".join(map(str, reversed(ours.model.widths)))
    per_pixel = 1 / michelis_becker.PRECISION  # a variance on [0, 1] over that on [-1, 1]

    def variance(recipe: Recipe) -> str:
        return f"{recipe.model.output_variance:.2f} on [0, 1]"

    def training(recipe: Recipe, decay: str) -> str:
        chosen = recipe.training
        return f"batch {chosen.batch_size}, Adam {chosen.learning_rate:g}, {decay}, {chosen.epochs} epochs"

    def rbf(recipe: Recipe) -> str:
        return f"{recipe.n_centers}; {recipe.curvature:g}; {recipe.zeta:g} on [0, 1]"

    decays = f"times {theirs.training.decay:g} an epoch, weight decay {theirs.training.weight_decay:g}"
    convolutions = "2 transposed convolutions of 32 channels, spectral norm, batch norm, ELU, tanh"
    their_rbf = f"4 per dimension; {theirs.curvature:g}; {theirs.zeta * per_pixel:g} on [-1, 1]"
    rows = [
        ("latent dimensions", "2", "16, an option", str(theirs.model.latent_dim), str(ours.model.latent_dim)),
        ("decoder", _SILENT, convolutions, "the same", f"fully connected, {widths} units, tanh, sigmoid"),
        ("images", "digits 2, 4, 5, 7", "3,000 per digit", f"the first {FEW} per digit", "all of the digits"),
        (
            "training",
            _SILENT,
            f"batch 16, Adam 0.005, {decays}, 200 epochs, 4 samples of z",
            training(theirs, decays) + ", 1 sample",
            training(ours, "cosine") + ", 1 sample",
        ),
        ("variance in training", _SILENT, "1.65 on [-1, 1]", variance(theirs), variance(ours)),
        ("RBF: K; a; ζ", _SILENT, their_rbf, rbf(theirs), rbf(ours)),
        (
            "weights of the RBF",
            _SILENT,
            f"Adam {michelis_becker.FIT_RATE:g}, weight decay {michelis_becker.FIT_DECAY:g}, clamped at 0, "
            f"{michelis_becker.FIT_EPOCHS} epochs",
            "the same",
            "the convex problem, solved; variance of at least 0.01²",
        ),
        ("α of Algorithm 1", _SILENT, "1 by default", "1", "1"),
        ("pairs", "1,000", "50 by default", "the notebook's", "the notebook's"),
        ("length", "Eq. 1", "sum over 16 points", "converged", "converged"),
    ]
    head = ["", "paper", "authors' code", f"`{theirs.name}` here", f"`{ours.name}`, ours"]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))
