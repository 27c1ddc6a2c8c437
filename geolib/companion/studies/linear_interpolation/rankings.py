"""Do comparable pairs rank two models more reliably? Resampled pairs, comparable ones against all."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from geolib import compare_models
from geolib.companion.cache import measurements, progress
from geolib.companion.models import generators
from geolib.companion.models.features import Logistic
from geolib.companion.models.generators import Generator
from geolib.companion.studies.evidence import Claim, Verdict, number
from geolib.companion.studies.linear_interpolation.two_models import NAMES, PAPER_LINES

# Of the images along a straight line: how unsure a classifier is, and how far they are from any image of the data.
MEASURES = {"entropy": "classifier entropy [bits]", "distance": "distance to the nearest training image"}
SAMPLE = len(PAPER_LINES)  # pairs that a comparison is made on, as many as the paper names
N_IMAGES = 9  # of a sequence
_N_RESAMPLES = 2000
_N_BOOTSTRAPS = 400
_CERTAIN = 95  # per cent
_REVISION = 1  # counts changes of this file that change what is measured

FAIRER = Claim(
    "MB-6",
    "a comparison of two models is fairer on comparable pairs: it depends less on which pairs were drawn",
    f"for both measures, two samples of {SAMPLE} comparable pairs name the same better model more often than two "
    "samples of as many of all pairs; both 95 % bootstrap intervals of the difference lie above 0",
    lambda entropy, distance: min(entropy, distance) > 0,
    otherwise=Verdict.NOT_REPRODUCED,
)


@dataclass(frozen=True)
class Ranking:
    """Which of two models draws the better sequences, pair by pair."""

    better: dict[str, Tensor]
    """by the names of ``MEASURES``: ``(n,)``, the second model's value less the first's: positive where the first model
    is the better one"""
    comparable: Tensor
    """``(n,)``, which pairs are comparable"""
    seed: int
    """of the resampling"""

    @property
    def n(self) -> int:
        """The number of pairs."""
        return len(self.comparable)

    @property
    def n_comparable(self) -> int:
        """The number of comparable pairs."""
        return int(self.comparable.sum())

    def winner(self, measure: str) -> str:
        """The better model by the mean over all pairs."""
        return NAMES[0] if float(self.better[measure].mean()) > 0 else NAMES[1]

    @property
    def share_of_wins(self) -> dict[str, tuple[float, float]]:
        """By measure, in per cent: the pairs in which the first model is better, of all and of comparable pairs."""
        return {
            name: tuple(100 * float((values > 0).double().mean()) for values in (better, better[self.comparable]))
            for name, better in self.better.items()
        }

    @cached_property
    def agreement(self) -> dict[str, tuple[float, float]]:
        """By measure: how often two samples name the same winner, in per cent, of all and of comparable pairs."""
        return {name: self._agreements(self.better[name], self.comparable) for name in MEASURES}

    @cached_property
    def difference(self) -> dict[str, tuple[float, float, float]]:
        """By measure: the agreement of comparable pairs less that of all, in percentage points, and its 95 % interval
        over draws of the pairs; NaN where there are fewer comparable pairs than a sample has."""
        random = torch.Generator().manual_seed(self.seed)
        rows = torch.randint(self.n, (_N_BOOTSTRAPS, self.n), generator=random)
        found = {}
        for name in MEASURES:
            whole, comparable = self.agreement[name]
            if math.isnan(comparable):
                found[name] = (math.nan, math.nan, math.nan)
                continue
            drawn = [self._agreements(self.better[name][each], self.comparable[each]) for each in rows]
            gains = torch.tensor([b - a for a, b in drawn], dtype=torch.float64)
            bounds = gains.nanquantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
            found[name] = (comparable - whole, *bounds)
        return found

    def _agreements(self, better: Tensor, comparable: Tensor) -> tuple[float, float]:
        chosen = better[comparable]
        if len(chosen) < SAMPLE:
            return 100 * _agreement(better, self.seed), math.nan
        return 100 * _agreement(better, self.seed), 100 * _agreement(chosen, self.seed)

    @property
    def agreements_in_words(self) -> str:
        """How often two samples agree, by either measure, for a reader."""
        parts = []
        for name, (whole, comparable) in self.agreement.items():
            among = "" if math.isnan(comparable) else f", and in {comparable:.0f} % where pairs are comparable"
            parts.append(f"By the {name} two samples agree in {whole:.0f} % of cases{among}")
        return ". ".join(parts)

    @property
    def wins_in_words(self) -> str:
        """How many single pairs the first model wins by the classifier's entropy, for a reader."""
        wins, of_comparable = self.share_of_wins["entropy"]
        among = f", and {of_comparable:.0f} % of the comparable ones" if self.n_comparable else ""
        return f"By entropy, {NAMES[0]} wins {wins:.0f} % of single pairs{among}"

    @property
    def said(self) -> str:
        """Which measures are more reliable on comparable pairs, in words."""
        if min(whole for whole, _ in self.agreement.values()) >= _CERTAIN:
            return "Samples of all pairs agree almost always, so comparable pairs have little to add here"
        more = [name for name in MEASURES if self.difference[name][1] > 0]
        less = [name for name in MEASURES if self.difference[name][2] < 0]
        if len(more) == len(MEASURES):
            return "By both measures the ranking depends less on the draw where pairs are comparable"
        if len(less) == len(MEASURES):
            return "By both measures the ranking depends more on the draw where pairs are comparable"
        if more or less:
            sides = [f"less by the {name}" for name in more] + [f"more by the {name}" for name in less]
            return f"On comparable pairs the ranking depends on the draw {' and '.join(sides)}"
        return "By neither measure do comparable pairs make the ranking depend less on the draw, beyond chance"

    @property
    def numbers(self) -> list[dict[str, Any]]:
        """Rows of the numbers table."""
        rows = [number("MB-6", f"comparable pairs of {self.n}, for the ranking", self.n_comparable)]
        for name in MEASURES:
            groups = zip(("all", "comparable"), self.agreement[name], self.share_of_wins[name], strict=True)
            for where, value, wins in groups:
                quantity = f"pairs in which {NAMES[0]} is better by {name}, of {where} pairs"
                same = f"samples of {SAMPLE} that name the same better model by {name}, of {where} pairs"
                rows += [
                    number("MB-6", what, share, unit="%")
                    for what, share in ((quantity, wins), (same, value))
                    if math.isfinite(share)  # of no comparable pairs there is none
                ]
        return rows

    @property
    def claims(self) -> list[dict[str, Any]]:
        """The verdict on the paper's proposal."""
        said = "; ".join(
            f"{name}: {gain:+.1f} percentage points ({low:+.1f} to {high:+.1f})"
            for name, (gain, low, high) in self.difference.items()
        )
        return [FAIRER.decide(said, **{name: bounds[1] for name, bounds in self.difference.items()})]


def measure(
    models: tuple[Generator, Generator],
    logistic: Logistic,
    *,
    n_pairs: int,
    threshold: float,
    seed: int,
    settings: dict[str, Any],
) -> Ranking:
    """The quality of the straight lines' sequences of the same pairs in two models, and which pairs are comparable.

    Args:
        models: the two generators, of the same data.
        logistic: the classifier, fitted to these data.
        n_pairs: number of pairs.
        threshold: largest difference of the relative improvements of a comparable pair.
        seed: of the pairs and of the resampling.
        settings: what else the result depends on, as ``Run.settings`` has it: it is kept under these.
    """

    def qualities() -> dict[str, Any]:
        first, second = generators.test_pairs(models[0].data, n_pairs, seed=seed)
        progress.say(f"{n_pairs} pairs in two models")
        sides = [(g.metric, g.test_latents[first], g.test_latents[second]) for g in models]
        comparison = compare_models(*sides, threshold=threshold)
        a, b = (quality(g, logistic, start, end) for g, (_, start, end) in zip(models, sides, strict=True))
        return {
            "comparable": comparison.comparable.tolist(),
            "better": {name: (b[name] - a[name]).tolist() for name in MEASURES},
        }

    key = {
        **settings,
        "revision": _REVISION,
        "n_pairs": n_pairs,
        "seed": seed,
        "threshold": threshold,
        "images": N_IMAGES,
    }
    kept = measurements.kept("ranking", key, qualities)
    better = {name: torch.tensor(values, dtype=torch.float64) for name, values in kept["better"].items()}
    return Ranking(better, torch.tensor(kept["comparable"]), seed)


@torch.no_grad()
def quality(g: Generator, logistic: Logistic, start: Tensor, end: Tensor) -> dict[str, Tensor]:
    """By the names of ``MEASURES``: ``(n,)``, the mean over images decoded along straight lines; less is better."""
    t = torch.linspace(0, 1, N_IMAGES, dtype=start.dtype, device=start.device)
    points = torch.lerp(start.unsqueeze(1), end.unsqueeze(1), t.unsqueeze(-1))
    images = g.vae.mean(points.flatten(0, 1))
    p = logistic.probabilities(images)
    entropy = -torch.special.xlogy(p, p).sum(-1) / torch.tensor(2.0).log()
    data = g.data.train_images.to(images)
    distance = torch.cat([torch.cdist(part, data).amin(-1) for part in images.split(512)])
    return {
        name: values.reshape(len(start), N_IMAGES).mean(-1).cpu().double()
        for name, values in (("entropy", entropy), ("distance", distance))
    }


def _share_of_wins(better: Tensor, seed: int) -> float:
    """Of samples of ``SAMPLE`` pairs, drawn with replacement, those whose mean is positive; a tie counts a half."""
    random = torch.Generator().manual_seed(seed)
    means = better[torch.randint(len(better), (_N_RESAMPLES, SAMPLE), generator=random)].mean(-1)
    return float((means > 0).double().mean() + (means == 0).double().mean() / 2)


def _agreement(better: Tensor, seed: int) -> float:
    """How often two samples name the same winner."""
    wins = _share_of_wins(better, seed)
    return wins**2 + (1 - wins) ** 2
