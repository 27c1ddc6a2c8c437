"""B-6: how far distances between the same images depend on the training."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geolib import geodesic
from geolib.companion.cache import progress
from geolib.companion.models import generators
from geolib.companion.models.generators import Generator
from geolib.companion.studies import spread, summaries
from geolib.companion.studies.evidence import Claim, Verdict, number
from geolib.companion.studies.reliable_distances.ensembles import ENSEMBLE, RBF, WITHOUT, metrics
from geolib.paths.result import Geodesic
from geolib.variance import Ensemble

EUCLIDEAN = "Euclidean"
_SAID = {
    EUCLIDEAN: "The Euclidean distance",
    WITHOUT: "The geodesic distance without a variance",
    RBF: "The geodesic distance under the RBF variance",
    ENSEMBLE: "The ensemble's geodesic distance",
}
KINDS = tuple(_SAID)

LESS_THAN_EUCLIDEAN = Claim(
    "B-6",
    "distances under an ensemble vary less between trainings than Euclidean ones (Syrota et al. 2024)",
    "the coefficient of variation over trainings is smaller, on average over pairs: the 95 % interval of the mean "
    "difference lies below 0",
    lambda high: high < 0,
    otherwise=Verdict.NOT_REPRODUCED,
)
LESS_THAN_RBF = Claim(
    "B-6",
    "distances under an ensemble vary less between trainings than those under the RBF variance (Syrota et al. 2024)",
    "the coefficient of variation over trainings is smaller, on average over pairs: the 95 % interval of the mean "
    "difference lies below 0",
    lambda high: high < 0,
    otherwise=Verdict.NOT_REPRODUCED,
)


@dataclass(frozen=True)
class Retrainings:
    """Distances between the same pairs of test images in models that differ only in the seed of their training."""

    distances: dict[str, Tensor]
    """``(n_trainings, n_pairs)``, by kind of distance"""
    n_converged: dict[str, int]
    """geodesics of all trainings that converged, by kind"""

    @property
    def n_trainings(self) -> int:
        """How many trainings."""
        return len(self.distances[EUCLIDEAN])

    @property
    def n_pairs(self) -> int:
        """How many pairs."""
        return self.distances[EUCLIDEAN].shape[1]

    def normalised(self, kind: str) -> Tensor:
        """Distances over their mean in the same training ``(n_trainings, n_pairs)``: latent spaces differ in scale."""
        distances = self.distances[kind]
        return distances / distances.mean(-1, keepdim=True)

    def variation(self, kind: str) -> Tensor:
        """The coefficient of variation over trainings of each pair's normalised distance ``(n_pairs,)``."""
        values = self.normalised(kind)
        return values.std(0) / values.mean(0)

    def agreement(self, kind: str) -> Tensor:
        """Spearman's rank correlation of the distances of any two trainings ``(n_trainings choose 2,)``."""
        both = itertools.combinations(self.distances[kind].unbind(0), 2)
        return torch.tensor(
            [summaries.rank_correlation(torch.stack(each, dim=-1)) for each in both], dtype=torch.float64
        )

    def mean_agreement(self, kind: str) -> tuple[float, float]:
        """The mean of ``agreement``, and half its 95 % interval over draws of the pairs, by resampling them."""
        found = spread.of_statistic([self.distances[kind].T], summaries.rank_correlation)
        return found.estimates[0], 1.96 * found.errors[0]

    def less_variation(self, than: str) -> tuple[float, float]:
        """By how much the ensemble's coefficient of variation is smaller, as a negative number of percentage points,
        and half its 95 % interval over pairs."""
        less = 100 * (self.variation(ENSEMBLE) - self.variation(than))
        return summaries.mean(less), float(summaries.half_width(less))

    @property
    def numbers(self) -> list[dict[str, Any]]:
        """Rows of the numbers table."""
        note, rows = f"{self.n_trainings} trainings, {self.n_pairs} pairs", []
        for kind in KINDS:
            variation = 100 * self.variation(kind)
            half = f"{note}, half the 95 % interval over pairs {float(summaries.half_width(variation)):.1f}"
            rho, error = self.mean_agreement(kind)
            rows += [
                number("B-6", f"{kind}: coefficient of variation", summaries.mean(variation), unit="%", note=half),
                number("B-6", f"{kind}: rank correlation of two trainings", rho, note=f"{note}, half {error:.3f}"),
            ]
        total = self.n_trainings * self.n_pairs
        rows += [
            number("B-6", f"{kind}: geodesics that converged", n, note=f"of {total}")
            for kind, n in self.n_converged.items()
        ]
        return rows

    @property
    def claims(self) -> list[dict[str, Any]]:
        """Verdicts on the paper's claims: none where fewer than half of the curves are geodesics."""
        found = []
        for claim, than in ((LESS_THAN_EUCLIDEAN, EUCLIDEAN), (LESS_THAN_RBF, RBF)):
            mean, half = self.less_variation(than)
            interval = f"{mean - half:+.1f} to {mean + half:+.1f}"
            told = f"{mean:+.1f} percentage points ({interval}); {self.n_trainings} trainings"
            counts = [self.n_converged[kind] for kind in (ENSEMBLE, than) if kind in self.n_converged]
            trusted = min(counts) >= self.n_trainings * self.n_pairs / 2
            found.append(claim.decide(told, high=mean + half if trusted else math.nan))
        return found

    @property
    def how_far(self) -> str:
        """The coefficients of variation, in words."""
        means = {kind: 100 * summaries.mean(self.variation(kind)) for kind in KINDS}
        told = ", ".join(f"{value:.1f} % ({kind})" for kind, value in means.items())
        return f"A pair's distance varies over the {self.n_trainings} trainings by {told}, on average over pairs."

    @property
    def how_ranked(self) -> str:
        """The rank correlations, in words."""
        told = ", ".join("{:.2f} ± {:.2f} ({})".format(*self.mean_agreement(kind), kind) for kind in KINDS)
        return f"Spearman's rank correlation between two trainings is {told}."

    @property
    def which_first(self) -> str:
        """Which kind of distance varies least, in words, and whether the ensemble's differ from the RBF's."""
        least = min(KINDS, key=lambda kind: summaries.mean(self.variation(kind)))
        mean, half = self.less_variation(RBF)
        apart = "less than" if mean + half < 0 else "more than" if mean - half > 0 else "no differently from"
        return f"{_SAID[least]} varies least. The ensemble's varies {apart} that under the RBF variance"


def measure(
    models: list[tuple[Generator, Ensemble]], *, n_pairs: int, seed: int, known: dict[str, Geodesic] | None = None
) -> Retrainings:
    """Distances of the same pairs of test images in retrained models.

    Args:
        models: a VAE and its decoders from each seed of training, at least two.
        n_pairs: pairs of test images.
        seed: of the pairs.
        known: the geodesics of these pairs in the first model, by metric, where they were found before.
    """
    first, second = generators.test_pairs(models[0][0].data, n_pairs, seed=seed)
    distances: dict[str, list[Tensor]] = {kind: [] for kind in KINDS}
    converged = dict.fromkeys(KINDS[1:], 0)
    for k, (g, members) in enumerate(models):
        start, end = g.test_latents[first], g.test_latents[second]
        distances[EUCLIDEAN].append((end - start).norm(dim=-1))
        for kind in converged:
            progress.say(f"training {k + 1} of {len(models)}: {kind}")
            found = known[kind] if known and k == 0 else geodesic(metrics(g, members)[kind], start, end)
            distances[kind].append(found.length)
            converged[kind] += int(found.converged.sum())
    return Retrainings({kind: torch.stack(each).double().cpu() for kind, each in distances.items()}, converged)
