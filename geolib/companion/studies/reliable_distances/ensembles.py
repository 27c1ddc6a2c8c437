"""Notebook 15: an ensemble of decoders as a third variance, beside the network's own and the RBF's (B-4)."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import geolib
from geolib import PullbackMetric
from geolib.companion.cache import measurements, progress, timing
from geolib.companion.models import generators
from geolib.companion.models.generators import Generator
from geolib.companion.models.grid import LatentGrid
from geolib.companion.studies import summaries
from geolib.companion.studies.evidence import Claim, number
from geolib.companion.studies.generative_models.support import OffTheData, evenly
from geolib.companion.studies.linear_interpolation.variance_rbf import Variances
from geolib.companion.studies.shortest_curves.solvers import Counted
from geolib.curves import straight
from geolib.paths.result import Geodesic
from geolib.variance import Ensemble

WITHOUT, NETWORK, RBF, ENSEMBLE = "no variance", "network", "RBF", "ensemble"
LINE = "straight line"
_POINTS = 256
_SHOWN = 12  # pairs that are drawn
_COUNTED = 16  # pairs, at most, whose evaluations are counted
_ROOM = 0.01  # of the length off the data: where there is less, there is nothing to avoid

NEAR_THE_DATA = Claim(
    "B-4",
    "geodesics under an ensemble of decoders stay near the data (Syrota et al. 2024)",
    "less of their length lies off the data than without a variance: the 95 % interval of the mean difference lies "
    f"below 0; decided where at least {100 * _ROOM:.0f} % lies there without a variance",
    lambda high: high < 0,
)


def metrics(g: Generator, members: Ensemble) -> dict[str, PullbackMetric]:
    """The metrics to compare, by what a reader calls them."""
    mean = g.vae.mean
    return {
        WITHOUT: PullbackMetric(mean),
        NETWORK: PullbackMetric(mean, g.vae.std),
        RBF: g.metric,
        ENSEMBLE: PullbackMetric(members),
    }


@dataclass(frozen=True)
class Cost:
    """What a geodesic under one metric costs."""

    evaluations: float
    """points, tangents and cotangents that pass through one decoder, per pair; an ensemble's members are added up"""
    seconds: float
    """per pair"""


@dataclass(frozen=True)
class Ensembles:
    """Three variances of one latent space, and what they do to geodesics between pairs of test images."""

    g: Generator
    members: Ensemble
    grid: LatentGrid
    maps: dict[str, Tensor]
    """``(ny, nx)``, the logarithm of the summed standard deviation, by variance"""
    ratios: dict[str, float]
    """mean standard deviation away from the data over that at the test data"""
    found: dict[str, Geodesic]
    """by metric, batch shape ``(n,)``"""
    off: OffTheData
    costs: dict[str, Cost]

    @property
    def shown(self) -> dict[str, Tensor]:
        """Some of the curves, by metric."""
        return {name: self._points(name)[:_SHOWN] for name in self.found}

    def _points(self, name: str) -> Tensor:
        """Curves ``(n, points, 2)`` at equal steps of latent length."""
        if name == LINE:
            ends = self.found[WITHOUT].points
            return straight(ends[:, 0], ends[:, -1], _POINTS)
        curves = self.found[name]
        return evenly(curves.curve(torch.linspace(0, 1, _POINTS + 1).to(curves.points)))

    def share_off(self, name: str) -> Tensor:
        """The share of each curve's latent length that lies off the data ``(n,)``."""
        return self.off.shares(self._points(name))

    def distance(self, name: str) -> Tensor:
        """Each curve's mean distance to the nearest training latent ``(n,)``, in latent units."""
        return self.off.mean_distance(self._points(name))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The straight line and all metrics."""
        return (LINE, *self.found)

    @property
    def numbers(self) -> list[dict[str, Any]]:
        """Rows of the numbers table, of the maps."""
        return [
            number("B-4", f"{name}: mean sigma away from the data over that at the data", ratio)
            for name, ratio in self.ratios.items()
        ]

    @property
    def curve_numbers(self) -> list[dict[str, Any]]:
        """Rows of the numbers table, of the curves and what they cost."""
        n, rows = len(self.found[WITHOUT].length), []
        for name in self.kinds:
            share = 100 * self.share_off(name)
            note = f"{n} pairs, half the 95 % interval {float(summaries.half_width(share)):.1f}"
            distance = self.distance(name)
            rows += [
                number("B-4", f"{name}: share of the length off the data", summaries.mean(share), unit="%", note=note),
                number("B-4", f"{name}: mean distance to the nearest training latent", summaries.mean(distance)),
            ]
        for name, cost in self.costs.items():
            converged = int(self.found[name].converged.sum())
            rows += [
                number("B-4", f"{name}: geodesics that converged", converged, note=f"of {n}"),
                number("B-4", f"{name}: decoder evaluations per pair", cost.evaluations),
                number("B-4", f"{name}: time over that without a variance", self.time_ratio(name)),
            ]
        return rows

    def time_ratio(self, name: str) -> float:
        """The time of a geodesic under a metric over that without a variance."""
        return self.costs[name].seconds / self.costs[WITHOUT].seconds

    @property
    def less_off(self) -> tuple[float, float]:
        """By how much less of the length is off the data under the ensemble than without a variance, in percentage
        points, and half the 95 % interval."""
        less = 100 * (self.share_off(ENSEMBLE) - self.share_off(WITHOUT))
        return summaries.mean(less), float(summaries.half_width(less))

    @property
    def claims(self) -> list[dict[str, Any]]:
        """The verdict on the paper's claim: none where fewer than half of the curves are geodesics, and none where
        there is nothing to avoid."""
        mean, half = self.less_off
        off = summaries.mean(self.share_off(WITHOUT))
        told = (
            f"{mean:+.1f} percentage points ({mean - half:+.1f} to {mean + half:+.1f}); {100 * off:.1f} % without a "
            "variance"
        )
        trusted = all(summaries.share(self.found[name].converged) >= 0.5 for name in (WITHOUT, ENSEMBLE))
        return [NEAR_THE_DATA.decide(told, high=mean + half if trusted and off >= _ROOM else math.nan)]

    @property
    def where_it_grows(self) -> str:
        """How the three variances change away from the data, in words."""
        told = ", ".join(f"{ratio:.1f} times for the {name}" for name, ratio in self.ratios.items())
        network, rbf, own = (self.ratios[name] for name in (NETWORK, RBF, ENSEMBLE))
        if own > rbf:
            said = "The members disagree away from the data by more than the RBF variance says"
        elif own > max(1.0, network):
            said = "The members disagree more away from the data, by less than the RBF variance says"
        else:
            said = "The members do not disagree more away from the data than the network's own deviation grows"
        return f"Away from the data the mean standard deviation is, against that at the data, {told}. {said}."

    @property
    def where_curves_lie(self) -> str:
        """How near to the data the curves lie, in words."""
        told = ", ".join(f"{summaries.mean(self.distance(name)):.4f} ({name})" for name in self.kinds)
        most = max(summaries.mean(self.share_off(name)) for name in self.kinds)
        room = (
            f"At most {100 * most:.1f} % of their length is off the data, as these data leave no gap to cross"
            if most < _ROOM
            else f"Up to {100 * most:.1f} % of their length is off the data"
        )
        mean, half = (float(f(self._nearer)) for f in (summaries.mean, summaries.half_width))
        side = "nearer to" if mean + half < 0 else "farther from" if mean - half > 0 else "no nearer to"
        return (
            f"The mean distance of curves to the nearest training latent is {told}: the ensemble's geodesics lie "
            f"{side} the data than those without a variance. {room}."
        )

    @property
    def _nearer(self) -> Tensor:
        return self.distance(ENSEMBLE) - self.distance(WITHOUT)

    @property
    def what_it_costs(self) -> str:
        """The cost of the ensemble's geodesics, in words."""
        ratio = self.costs[ENSEMBLE].evaluations / self.costs[WITHOUT].evaluations
        return (
            f"With {len(self.members.decoders)} members a geodesic takes {ratio:.1f} times the decoder evaluations of "
            f"one without a variance, and {self.time_ratio(ENSEMBLE):.1f} times its time"
        )


def measure(
    g: Generator, members: Ensemble, *, n_pairs: int, resolution: int, seed: int, settings: dict[str, Any]
) -> Ensembles:
    """The three variances over the latent space, and geodesics between pairs of test images.

    Args:
        g: the VAE with the RBF variance.
        members: more decoders for the latents of the same encoder.
        n_pairs: pairs of test images.
        resolution: points of a map along each axis.
        seed: of the pairs.
        settings: what the times depend on, as JSON values.
    """
    stds = {NETWORK: g.vae.std, RBF: g.rbf, ENSEMBLE: members.std}
    wide = Variances(g, LatentGrid.around(g.test_latents, resolution=resolution, margin=0.4))
    first, second = generators.test_pairs(g.data, n_pairs, seed=seed)
    start, end = g.test_latents[first], g.test_latents[second]
    found, costs = _found(g, members, start, end, settings)
    return Ensembles(
        g,
        members,
        wide.grid,
        {name: summaries.log_sigma(std, wide.grid.points).cpu() for name, std in stds.items()},
        {name: wide.ratio(std) for name, std in stds.items()},
        found,
        OffTheData(g.train_latents, g.test_latents),
        costs,
    )


def _found(
    g: Generator, members: Ensemble, start: Tensor, end: Tensor, settings: dict[str, Any]
) -> tuple[dict[str, Geodesic], dict[str, Cost]]:
    """Geodesics between ``(n, 2)`` and ``(n, 2)`` under every metric, and what they cost."""
    compared, evaluations, found = metrics(g, members), {}, {}
    for name, metric in compared.items():  # before times are measured, so that all is warm
        progress.say(f"counting evaluations: {name}")
        counted = [Counted(f) for f in (members.decoders if name == ENSEMBLE else [metric.mean])]
        mean = geolib.ensemble(counted) if name == ENSEMBLE else counted[0]
        geolib.geodesic(PullbackMetric(mean, metric.std), start[:_COUNTED], end[:_COUNTED])
        evaluations[name] = sum(each.evaluations for each in counted) / len(start[:_COUNTED])
    tasks = {name: lambda metric=metric: geolib.geodesic(metric, start, end) for name, metric in compared.items()}

    def measured() -> dict[str, float]:
        timed = timing.measured(tasks, repeats=1)
        found.update({name: each.result for name, each in timed.items()})
        return {name: each.seconds / len(start) for name, each in timed.items()}

    seconds = measurements.kept("ensembles", settings, measured)
    for name, task in tasks.items():
        if name not in found:  # as the times were known
            progress.say(f"geodesics: {name}")
            found[name] = task()
    return found, {name: Cost(evaluations[name], seconds[name]) for name in compared}
