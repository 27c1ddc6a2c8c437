"""Whether geodesics run where the magnification factor is low."""

import math
from dataclasses import replace
from typing import Any

from torch import Tensor

from geolib import PullbackMetric, magnification_factor
from geolib.companion.studies import summaries
from geolib.companion.studies.evenness import Evenness
from geolib.companion.studies.evidence import Claim, Verdict, number
from geolib.companion.studies.generative_models.support import evenly


def follow_low(key: str, label: str) -> Claim:
    """The claim of Chen et al. 2018 on one data set."""
    return Claim(
        key,
        f"{label}: geodesics follow low magnification",
        "the mean of log sqrt det M along geodesics, by latent length, is below that along straight lines: the 95 % "
        "interval of the mean difference lies below 0",
        lambda high: high < 0,
    )


def lower(metric: PullbackMetric, curves: Evenness) -> Tensor:
    """The mean of log sqrt det M along each geodesic less that along its straight line, by latent length: ``(n,)``."""
    geodesic, line = (
        magnification_factor(metric(evenly(points))).log().mean(-1) for points in (curves.geodesic, curves.line)
    )
    return (geodesic - line).cpu()


def decide(claim: Claim, difference: Tensor, *, trusted: bool = True) -> dict[str, Any]:
    """The verdict on a claim of ``follow_low``; none where the curves are not ``trusted`` to be geodesics.

    Where the interval holds 0, the claim is not reproduced; where it lies above, it is contradicted.

    Args:
        claim: from ``follow_low``.
        difference: ``(n,)``, from ``lower``.
        trusted: whether at least half of the curves converged.
    """
    mean, half = summaries.mean(difference), float(summaries.half_width(difference))
    if mean - half <= 0:
        claim = replace(claim, otherwise=Verdict.NOT_REPRODUCED)
    told = f"{mean:+.3f} ({mean - half:+.3f} to {mean + half:+.3f})"
    return claim.decide(told, high=mean + half if trusted else math.nan)


def row(key: str, label: str, difference: Tensor) -> dict[str, Any]:
    """A row of the numbers table on ``lower``."""
    note = f"half its 95 % interval {float(summaries.half_width(difference)):.3f}, {len(difference)} pairs"
    quantity = f"{label}: log sqrt det M along geodesics less that along straight lines"
    return number(key, quantity, summaries.mean(difference), note=note)


def words(difference: Tensor) -> str:
    """Where geodesics run, in words."""
    mean, half = summaries.mean(difference), float(summaries.half_width(difference))
    change, low, high = (100 * math.expm1(value) for value in (mean, mean - half, mean + half))
    return (
        f"Along geodesics the magnification factor differs from that along straight lines by {change:+.1f} % "
        f"({low:+.1f} to {high:+.1f}, geometric means over {len(difference)} pairs)."
    )
