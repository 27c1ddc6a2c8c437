"""DWB-4 and DWB-5: the decoder's own variance, and the RBF variance over its two hyperparameters."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from geolib.companion.models.generators import Generator
from geolib.companion.models.grid import LatentGrid
from geolib.companion.studies import summaries
from geolib.companion.studies.evidence import Claim, number
from geolib.companion.studies.linear_interpolation.variance_rbf import NETWORK, RBF, Variances

CURVATURES = (0.25, 0.5, 1.0, 1.25, 2.0, 3.0)
CENTERS = (16, 32, 64, 96, 128)
CHOSEN = (1.25, 64)
"""the paper's choice of a and K"""
SETTINGS = tuple(dict.fromkeys([(a, CHOSEN[1]) for a in CURVATURES] + [(CHOSEN[0], k) for k in CENTERS]))
"""every (a, K) of the paper's Fig. 5"""

DIFFUSE = Claim(
    "DWB-5",
    "a larger a distributes the uncertainty more diffusely, a smaller one concentrates it around the centres",
    "the share of the map where the RBF is sure, its log sum sigma nearer to that at the data than to that far away, "
    "grows from each of six a to the next",
    lambda smallest_step: smallest_step > 0,
)
OVERFITTED = Claim(
    "DWB-5",
    f"too many centres (K = {CENTERS[-1]}) behave like overfitting",
    f"log sum sigma is larger at the test latents than at the training latents, by more at K = {CENTERS[-1]} than at "
    f"K = {CHOSEN[1]}",
    lambda gap, chosen_gap: gap > 0 and gap > chosen_gap,
)


@dataclass(frozen=True)
class Fitted:
    """The RBF variance of one (a, K)."""

    log_sigma: Tensor
    """``(ny, nx)``, on the map"""
    sure: float
    """the share of the map where log sum sigma is nearer to its median at the data than to its value far away"""
    gap: float
    """mean log sum sigma at the test latents less that at the training latents"""


@dataclass(frozen=True)
class Sweep:
    """All variances on one map."""

    network: Tensor
    """``(ny, nx)``, log sum sigma of the decoder's own variance"""
    fitted: dict[tuple[float, int], Fitted]
    """by (a, K)"""
    ratios: tuple[float, float]
    """mean sigma away from the data over that at the data: of the network, of the RBF"""

    @property
    def sure(self) -> list[float]:
        """Shares of the map where the RBF is sure, in the order of ``CURVATURES``."""
        return [self.fitted[a, CHOSEN[1]].sure for a in CURVATURES]

    @property
    def numbers(self) -> list[dict[str, Any]]:
        """Rows of the numbers table."""
        rows = [
            number("DWB-4", "VAE of Table 1, network: mean sigma away from the data over that at them", self.ratios[0]),
            number("DWB-5", "VAE of Table 1, RBF: the same ratio", self.ratios[1]),
        ]
        for a, share in zip(CURVATURES, self.sure, strict=True):
            rows.append(number("DWB-5", f"map where the RBF is sure, a = {a:g}", 100 * share, unit="%"))
        for k in CENTERS:
            gap = self.fitted[CHOSEN[0], k].gap
            rows.append(number("DWB-5", f"log sum sigma at test latents less that at training latents, K = {k}", gap))
        return rows

    @property
    def claims(self) -> list[dict[str, Any]]:
        """Verdicts on the variance's claims."""
        steps = [b - a for a, b in zip(self.sure, self.sure[1:], strict=False)]
        gaps = [self.fitted[CHOSEN[0], k].gap for k in (CENTERS[-1], CHOSEN[1])]
        network, rbf = (replace(c, text=f"{c.text}, on Fashion-MNIST") for c in (NETWORK, RBF))
        return [
            network.decide(f"{self.ratios[0]:.2f} times", ratio=self.ratios[0]),
            rbf.decide(f"{self.ratios[1]:.0f} times", ratio=self.ratios[1]),
            DIFFUSE.decide(
                f"{100 * self.sure[0]:.0f} % to {100 * self.sure[-1]:.0f} % of the map", smallest_step=min(steps)
            ),
            OVERFITTED.decide(f"{gaps[0]:.3f} and {gaps[1]:.3f}", gap=gaps[0], chosen_gap=gaps[1]),
        ]


@torch.no_grad()
def sweep(models: dict[tuple[float, int], Generator], grid: LatentGrid) -> Sweep:
    """The variances of one decoder on a map, from its generators by (a, K)."""
    chosen = models[CHOSEN]
    variances = Variances(chosen, grid)
    return Sweep(
        summaries.log_sigma(chosen.vae.std, grid.points),
        {setting: _fitted(g, grid) for setting, g in models.items()},
        (variances.ratio_of_network, variances.ratio_of_rbf),
    )


def _fitted(g: Generator, grid: LatentGrid) -> Fitted:
    on_map, at_train, at_test = (summaries.log_sigma(g.rbf, z) for z in (grid.points, g.train_latents, g.test_latents))
    far = math.log(g.rbf.weights.shape[1]) - 0.5 * math.log(float(g.rbf.zeta))
    middle = (summaries.median(at_train) + far) / 2
    return Fitted(on_map, summaries.share(on_map < middle), summaries.mean(at_test) - summaries.mean(at_train))
