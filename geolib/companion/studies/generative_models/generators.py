"""Notebook 11: the Jacobian of five generators of all ten digits, at their data and away from them."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geolib import PullbackMetric, condition_number, geodesic, magnification_factor
from geolib.companion.cache import progress
from geolib.companion.models import generators
from geolib.companion.models.generators import Generator, MeanGenerator
from geolib.companion.models.grid import LatentGrid
from geolib.companion.models.networks.autoencoder import AutoencoderConfig
from geolib.companion.models.networks.gan import GAN as GANModel
from geolib.companion.models.networks.gan import GANConfig
from geolib.companion.models.networks.vae import VAEConfig
from geolib.companion.studies.evidence import Claim, number
from geolib.companion.studies.generative_models.support import (
    LEVEL,
    OffTheData,
    TwoSampleTest,
    evenly,
    reconstruction_over_principal_components,
    two_sample_test,
)
from geolib.curves import straight

VAES = ("ramirez_vae", "ramirez_vae_wide", "ramirez_vae_sigmoid")
DAE, GAN = "ramirez_dae", "ramirez_gan"
MODELS = (*VAES, DAE, GAN)

WELL = 10  # the condition number of the Jacobian up to which we call it well conditioned
ALIKE = 2  # the ratio of medians up to which we say that the architecture matters little
LEAVES = 0.05  # share of length, by which more of it lies off the data
_CURVE_POINTS = 256
_COMPARED = 1000  # images made, and real ones
# what the paper leaves open, chosen otherwise
VARIANTS = {
    "VAE 128-32 sigmoid with an output variance of 0.5": (VAES[2], VAEConfig(widths=(128, 32), activation="sigmoid")),
    "DAE with noise of 0.1": (DAE, AutoencoderConfig(noise=0.1)),
    "DAE with noise of 0.6": (DAE, AutoencoderConfig(noise=0.6)),
    "GAN without gradient penalty": (GAN, GANConfig(penalty=0.0)),
    "GAN with a gradient penalty of 10": (GAN, GANConfig(penalty=10.0)),
}

CONDITIONED = Claim(
    "RA-1",
    "the Jacobian of variational autoencoders is well conditioned throughout the latent space",
    f"for each of the three VAEs the 95th percentile of its condition number over the whole map is at most {WELL}",
    lambda highest: highest <= WELL,
)
ARCHITECTURE = Claim(
    "RA-2",
    "the architecture does not significantly affect the conditioning of variational autoencoders",
    f"the medians over the map of the three VAEs' condition numbers differ by at most a factor of {ALIKE}",
    lambda ratio: ratio <= ALIKE,
)
AWAY = Claim(
    "RA-1",
    "the metric is low away from the data",
    "for each of the three VAEs the median of log det off the data is below that at the data",
    lambda largest_difference: largest_difference < 0,
)
LEAVING = Claim(
    "RA-1",
    "a metric that is low away from the data may motivate geodesics to leave the data",
    f"of the mean geodesic's latent length at least {100 * LEAVES:.0f} percentage points more lie off the data without "
    "sigma than with it, on the VAE 128-32 tanh",
    lambda without, with_sigma: without >= with_sigma + LEAVES,
)
WORSE = Claim(
    "RA-4",
    "the denoising autoencoder is worse conditioned than variational autoencoders",
    "its median condition number over the map is above that of each of the three VAEs",
    lambda dae, vaes: dae > vaes,
)
WORST = Claim(
    "RA-5",
    "of all five, the adversarial network's metric spans the largest range, and its condition number is the highest",
    "its log det spans most, from the 5th to the 95th percentile over the map, and the 95th percentile of its "
    "condition number is the largest",
    lambda span, other_spans, high, other_highs: span > other_spans and high > other_highs,
)


@dataclass(frozen=True)
class Spread:
    """Median, 5th and 95th percentile of a quantity in some part of the latent plane."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Tensor) -> "Spread":
        """Of finite and infinite values of any shape."""
        quantiles = values.flatten().quantile(torch.tensor([0.05, 0.5, 0.95]).to(values), interpolation="nearest")
        return cls(*quantiles.tolist())


@dataclass(frozen=True)
class Landscape:
    """One generator's Jacobian: ``log det(J^T J)`` and its condition number, the ratio of its singular values."""

    label: str
    latents: Tensor
    """(m, 2), of the test images, or draws from the prior where there is no encoder"""
    grid: LatentGrid
    off: Tensor
    """(ny, nx), whether a point of the map is off the data"""
    log_det: Tensor
    """(ny, nx)"""
    kappa: Tensor
    """(ny, nx)"""
    log_det_at_data: Tensor
    """(m,)"""
    kappa_at_data: Tensor
    """(m,)"""
    n_collapsed: int
    """trainings that collapsed before this one"""
    n_classes: int
    """classes among what it generates"""
    error_ratio: float
    """squared error on test images over that of two principal components; NaN where there is no encoder"""
    check: TwoSampleTest
    """of images that it makes against test images"""

    @property
    def spreads(self) -> dict[tuple[str, str], Spread]:
        """Of both quantities at the data, off the data and on the whole map."""
        return {
            ("log det", "at the data"): Spread.of(self.log_det_at_data),
            ("log det", "off the data"): Spread.of(self.log_det[self.off]),
            ("log det", "on the map"): Spread.of(self.log_det),
            ("kappa", "at the data"): Spread.of(self.kappa_at_data),
            ("kappa", "off the data"): Spread.of(self.kappa[self.off]),
            ("kappa", "on the map"): Spread.of(self.kappa),
        }


def landscape(label: str, g: MeanGenerator, *, resolution: int) -> Landscape:
    """The Jacobian's determinant and condition number on a map around the data and at the data, in double precision."""
    exact = generators.mean_in_double(g)
    latents = g.test_latents.double()
    grid = LatentGrid.around(latents, resolution=resolution)
    off = OffTheData(g.train_latents, g.test_latents)(grid.points)
    found = [_log_det_and_kappa(exact, z) for z in (grid.points, latents)]
    ratio = math.nan if isinstance(g.model, GANModel) else reconstruction_over_principal_components(g.data, g.model)
    with torch.no_grad():
        made = g.model.mean(g.test_latents[:_COMPARED])
    check = two_sample_test(made, g.data.test_images[:_COMPARED].to(made.device))
    return Landscape(label, latents.cpu(), grid, off, *found[0], *found[1], g.n_collapsed, g.n_classes, ratio, check)


def _log_det_and_kappa(metric: PullbackMetric, z: Tensor) -> tuple[Tensor, Tensor]:
    M = metric(z)
    return 2 * magnification_factor(M).log().cpu(), condition_number(M).sqrt().cpu()


@dataclass(frozen=True)
class Curves:
    """Geodesics between test images, without and with the variance, and their straight lines."""

    g: Generator
    off: OffTheData
    line: Tensor
    """(n, points, 2), at equal steps of latent length, as the others"""
    without: Tensor
    """(n, points, 2)"""
    with_sigma: Tensor
    """(n, points, 2)"""


def curves(g: Generator, *, n_pairs: int, seed: int) -> Curves:
    """Geodesics of the decoder's mean alone and of mean and RBF variance, between ``n_pairs`` pairs of test images."""
    first, second = generators.test_pairs(g.data, n_pairs, seed=seed)
    start, end = g.test_latents[first], g.test_latents[second]
    t = torch.linspace(0, 1, _CURVE_POINTS + 1).to(start)
    found = [geodesic(metric, start, end).curve(t) for metric in (PullbackMetric(g.vae.mean), g.metric)]
    off = OffTheData(g.train_latents, g.test_latents)
    return Curves(g, off, straight(start, end, _CURVE_POINTS), *(evenly(points) for points in found))


@dataclass(frozen=True)
class Generators:
    """Five generators over one seed or several, and the geodesics of one of them."""

    landscapes: dict[str, list[Landscape]]
    """one per seed, by the name of the recipe"""
    curves: Curves
    variants: list[Landscape]
    """what the paper leaves open, chosen otherwise"""

    def first(self, name: str) -> Landscape:
        """That of the first seed, which the maps show."""
        return self.landscapes[name][0]

    def spread(self, name: str, quantity: str, where: str) -> Spread:
        """Medians over the seeds."""
        found = [one.spreads[quantity, where] for one in self.landscapes[name]]
        middle = (sorted(getattr(s, part) for s in found)[len(found) // 2] for part in ("low", "median", "high"))
        return Spread(*middle)

    @property
    def shares(self) -> dict[str, Tensor]:
        """The share of length off the data of every curve, ``(n,)``."""
        c = self.curves
        shown = {"line": c.line, "without sigma": c.without, "with sigma": c.with_sigma}
        return {label: c.off.shares(points) for label, points in shown.items()}

    @property
    def numbers(self) -> list[dict[str, Any]]:
        """Rows of the numbers table."""
        rows = []
        for k, name in enumerate(MODELS):
            for quantity in ("log det", "kappa"):
                for where in ("at the data", "off the data", "on the map"):
                    s = self.spread(name, quantity, where)
                    note = f"5th to 95th percentile {_shown(s.low)} to {_shown(s.high)}{self._over_seeds(name)}"
                    label = f"{self.first(name).label}: median {quantity} {where}"
                    rows.append(number(f"RA-{k + 1}", label, s.median, note=note))
            first = self.first(name)
            error = "squared error on test images over that of 2 principal components"
            if name != GAN:
                rows.append(number(f"RA-{k + 1}", f"{first.label}: {error}", first.error_ratio))
            told = f"{first.label}: images made and real whose nearest neighbour is of their kind"
            note = f"50 % where they cannot be told apart; {first.check.outcome}"
            rows.append(number(f"RA-{k + 1}", told, 100 * first.check.share, unit="%", note=note))
        gan = self.first(GAN)
        outcome = f"{'passes' if gan.check.passes else 'fails'}: {gan.check.outcome}"
        what = f"{gan.label}: two-sample check at the {100 * LEVEL:.0f} % level, p-value"
        rows.append(number("RA-5", what, gan.check.p, note=outcome))
        note = f"of {gan.n_classes} of 10 classes at least {100 * generators.PRESENT:.0f} % among its images"
        rows.append(number("RA-5", "trainings of the GAN that collapsed", gan.n_collapsed, note=note))
        for one in self.variants:
            rows.append(
                number("RA", f"{one.label}: median kappa on the map", one.spreads["kappa", "on the map"].median)
            )
        for label, share in self.shares.items():
            what = "straight lines" if label == "line" else f"geodesics {label}"
            rows.append(
                number("RA-1", f"share of the length of {what} off the data", 100 * float(share.mean()), unit="%")
            )
        return rows

    @property
    def vae_medians(self) -> str:
        """The VAEs' median condition numbers on their maps, in words."""
        return _listed([self.spread(name, "kappa", "on the map").median for name in VAES])

    def median(self, name: str) -> str:
        """A model's median condition number on its map, in words."""
        return _shown(self.spread(name, "kappa", "on the map").median)

    @property
    def conditioning(self) -> str:
        """Which models are well conditioned nearly everywhere, in words."""
        well = [self.first(name).label for name in MODELS if self.spread(name, "kappa", "on the map").high <= WELL]
        if not well:
            return f"No model's condition number stays below {WELL} on nearly all of its map."
        names = " and ".join([", ".join(well[:-1]), well[-1]] if len(well) > 1 else well)
        return f"On nearly all of its map the condition number stays below {WELL} for {names}."

    @property
    def collapse(self) -> str:
        """How the GAN's training went, in words."""
        gan = self.first(GAN)
        trained = "Its first training did not collapse"
        if gan.n_collapsed:
            trained = f"{gan.n_collapsed} of its trainings collapsed"
        return f"{trained}; of what it generates {gan.n_classes} of the 10 classes have a share."

    @property
    def check(self) -> str:
        """Whether the GAN's images pass the two-sample check, in words."""
        check = self.first(GAN).check
        return f"Its images {'pass' if check.passes else 'fail'} the two-sample check: they are {check.outcome}."

    @property
    def away(self) -> str:
        """Whether the VAEs' metric is low off the data, in words."""
        lower = [
            self.spread(name, "log det", "off the data").median < self.spread(name, "log det", "at the data").median
            for name in VAES
        ]
        count = f"{sum(lower)} of the {len(lower)} VAEs"
        return f"In the median the metric of {count} is smaller off the data than at the data."

    def percent(self, label: str) -> str:
        """A mean share of ``shares``, in words."""
        return f"{100 * float(self.shares[label].mean()):.1f} %"

    @property
    def leaving(self) -> str:
        """What the geodesics do, in words."""
        without, with_sigma = (float(self.shares[f"{word} sigma"].mean()) for word in ("without", "with"))
        if LEAVING.holds(without=without, with_sigma=with_sigma):
            return "So without a variance they do leave the data, as the paper says they may."
        return "The variance makes less of a difference than the criterion asks for."

    def _over_seeds(self, name: str) -> str:
        n = len(self.landscapes[name])
        return f"; medians of {n} seeds" if n > 1 else ""

    @property
    def claims(self) -> list[dict[str, Any]]:
        """Verdicts on the claims of Ramirez 2020."""
        on_map = {name: self.spread(name, "kappa", "on the map") for name in MODELS}
        spans = {name: _width(self.spread(name, "log det", "on the map")) for name in MODELS}
        highest = max(on_map[name].high for name in VAES)
        medians = [on_map[name].median for name in VAES]
        ratio = max(medians) / min(medians)
        away = max(
            self.spread(name, "log det", "off the data").median - self.spread(name, "log det", "at the data").median
            for name in VAES
        )
        others = [name for name in MODELS if name != GAN]
        without, with_sigma = (float(self.shares[f"{word} sigma"].mean()) for word in ("without", "with"))
        return [
            CONDITIONED.decide(f"highest 95th percentile {_shown(highest)}", highest=highest),
            AWAY.decide(f"differences up to {away:+.1f}", largest_difference=away),
            LEAVING.decide(
                f"{100 * without:.1f} % without sigma, {100 * with_sigma:.1f} % with it",
                without=without,
                with_sigma=with_sigma,
            ),
            ARCHITECTURE.decide(f"a factor of {ratio:.2f}", ratio=ratio),
            WORSE.decide(
                f"median {on_map[DAE].median:.1f}, VAEs up to {max(medians):.1f}",
                dae=on_map[DAE].median,
                vaes=max(medians),
            ),
            WORST.decide(
                f"log det spans {spans[GAN]:.1f}, the others up to {max(spans[name] for name in others):.1f}; 95th "
                f"percentile {_shown(on_map[GAN].high)}, the others up to "
                f"{_shown(max(on_map[name].high for name in others))}",
                span=spans[GAN],
                other_spans=max(spans[name] for name in others),
                high=on_map[GAN].high,
                other_highs=max(on_map[name].high for name in others),
            ),
        ]


def measure(
    g: Generator,
    models: dict[str, list[MeanGenerator]],
    variants: dict[str, MeanGenerator],
    labels: dict[str, str],
    *,
    n_pairs: int,
    resolution: int,
    seed: int,
) -> Generators:
    """Map all models, and find the geodesics of one.

    Args:
        g: the first VAE with its variance, for the geodesics.
        models: of every seed, by the name of the recipe.
        variants: what the paper leaves open, chosen otherwise, by what a figure calls it.
        labels: what figures call the models, by the name of the recipe.
        n_pairs: pairs of test images that geodesics join.
        resolution: points of a map along each axis.
        seed: of the pairs.
    """
    landscapes = {name: [landscape(labels[name], g, resolution=resolution) for g in models[name]] for name in MODELS}
    others = [landscape(label, g, resolution=resolution) for label, g in variants.items()]
    progress.say("geodesics")
    return Generators(landscapes, curves(g, n_pairs=n_pairs, seed=seed), others)


def _listed(values: list[float]) -> str:
    *most, last = (f"{value:.1f}" for value in values)
    return f"{', '.join(most)} and {last}"


def _width(s: Spread) -> float:
    return s.high - s.low


def _shown(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "infinity"
