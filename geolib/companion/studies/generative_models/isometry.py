"""Notebook 17: whether training can make straight lines right, by an isometric regulariser."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from geolib import PullbackMetric, condition_number, relative_improvement
from geolib.companion.cache import progress
from geolib.companion.models import generators
from geolib.companion.models.generators import Generator
from geolib.companion.models.grid import LatentGrid
from geolib.companion.models.networks.isometric import distortion
from geolib.companion.studies import summaries
from geolib.companion.studies.evidence import number
from geolib.companion.studies.generative_models.support import reconstruction_over_principal_components
from geolib.evaluation import RelativeImprovement

STRENGTHS = (0.0, 1.0, 10.0, 100.0, 1000.0, 10000.0)
"""weights of the regulariser, in nats per image; 0 is the training without it"""
SHOWN = (0.0, 100.0, 10000.0)
HALF = 0.5  # of the mean improvement without the regulariser


@dataclass(frozen=True)
class Trained:
    """One strength's model and its geometry."""

    g: Generator
    grid: LatentGrid
    kappa: Tensor
    """``(ny, nx)``, condition number of the metric of the decoder's mean"""
    kappa_at_data: Tensor
    """``(m,)``"""
    distortion: float
    """squared coefficient of variation of the eigenvalues at the test latents"""
    without: RelativeImprovement
    """Algorithm 1 with the decoder's mean alone"""
    with_sigma: RelativeImprovement
    """Algorithm 1 with the RBF variance"""
    error_ratio: float
    """the mean's squared error on test images over that of two principal components"""


@dataclass(frozen=True)
class Isometry:
    """All strengths."""

    trained: dict[float, Trained]

    @property
    def numbers(self) -> list[dict[str, Any]]:
        """Rows of the numbers table."""
        rows = []
        for strength, one in self.trained.items():
            label = f"strength {strength:g}"
            for what, found in (("no variance", one.without), ("the RBF variance", one.with_sigma)):
                note = f"half the 95 % interval {100 * found.half_width:.2f}, {len(found.improvement):,} pairs"
                quantity = f"{label}: mean relative improvement with {what}"
                rows.append(number("B-5", quantity, 100 * found.mean, unit="%", note=note))
            kappa = summaries.median(one.kappa_at_data)
            rows += [
                number("B-5", f"{label}: median condition number at the test data, no variance", kappa),
                number("B-5", f"{label}: coefficient of variation of the metric's eigenvalues", one.distortion**0.5),
                number("B-5", f"{label}: squared error on test images over that of 2 components", one.error_ratio),
            ]
        return rows

    @property
    def conditions(self) -> str:
        """Median condition numbers of the first and the last strength, in words."""
        first, *_, last = self.trained.values()
        ends = [summaries.median(one.kappa_at_data) for one in (first, last)]
        tops = [float(one.kappa.double().quantile(0.95)) for one in (first, last)]
        return (
            f"The median condition number at the test digits goes from {ends[0]:.2f} to {ends[1]:.2f}, the 95th "
            f"percentile over the map from {tops[0]:.3g} to {tops[1]:.3g}."
        )

    @property
    def answer(self) -> str:
        """What the regulariser changes, in words."""
        plain, *others = self.trained.values()
        for strength, one in zip(list(self.trained)[1:], others, strict=True):
            if one.without.mean <= HALF * plain.without.mean:
                cost = 100 * (one.error_ratio / plain.error_ratio - 1)
                return (
                    f"A strength of {strength:g} is the smallest here that halves the mean improvement, from "
                    f"{100 * plain.without.mean:.2f} to {100 * one.without.mean:.2f} %, at {cost:+.1f} % squared error."
                )
        return f"No strength here halves the mean improvement of {100 * plain.without.mean:.2f} %."

    @property
    def with_variance(self) -> str:
        """The same under the RBF variance, in words."""
        plain, *_, strongest = self.trained.values()
        values = (100 * plain.with_sigma.mean, 100 * strongest.with_sigma.mean)
        return "Under the RBF variance the mean improvement goes from {:.2f} to {:.2f} %.".format(*values)


def measure(models: dict[float, Generator], *, n_samples: int, resolution: int, seed: int) -> Isometry:
    """The geometry of generators by strength.

    Args:
        models: by the weight of the regulariser, for all ``STRENGTHS``.
        n_samples: pairs of Algorithm 1.
        resolution: points of a map along each axis.
        seed: of the pairs.
    """
    return Isometry({w: _measured(w, g, n_samples, resolution, seed) for w, g in models.items()})


def _measured(weight: float, g: Generator, n_samples: int, resolution: int, seed: int) -> Trained:
    progress.say(f"strength {weight:g}")
    exact = generators.in_double(g)
    mean = PullbackMetric(exact.vae.mean)
    grid = LatentGrid.around(exact.test_latents, resolution=resolution)
    M = mean(exact.test_latents)
    improvements = [
        relative_improvement(metric, n_samples=n_samples, seed=seed)
        for metric in (PullbackMetric(g.vae.mean), g.metric)
    ]
    return Trained(
        g,
        grid,
        condition_number(mean(grid.points)).cpu(),
        condition_number(M).cpu(),
        float(distortion(M)),
        *improvements,
        reconstruction_over_principal_components(g.data, g.vae),
    )
