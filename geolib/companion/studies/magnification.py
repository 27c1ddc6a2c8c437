"""Whether geodesics run where the magnification factor is low."""

from torch import Tensor

from geolib import PullbackMetric, magnification_factor
from geolib.companion.studies.evenness import Evenness
from geolib.companion.studies.evidence import Claim
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
