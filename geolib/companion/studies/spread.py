"""How far a number depends on the training, and how far on the draws: retrained models, between and within apart."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geolib.companion.studies.evidence import number

_N_RESAMPLES = 200


@dataclass(frozen=True)
class Spread:
    """One number on models trained from several seeds, each time with its standard error over draws."""

    estimates: list[float]
    errors: list[float]

    @property
    def within(self) -> float:
        """The standard error of one model's number over draws, as a root mean square over the models."""
        return math.sqrt(sum(error**2 for error in self.errors) / len(self.errors))

    @property
    def between(self) -> float:
        """The standard deviation between models beyond what the draws explain; NaN for one model.

        The variance of the estimates less the mean of their squared errors, and 0 where that is negative.
        """
        if len(self.estimates) == 1:
            return math.nan
        variance = float(torch.tensor(self.estimates, dtype=torch.float64).var())
        return math.sqrt(max(0.0, variance - self.within**2))

    def rows(self, quantity: str, *, unit: str = "") -> list[dict[str, Any]]:
        """Rows of the numbers table; none for one model."""
        if len(self.estimates) == 1:
            return []
        low, high = min(self.estimates), max(self.estimates)
        note = f"{len(self.estimates)} seeds of training, {low:.3g} to {high:.3g}"
        return [
            number("B-3", f"{quantity}: standard deviation between models", self.between, unit=unit, note=note),
            number("B-3", f"{quantity}: standard error within a model", self.within, unit=unit, note="over draws"),
        ]


def of_means(samples: list[Tensor]) -> Spread:
    """Of the means of samples ``(n,)``, one for each model."""
    values = [sample.double() for sample in samples]
    return Spread([float(x.mean()) for x in values], [float(x.std()) / math.sqrt(len(x)) for x in values])


def of_statistic(samples: list[Tensor], statistic: Callable[[Tensor], float]) -> Spread:
    """Of any statistic of samples ``(n, ...)``, one for each model; standard errors by resampling rows."""
    random = torch.Generator().manual_seed(0)
    errors = []
    for sample in samples:
        rows = torch.randint(len(sample), (_N_RESAMPLES, len(sample)), generator=random).to(sample.device)
        errors.append(float(torch.tensor([statistic(sample[each]) for each in rows], dtype=torch.float64).std()))
    return Spread([statistic(sample) for sample in samples], errors)
