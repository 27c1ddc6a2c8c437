"""DWB-9: random walks that follow the metric, and walks that do not."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geolib import magnification_factor, random_walk
from geolib.companion.models.generators import Generator
from geolib.companion.studies import summaries
from geolib.companion.studies.evidence import Claim, number
from geolib.companion.studies.generative_models.support import OffTheData

STEP = 0.2
"""the paper's step size"""
N_WALKERS = 20
STAYS = 0.95

ON_THE_DATA = Claim(
    "DWB-9",
    "a Riemannian random walk stays within the data, a Euclidean one drifts away from them",
    f"at least {100 * STAYS:.0f} % of the Riemannian walkers' points are on the data, and fewer of the Euclidean ones'",
    lambda riemannian, euclidean: riemannian >= STAYS and euclidean < STAYS,
)


@dataclass(frozen=True)
class Walks:
    """Walks ``(N_WALKERS, n_steps + 1, 2)`` from encoded test images."""

    riemannian: Tensor
    euclidean: Tensor
    scaled: Tensor
    """Riemannian, with the metric divided by its largest magnification factor at the data, as the paper's code does"""
    off: OffTheData

    @property
    def on_the_data(self) -> dict[str, float]:
        """The share of the points of each kind of walk that is on the data."""
        kinds = {"Riemannian": self.riemannian, "Riemannian, scaled": self.scaled, "Euclidean": self.euclidean}
        return {name: 1 - summaries.share(self.off(points)) for name, points in kinds.items()}

    def percent(self, kind: str) -> str:
        """One of these shares, in words."""
        return f"{100 * self.on_the_data[kind]:.0f} %"

    @property
    def numbers(self) -> list[dict[str, Any]]:
        """Rows of the numbers table."""
        n_steps = self.riemannian.shape[1] - 1
        note = f"{N_WALKERS} walkers, {n_steps:,} steps"
        return [
            number("DWB-9", f"{kind} walk: share of its points on the data", 100 * share, unit="%", note=note)
            for kind, share in self.on_the_data.items()
        ]

    @property
    def claims(self) -> list[dict[str, Any]]:
        """The verdict on the claim about walks."""
        shares = self.on_the_data
        told = f"{self.percent('Riemannian')} and {self.percent('Euclidean')}"
        return [ON_THE_DATA.decide(told, riemannian=shares["Riemannian"], euclidean=shares["Euclidean"])]


def walks(g: Generator, *, n_steps: int, seed: int) -> Walks:
    """Walks of all kinds with the same random numbers."""
    chosen = torch.randperm(len(g.test_latents), generator=torch.Generator().manual_seed(seed))[:N_WALKERS]
    start = g.test_latents[chosen]
    largest = float(magnification_factor(g.metric(g.train_latents)).max())
    kinds = [(g.metric, STEP), (None, STEP), (g.metric, STEP * largest**0.5)]
    found = [random_walk(metric, start, n_steps=n_steps, step_size=step, seed=seed).points for metric, step in kinds]
    return Walks(*found, OffTheData(g.train_latents, g.test_latents))
