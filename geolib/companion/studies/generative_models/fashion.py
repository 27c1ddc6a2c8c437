"""Notebook 12: what the variance of a generator does to the geometry of its latent space, on Fashion-MNIST."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from geolib import PullbackMetric, magnification_factor, relative_improvement
from geolib.companion.cache import progress
from geolib.companion.models import generators
from geolib.companion.models.generators import Generator
from geolib.companion.models.grid import LatentGrid
from geolib.companion.studies import summaries
from geolib.companion.studies.evidence import Claim, number
from geolib.companion.studies.generative_models import fashion_curves, fashion_walks, variance_sweep
from geolib.companion.studies.generative_models.fashion_curves import MANY, MAX_STEPS, WIDE, FashionCurves
from geolib.companion.studies.generative_models.fashion_walks import Walks
from geolib.companion.studies.generative_models.support import reconstruction_over_principal_components
from geolib.companion.studies.generative_models.variance_sweep import CHOSEN, Sweep
from geolib.evaluation import RelativeImprovement

NETWORK = "the network's variance"
WITHOUT, RBF = "no variance", "the RBF variance"
LARGER = 2  # by how much a volume has to be larger off the data to tell where they end
FLAT = 0.01  # mean relative improvement below which we call a metric flat

UNINFORMATIVE = Claim(
    "DWB-8",
    "with the decoder's own variance the metric is flat in and out of the data, with the RBF variance it is not",
    f"with its own the median of sqrt det M off the data is at most {LARGER} times that at the data, with the RBF's it "
    "is more",
    lambda network, rbf: network <= math.log(LARGER) < rbf,
)
VARIANCE_LEFT_OUT = Claim(
    "DWB-8",
    "generated manifolds seem to have little curvature because a meaningful variance was left out",
    f"Algorithm 1's mean improvement is below {100 * FLAT:.0f} % without a variance, and its 95 % interval with the "
    "RBF variance lies above that without",
    lambda without, high_without, low_with: without < FLAT and low_with > high_without,
)


@dataclass(frozen=True)
class Fashion:
    """Everything that notebook 12 measures on one decoder under several variances."""

    g: Generator
    """at the paper's choice of a and K"""
    grid: LatentGrid
    volumes: dict[str, Tensor]
    """log sqrt det M on the map ``(ny, nx)``, by what a reader calls the variance"""
    volumes_at_data: dict[str, Tensor]
    """``(m,)``, the same at the test latents"""
    sweep: Sweep
    curves: FashionCurves
    walks: Walks
    improvements: dict[str, RelativeImprovement]
    """Algorithm 1 by variance: ``WITHOUT``, ``NETWORK``, ``RBF``"""
    error_ratio: float
    """the mean's squared error on test images over that of as many principal components"""

    @property
    def images(self) -> str:
        """How many images there are, in words."""
        return f"{len(self.g.data.train_images):,} training images"

    @property
    def separation(self) -> str:
        """How far the classes are apart, in words."""
        share = summaries.share_beside_its_own_kind(self.g.test_latents, self.g.test_labels)
        percent = f"{100 * share:.0f} %"
        return f"Of the encoded test images {percent} have a nearest neighbour of their own class."

    @cached_property
    def _off(self) -> Tensor:
        """``(ny, nx)``, whether a point of the map is off the data."""
        return self.curves.off(self.grid.points)

    def rise(self, variance: str) -> float:
        """The median of log sqrt det M off the data less that at the data."""
        return summaries.median(self.volumes[variance][self._off]) - summaries.median(self.volumes_at_data[variance])

    def times(self, variance: str) -> str:
        """The same as a factor, in words."""
        return f"{math.exp(self.rise(variance)):.3g} times"

    def improvement(self, variance: str) -> str:
        """Algorithm 1's mean, in words."""
        return f"{100 * self.improvements[variance].mean:.2f} %"

    @property
    def training_numbers(self) -> list[dict[str, Any]]:
        """Rows of the numbers table on the model."""
        note = "softplus gives both log variances in Table 1, so no variance is below 1"
        with torch.no_grad():
            std = self.g.vae.std(self.g.test_latents)
        return [
            number(
                "DWB-3",
                "squared error on test images over that of 2 principal components",
                self.error_ratio,
                note=self.images,
            ),
            number(
                "DWB-4", "largest standard deviation of the network at the test latents", float(std.max()), note=note
            ),
        ]

    @property
    def numbers(self) -> list[dict[str, Any]]:
        """Rows of the numbers table on the metric."""
        rows = [
            number(
                "DWB-8",
                f"median of sqrt det M off the data over that at the data, {variance}",
                math.exp(self.rise(variance)),
            )
            for variance in (NETWORK, RBF)
        ]
        for variance, found in self.improvements.items():
            note = (
                f"half the 95 % interval {100 * found.half_width:.2f}, {len(found.improvement):,} pairs, {self.images}"
            )
            rows.append(
                number("DWB-8", f"mean relative improvement with {variance}", 100 * found.mean, unit="%", note=note)
            )
        return rows

    @property
    def claims(self) -> list[dict[str, Any]]:
        """Verdicts on the claims about the metric."""
        without, with_rbf = self.improvements[WITHOUT], self.improvements[RBF]
        return [
            UNINFORMATIVE.decide(
                f"{self.times(NETWORK)} and {self.times(RBF)}", network=self.rise(NETWORK), rbf=self.rise(RBF)
            ),
            VARIANCE_LEFT_OUT.decide(
                f"{self.improvement(WITHOUT)} without, {self.improvement(RBF)} with",
                without=without.mean,
                high_without=without.interval[1],
                low_with=with_rbf.interval[0],
            ),
        ]

    @property
    def explanation(self) -> str:
        """Whether the variance explains flatness, in words."""
        without, with_rbf = self.improvements[WITHOUT], self.improvements[RBF]
        if VARIANCE_LEFT_OUT.holds(without.mean, without.interval[1], with_rbf.interval[0]):
            return "So on this decoder straight lines are nearly shortest only where a meaningful variance is left out."
        return "So on this decoder a variance left out is not what makes straight lines nearly shortest."


def measure(
    models: dict[tuple[float, int], Generator],
    *,
    n_pairs: int,
    n_steps: int,
    n_samples: int,
    resolution: int,
    seed: int,
    max_steps: int = MAX_STEPS,
) -> Fashion:
    """Everything on one decoder, from its generators by (a, K).

    Args:
        models: for all ``SETTINGS``.
        n_pairs: pairs of test images that curves join.
        n_steps: of a random walk.
        n_samples: pairs of Algorithm 1.
        resolution: points of a map along each axis.
        seed: of pairs, walks and draws.
        max_steps: of the solver, for the curves between images.
    """
    g = models[CHOSEN]
    grid = LatentGrid.around(g.test_latents, resolution=resolution, margin=0.3)
    exact = {setting: generators.in_double(models[setting]) for setting in (CHOSEN, WIDE, MANY)}
    vae = exact[CHOSEN].vae
    metrics = {
        RBF: exact[CHOSEN].metric,
        NETWORK: PullbackMetric(vae.mean, vae.std),
        **{fashion_curves.LABELS[setting]: exact[setting].metric for setting in (WIDE, MANY)},
    }
    progress.say("maps")
    on_map, at_data = (
        {name: magnification_factor(metric(z)).log().cpu() for name, metric in metrics.items()}
        for z in (grid.points.double(), exact[CHOSEN].test_latents)
    )
    progress.say("variances")
    swept = variance_sweep.sweep(models, grid)
    progress.say("geodesics")
    curves = fashion_curves.curves(models, n_pairs=n_pairs, seed=seed, max_steps=max_steps)
    progress.say("random walks")
    walks = fashion_walks.walks(g, n_steps=n_steps, seed=seed)
    progress.say("Algorithm 1")
    compared = {WITHOUT: PullbackMetric(g.vae.mean), NETWORK: PullbackMetric(g.vae.mean, g.vae.std), RBF: g.metric}
    improvements = {
        name: relative_improvement(metric, n_samples=n_samples, seed=seed) for name, metric in compared.items()
    }
    ratio = reconstruction_over_principal_components(g.data, g.vae)
    return Fashion(g, grid, on_map, at_data, swept, curves, walks, improvements, ratio)
