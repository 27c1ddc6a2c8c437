"""Recipes: a data set, a model, its training and its variance under one name, defined once for all notebooks."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import torch

from geolib.companion.cache.profiles import check_profile
from geolib.companion.data import datasets, moons, motion, pendulum, robot_arm, surfaces
from geolib.companion.data.datasets import ImageData
from geolib.companion.models import generators
from geolib.companion.models.convolutional import ConvolutionalTraining, TrainedDecoder, trained_decoder
from geolib.companion.models.generators import Generator, MeanGenerator, mean_generator
from geolib.companion.models.michelis_becker import PRECISION
from geolib.companion.models.networks import decoders
from geolib.companion.models.networks.autoencoder import Autoencoder, AutoencoderConfig
from geolib.companion.models.networks.decoders import Decoders, DecodersConfig
from geolib.companion.models.networks.gan import GAN, GANConfig
from geolib.companion.models.networks.isometric import IsometricConfig
from geolib.companion.models.networks.iwae import IWAE, IWAEConfig
from geolib.companion.models.networks.learned_variance import LearnedVarianceConfig
from geolib.companion.models.networks.schedule import (
    ConstantFilledTraining,
    ConstantTraining,
    DecayingTraining,
    FilledTraining,
    TrainingConfig,
)
from geolib.companion.models.networks.vae import VAE, ConvolutionalVAEConfig, VAEConfig
from geolib.companion.models.training import AnyVAEConfig, TrainedVAE, trained_model, trained_vae
from geolib.variance import Ensemble

DIGITS = (2, 4, 5, 7)
"""the classes of Michelis & Becker 2021"""
# With 0.5, as for four digits, the VAE with sigmoid layers gives up one of its two latent dimensions on ten digits, and
# reconstructs no better than principal components.
_SHARP = 0.1
_RETRIES = 3  # of a model that collapsed
_SEEDS_APART = 1000
FASHION = (0, 1, 7)
"""the classes of Danielou et al. 2024: T-shirt, trousers, sneaker"""
_PAPER_IMAGES = 18000 - 1800  # of these classes, less those held out
_QUICK = 100 * 128  # images of an epoch in "quick" settings: a hundred batches
FEW = 750
"""images per class on which the decoder of their code is trained here; their code takes 3,000"""

BINARISED = 1000
"""binarised digits per class, on which the model of Chen et al. 2018 is trained here"""


def _load_digits() -> ImageData:
    return datasets.load("mnist", classes=DIGITS)


def _load_all_digits() -> ImageData:
    return datasets.load("mnist")


def _load_fashion() -> ImageData:
    return datasets.load("fashion_mnist", classes=FASHION)


def _load_few_digits() -> ImageData:
    return datasets.few_digits(classes=DIGITS)


def _load_first_digits() -> ImageData:
    return datasets.first_of_each(datasets.load("mnist", classes=DIGITS), FEW, name="mnist_first")


class _Reading:
    """A recipe that reads its data once."""

    load: Callable[[], ImageData]

    @cached_property
    def data(self) -> ImageData:
        """What ``load`` finds, read once."""
        return self.load()


@dataclass(frozen=True)
class Recipe(_Reading):
    """How a generator is made, from its data to its variance, for one profile and one seed."""

    name: str
    label: str
    """what figures and progress bars call the model"""
    load: Callable[[], ImageData]
    model: AnyVAEConfig
    training: TrainingConfig
    n_centers: int = 64
    curvature: float = 1.25
    zeta: float = 1e-3
    fit: str = "convex"
    """how the variance is fitted, one of ``generators.FITS``"""
    target: str = "errors"
    """what it is fitted to, one of ``generators.TARGETS``"""

    def trained(self, *, device: torch.device | str = "cpu") -> TrainedVAE:
        """The VAE, loaded from ``data/derived`` or trained first."""
        return trained_vae(self.data, self.model, self.training, device=device, label=self.label)

    def mean_generator(self, *, device: torch.device | str = "cpu") -> MeanGenerator:
        """The VAE's mean alone."""
        return mean_generator(self.data, self.trained(device=device).vae)

    def generator(self, *, device: torch.device | str = "cpu") -> Generator:
        """The VAE with the RBF variance that is fitted to it, and the metric of both (Eq. 2)."""
        return generators.generator(
            self.data,
            self.trained(device=device).vae,
            **self._variance,
            seed=self.training.seed,
        )

    @property
    def _variance(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("n_centers", "curvature", "zeta", "fit", "target")}

    def as_dict(self) -> dict[str, Any]:
        """JSON values, for a figure's sidecar."""
        return {"model": self.model.as_dict(), "training": asdict(self.training), "variance": self._variance}


@dataclass(frozen=True)
class ConvolutionalRecipe(_Reading):
    """How a convolutional decoder is made from its data, for one profile and one seed. It has no variance."""

    name: str
    load: Callable[[], ImageData]
    training: ConvolutionalTraining

    def trained(self, *, device: torch.device | str = "cpu") -> TrainedDecoder:
        """The decoder, loaded from ``data/derived`` or trained first."""
        return trained_decoder(self.data, self.training, device=device)

    def as_dict(self) -> dict[str, Any]:
        """JSON values, for a figure's sidecar."""
        return {"training": asdict(self.training)}


@dataclass(frozen=True)
class MeanRecipe(_Reading):
    """How a generator without a variance is made from its data, for one profile and one seed."""

    name: str
    label: str
    """what figures and progress bars call the model"""
    load: Callable[[], ImageData]
    kind: type[Autoencoder] | type[GAN] | type[IWAE]
    model: AutoencoderConfig | GANConfig | IWAEConfig
    training: TrainingConfig
    retries: int = _RETRIES
    """how often a model that collapsed is trained again"""

    def mean_generator(self, *, device: torch.device | str = "cpu") -> MeanGenerator:
        """The model, loaded from ``data/derived`` or trained first; one that collapsed is trained from other seeds."""
        attempts = []
        for attempt in range(1 + self.retries):
            training = replace(self.training, seed=self.training.seed + _SEEDS_APART * attempt)
            model, _, _ = trained_model(self.kind, self.data, self.model, training, device=device, label=self.label)
            attempts.append(mean_generator(self.data, model))
            if not attempts[-1].collapsed:
                break
        return replace(attempts[-1], n_collapsed=sum(g.collapsed for g in attempts))

    def as_dict(self) -> dict[str, Any]:
        """JSON values, for a figure's sidecar."""
        return {"model": self.model.as_dict(), "training": asdict(self.training)}


@dataclass(frozen=True)
class EnsembleRecipe(_Reading):
    """How more decoders are trained for the latents of a VAE, whose encoder stays as it is."""

    name: str
    label: str
    """what figures and progress bars call the decoders"""
    load: Callable[[], ImageData]
    vae: Recipe
    model: DecodersConfig
    training: TrainingConfig

    def trained(self, *, device: torch.device | str = "cpu") -> Ensemble:
        """The decoders as one immersion, loaded from ``data/derived`` or trained first."""
        own = replace(self.vae, load=lambda: self.data).trained(device=device)
        rows = decoders.encoded(self.data, own.vae, own.path.stem)
        return trained_model(Decoders, rows, self.model, self.training, device=device, label=self.label)[0].ensemble()

    def as_dict(self) -> dict[str, Any]:
        """JSON values, for a figure's sidecar."""
        return {"model": self.model.as_dict(), "training": asdict(self.training)}


AnyRecipe = Recipe | MeanRecipe | ConvolutionalRecipe | EnsembleRecipe


def _digits(
    name: str, label: str, widths: tuple[int, ...], load: Callable[[], ImageData] = _load_digits
) -> Callable[[str, int], Recipe]:
    def recipe(profile: str, seed: int) -> Recipe:
        training = TrainingConfig(epochs=100, variance_epochs=10, seed=seed)
        if profile == "quick" and load is _load_few_digits:
            training = TrainingConfig(epochs=10, variance_epochs=3, seed=seed)
        elif profile == "quick":
            # A decoder after few and small steps is more curved than any other, and curves take longer than the steps.
            training = FilledTraining(epochs=10, variance_epochs=1, learning_rate=3e-3, filled_to=_QUICK, seed=seed)
        return Recipe(name, label, load, VAEConfig(widths=widths), training)

    return recipe


def _michelis_becker(name: str, label: str, latent_dim: int, **architecture: int) -> Callable[[str, int], Recipe]:
    def recipe(profile: str, seed: int) -> Recipe:
        epochs, variance_epochs = (1, 1) if profile == "quick" else (10, 2)
        training = DecayingTraining(epochs=epochs, variance_epochs=variance_epochs, seed=seed)
        model = ConvolutionalVAEConfig(latent_dim=latent_dim, **architecture)
        # four centres per latent dimension; 1e-2 is their zeta for pixels on [-1, 1]
        variance = {"n_centers": 4 * latent_dim, "curvature": 1.0, "zeta": PRECISION * 1e-2, "fit": "adam"}
        return Recipe(name, label, _load_first_digits, model, training, **variance)

    return recipe


def _ramirez(
    name: str, label: str, kind: type, model: VAEConfig | AutoencoderConfig | GANConfig
) -> Callable[[str, int], Recipe | MeanRecipe]:
    def recipe(profile: str, seed: int) -> Recipe | MeanRecipe:
        # the paper gives the optimiser, and no number of epochs
        training = ConstantTraining(epochs=2 if profile == "quick" else 20, variance_epochs=1, seed=seed)
        if kind is VAE:
            return Recipe(name, label, _load_all_digits, model, training)
        return MeanRecipe(name, label, _load_all_digits, kind, model, training)

    return recipe


def _moons(profile: str, seed: int) -> Recipe:
    n, epochs = (400, 60) if profile == "quick" else (1000, 300)
    # The likelihood's deviation is about that of the data across a moon, so that the latent space keeps both
    # dimensions. The variance head is not used, as the RBF variance takes its place: one epoch.
    model = VAEConfig(data_dim=2, latent_dim=2, widths=(64, 32), output_variance=1e-3)
    training = TrainingConfig(epochs=epochs, variance_epochs=1, batch_size=32, learning_rate=1e-2, seed=seed)
    return Recipe("moons", "VAE of the moons", lambda: moons.load(n, seed=seed), model, training)


def _fashion(profile: str, seed: int) -> Recipe:
    # Few steps at the paper's learning rate leave one latent for all images, so "quick" takes larger ones. Of fewer
    # images than the paper's an epoch has as many, so that there are as many steps.
    epochs, rate = (15, 2e-3) if profile == "quick" else (800, 8e-5)
    training = ConstantFilledTraining(epochs=epochs, learning_rate=rate, filled_to=_PAPER_IMAGES, seed=seed)
    variance = {"zeta": 1e-6, "target": "network"}
    return Recipe("fashion", "VAE of Table 1", _load_fashion, LearnedVarianceConfig(), training, **variance)


def _isometric(profile: str, seed: int) -> Recipe:
    # short, as there are six of them
    epochs = 5 if profile == "quick" else 20
    training = TrainingConfig(epochs=epochs, variance_epochs=1, learning_rate=3e-3, seed=seed)
    return Recipe("isometric", "isometric VAE", _load_digits, IsometricConfig(), training)


def _decoders(profile: str, seed: int) -> EnsembleRecipe:
    vae, epochs = _digits_vae(profile, seed), 3 if profile == "quick" else 20
    training = TrainingConfig(epochs=epochs, variance_epochs=1, learning_rate=3e-3, seed=seed)
    return EnsembleRecipe("digits_decoders", "decoders", _load_digits, vae, DecodersConfig(vae.model), training)


def _surface(shape: str) -> Callable[[str, int], Recipe]:
    def recipe(profile: str, seed: int) -> Recipe:
        epochs = 40 if profile == "quick" else 200
        model = VAEConfig(data_dim=3, widths=(64, 32), output_variance=1e-3)
        training = TrainingConfig(epochs=epochs, variance_epochs=1, batch_size=64, learning_rate=5e-3, seed=seed)
        name, label = f"surface_{shape}", f"VAE of the {surfaces.LABELS[shape]}"
        return Recipe(name, label, lambda: surfaces.load(shape, seed=seed), model, training)

    return recipe


def _iwae(
    name: str,
    label: str,
    load: Callable[[], ImageData],
    model: IWAEConfig,
    epochs: tuple[int, int],
    learning_rate: float = 3e-3,
) -> Callable[[str, int], MeanRecipe]:
    def recipe(profile: str, seed: int) -> MeanRecipe:
        chosen = epochs[0] if profile == "quick" else epochs[1]
        training = TrainingConfig(epochs=chosen, variance_epochs=1, learning_rate=learning_rate, seed=seed)
        # one that is trained for seconds has not seen all classes, and is no other for that
        return MeanRecipe(name, label, load, IWAE, model, training, retries=0)

    return recipe


def _convolutional(profile: str, seed: int) -> ConvolutionalRecipe:
    training = ConvolutionalTraining(epochs=1 if profile == "quick" else 5, seed=seed)
    return ConvolutionalRecipe("convolutional", _load_digits, training)


_digits_vae = _digits("digits", "VAE", (256, 64))

_RECIPES = {
    # Michelis & Becker's experiments: one model to look at, and two whose parameter counts stand 16 to 1
    "digits": _digits_vae,
    "digits_large": _digits("digits_large", "VAE1", (404, 256)),
    "digits_small": _digits("digits_small", "VAE2", (32, 16)),
    # the settings of Michelis & Becker's published code, and with the 16 latent dimensions of its published weights
    "michelis_becker_code": _michelis_becker("michelis_becker_code", "VAE of the authors' code", 2),
    "michelis_becker_small": _michelis_becker(
        "michelis_becker_small", "VAE2 of the authors' code", 2, channels=4, variance_width=4
    ),
    "michelis_becker_16": _michelis_becker("michelis_becker_16", "the same in 16 dimensions", 16),
    # learnt by heart from 1,600 images: bent and overfitted, so that a curve can be a geodesic and not the shortest
    "few_digits": _digits("few_digits", "VAE of few digits", (256, 64), _load_few_digits),
    "few_digits_small": _digits("few_digits_small", "VAE2 of few digits", (32, 16), _load_few_digits),
    # Ramirez 2020: three kinds of generative models of all ten digits, and three architectures of the first kind
    "ramirez_vae": _ramirez("ramirez_vae", "VAE 128-32 tanh", VAE, VAEConfig(widths=(128, 32), output_variance=_SHARP)),
    "ramirez_vae_wide": _ramirez(
        "ramirez_vae_wide", "VAE 256-64 tanh", VAE, VAEConfig(widths=(256, 64), output_variance=_SHARP)
    ),
    "ramirez_vae_sigmoid": _ramirez(
        "ramirez_vae_sigmoid",
        "VAE 128-32 sigmoid",
        VAE,
        VAEConfig(widths=(128, 32), activation="sigmoid", output_variance=_SHARP),
    ),
    "ramirez_dae": _ramirez("ramirez_dae", "DAE 128-32 sigmoid", Autoencoder, AutoencoderConfig()),
    "ramirez_gan": _ramirez("ramirez_gan", "GAN 128-32 tanh", GAN, GANConfig()),
    "moons": _moons,
    # beyond the papers: distances are kept, and more decoders for the latents of "digits"
    "isometric": _isometric,
    "digits_decoders": _decoders,
    # Danielou et al. 2024: three classes of Fashion-MNIST, and surfaces in space
    "fashion": _fashion,
    **{f"surface_{shape}": _surface(shape) for shape in surfaces.SHAPES},
    # Chen et al. 2018: importance-weighted autoencoders. A Gaussian likelihood has twice the deviation of the noise in
    # a pixel, and about that of the noise in the position of the last joint.
    "iwae_pendulum": _iwae(
        "iwae_pendulum",
        "IWAE of the pendulum",
        pendulum.load,
        IWAEConfig(data_dim=256, widths=(128, 64), output_variance=0.01),
        (12, 200),
    ),
    "iwae_arm": _iwae(
        "iwae_arm",
        "IWAE of the arm",
        robot_arm.load,
        IWAEConfig(data_dim=12, widths=(64, 64), output_variance=1e-3),
        (15, 300),
    ),
    "iwae_digits": _iwae(
        "iwae_digits",
        "IWAE of binarised digits",
        lambda: datasets.binarised_digits(BINARISED),
        IWAEConfig(likelihood="bernoulli"),
        (2, 30),
    ),
    # poses: a coordinate's deviation is 4 cm, about the error of two latent dimensions
    "iwae_motion": _iwae(
        "iwae_motion",
        "IWAE of human motion",
        motion.load,
        IWAEConfig(data_dim=3 * len(motion.JOINTS), widths=(128, 64), output_variance=(0.04 * motion.SCALE) ** 2),
        (20, 200),
        learning_rate=2e-3,
    ),
    # sixteen latent dimensions, for solvers
    "convolutional": _convolutional,
}
NAMES = tuple(_RECIPES)
PAIRS = {
    "digits": ("digits_large", "digits_small"),
    "michelis_becker_code": ("michelis_becker_code", "michelis_becker_small"),
}
"""the recipes that notebooks 02 to 05 can run with, and the two models of each that notebook 05 compares"""


def recipe(name: str, profile: str = "paper", *, seed: int = 0) -> AnyRecipe:
    """The recipe of that name.

    Args:
        name: one of ``NAMES``.
        profile: ``"quick"`` trains for fewer epochs than ``"paper"`` and ``"full"``.
        seed: of the initial weights, the batches and the k-means centres.

    Raises:
        ValueError: for a name or a profile that there is not.
    """
    if name not in _RECIPES:
        raise ValueError(f"recipe: got {name!r}, expected one of {', '.join(map(repr, NAMES))}")
    return _RECIPES[name](check_profile(profile), seed)
