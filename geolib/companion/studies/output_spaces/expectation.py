"""Eq. 4 against the expectation that it stands for: a Monte Carlo average (Michelis & Becker 2021, App. E)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geolib import PullbackMetric
from geolib.companion.cache import progress
from geolib.companion.models.features import MAPS, Logistic
from geolib.companion.models.generators import Generator
from geolib.companion.studies import summaries
from geolib.companion.studies.evidence import Claim, number
from geolib.jacobian import push_forward

SCALES = (0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0)  # of the standard deviation; 1 is the fitted one
N_PLACES = 100  # encoded test images
MATTERS = 10  # per cent, the deviation from which on Eq. 4 is another metric

LINEAR = Claim(
    "MB-E",
    "Eq. 4 is the expectation of the random metric, for a linear feature map (logits)",
    "at every standard deviation the median deviation from a Monte Carlo average is at most 1 %",
    lambda worst: worst <= 1,
)
NOT_LINEAR = Claim(
    "MB-E",
    "Eq. 4 is the expectation of the random metric, for a feature map that is not linear (probabilities)",
    "at the fitted standard deviation the median deviation from a Monte Carlo average is at most 5 %",
    lambda fitted: fitted <= 5,
)


@dataclass(frozen=True)
class Expectation:
    """Eq. 4 against a Monte Carlo average of the random metric, over the standard deviation."""

    ratio: dict[str, Tensor]
    """by the names of ``MAPS``: ``(len(SCALES), n)``, root mean square rate of length by Monte Carlo over Eq. 4's"""
    sigma: float
    """the fitted standard deviation, the median over places of the root mean square over pixels, in grey levels"""

    def deviation(self, name: str) -> Tensor:
        """``(len(SCALES),)``, the median over places of how far the ratio is from 1, in per cent."""
        return 100 * (self.ratio[name].double() - 1).abs().quantile(0.5, dim=-1)

    @property
    def fitted(self) -> float:
        """The median deviation of the probabilities at the fitted standard deviation, in per cent."""
        return float(self.deviation("probabilities")[SCALES.index(1.0)])

    @property
    def onset(self) -> float:
        """The multiple of the fitted deviation at which Eq. 4 is off by ``MATTERS`` per cent, for probabilities.

        Interpolated between ``SCALES``; their first where it is off there already, NaN where it never is.
        """
        off = self.deviation("probabilities").log()
        beyond = (off >= math.log(MATTERS)).nonzero()
        if not len(beyond):
            return math.nan
        k = int(beyond[0])
        if k == 0:
            return SCALES[0]
        share = float((math.log(MATTERS) - off[k - 1]) / (off[k] - off[k - 1]))
        return SCALES[k - 1] * (SCALES[k] / SCALES[k - 1]) ** share

    @property
    def where_it_matters(self) -> str:
        """From which standard deviation on Eq. 4 is another metric, in words."""
        onset = self.onset
        if math.isnan(onset):
            return f"Up to {SCALES[-1]:g} times the fitted standard deviation it is off by less than {MATTERS} %"
        if onset == SCALES[0]:
            return f"Already at {onset:g} times the fitted standard deviation it is off by {MATTERS} % and more"
        return f"It is off by {MATTERS} % from {onset:.2g} times the fitted standard deviation on"

    @property
    def numbers(self) -> list[dict[str, Any]]:
        """Rows of the numbers table."""
        note = "median over places, of the rate of length"
        return [
            number("MB-E", "deviation of Eq. 4 from Monte Carlo, probabilities", self.fitted, unit="%", note=note),
            number(
                "MB-E",
                "largest deviation of Eq. 4 from Monte Carlo over sigma, logits",
                float(self.deviation("logits").max()),
                unit="%",
                note=note,
            ),
            number(
                "MB-E",
                f"multiple of the fitted sigma at which Eq. 4 is off by {MATTERS} %, probabilities",
                self.onset,
            ),
        ]

    @property
    def claims(self) -> list[dict[str, Any]]:
        """Verdicts on the paper's claims."""
        worst, fitted = float(self.deviation("logits").max()), self.fitted
        return [LINEAR.decide(f"{worst:.2f} %", worst=worst), NOT_LINEAR.decide(f"{fitted:.1f} %", fitted=fitted)]


def measure(g: Generator, logistic: Logistic, *, n_draws: int, seed: int) -> Expectation:
    """Eq. 4 and its Monte Carlo counterpart at encoded test images, for the RBF deviation times each of ``SCALES``.

    Args:
        g: the generator.
        logistic: whose logits are a linear feature map, and whose probabilities are not.
        n_draws: number of draws; half of them are drawn, and the others are these with the opposite sign.
        seed: of places and draws. The draws are the same at all places and scales.
    """
    random = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(g.test_latents), generator=random)[:N_PLACES]
    z = g.test_latents[chosen.to(g.test_latents.device)]
    half = torch.randn((n_draws + 1) // 2, g.data.train_images.shape[1], generator=random).to(z)
    noise = torch.cat([half, -half])
    ratio: dict[str, Tensor] = {}
    for name in MAPS:
        features = getattr(logistic, name)
        rows = []
        for scale in SCALES:
            progress.say(f"App. E, {name}, sigma times {scale:g}")
            expected = PullbackMetric(g.vae.mean, Scaled(g.rbf, scale), features)(z)
            averaged = monte_carlo_metric(g.vae.mean, Scaled(g.rbf, scale), features, z, noise)
            rows.append((_trace(averaged) / _trace(expected)).sqrt().cpu())
        ratio[name] = torch.stack(rows)
    with torch.no_grad():
        sigma = 255 * summaries.median(g.rbf(z).square().mean(-1).sqrt())
    return Expectation(ratio, sigma)


class Scaled(torch.nn.Module):
    """A standard deviation times a number."""

    def __init__(self, std: torch.nn.Module, scale: float):
        super().__init__()
        self.std, self.scale = std, scale

    def forward(self, z: Tensor) -> Tensor:
        """``z (n, d) -> (n, D)``."""
        return self.scale * self.std(z)


@torch.no_grad()
def monte_carlo_metric(
    mean: Callable[[Tensor], Tensor],
    std: Callable[[Tensor], Tensor],
    features: Callable[[Tensor], Tensor],
    z: Tensor,
    noise: Tensor,
) -> Tensor:
    r"""The average of :math:`J^T J` over draws, J the Jacobian of :math:`h(\mu(z) + \sigma(z) \epsilon)`.

    Unlike in Eq. 4, the Jacobian of the feature map h is taken at the noisy image.

    Args:
        mean: ``z (n, d) -> (n, D)``.
        std: the same.
        features: h, ``x (n, D) -> (n, K)``.
        z: ``(n, d)``.
        noise: epsilon, ``(m, D)``.

    Returns:
        ``(n, d, d)``.
    """
    d = z.shape[-1]
    basis = torch.eye(d, dtype=z.dtype, device=z.device).unsqueeze(1)
    found = []
    for point in z.split(1):
        mu, J_mu = push_forward(mean, point, basis)
        sigma, J_sigma = push_forward(std, point, basis)
        _, J = push_forward(features, mu + sigma * noise, J_mu + J_sigma * noise)
        found.append(torch.einsum("amk,bmk->ab", J, J) / len(noise))
    return torch.stack(found)


def _trace(M: Tensor) -> Tensor:
    return M.diagonal(dim1=-2, dim2=-1).sum(-1)
