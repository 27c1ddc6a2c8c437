"""Notebook 07: quadratics between points of two moons, after Yang & Hauberg 2018."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geolib import Geodesic
from geolib.companion.cache import measurements
from geolib.companion.models.generators import Generator
from geolib.companion.studies import summaries
from geolib.companion.studies.evidence import Claim, Verdict, number
from geolib.companion.studies.shortest_curves.quadratics import (
    N_POINTS,
    Descended,
    Pairs,
    compared,
    descended,
    rms_error,
    seconds,
)
from geolib.curves import straight

COARSE, FINE = 8, 128  # segments of the curves with one noise per point

# A share that we do not reach is not reproduced: the opposite of the claim would be a share near 0.
SHORTER = Claim(
    "YH-1",
    "quadratics on the two moons are shorter than straight lines",
    "at least nine in ten quadratics are shorter than their lines by 1 % and more",
    lambda share: share >= 0.9,
    otherwise=Verdict.NOT_REPRODUCED,
)
FOLLOWING = Claim(
    "YH-1",
    "quadratics on the two moons follow the data",
    "more than two thirds of the quadratics lie nearer to the encoded training points than their lines, in the mean "
    "over the curve",
    lambda share: share > 2 / 3,
    otherwise=Verdict.NOT_REPRODUCED,
)
ENOUGH = Claim(
    "YH-1",
    "one quadratic per dimension works well on the two moons",
    "at least half of the quadratics are at most 5 % longer than curves that are free to bend",
    lambda median: median <= 5,
)
# The paper names neither its decoder nor its descent, so a speed that we do not find again contradicts nothing.
WARM = Claim(
    "YH-1",
    "on the two moons, a warm start makes the search for a quadratic faster",
    "with it a quadratic takes fewer evaluations of the decoder, and less time",
    lambda evaluations, seconds: evaluations < 1 and seconds < 1,
    otherwise=Verdict.NOT_REPRODUCED,
)
FASTER = Claim(
    "YH-1",
    "on the two moons, the RBF precision is significantly faster to evaluate than the decoder",
    "the precision takes at most half the time of the decoder's mean, at 4,096 points at once",
    lambda speedup: speedup >= 2,
    otherwise=Verdict.NOT_REPRODUCED,
)
LITERAL = Claim(
    "YH-1",
    "Eq. 4, read as one noise per point, approximates the path energy",
    f"with {FINE} segments, at most one curve in ten that minimises it is longer than the straight line",
    lambda share: share <= 0.1,
)


@dataclass(frozen=True)
class TwoMoons:
    """Quadratics and free curves between the same points, and what finding them takes."""

    g: Generator
    joined: Pairs
    curves: dict[str, Geodesic]
    """``"cold"`` and ``"warm"``: quadratics; ``"newton"`` and ``"graph"``: free, begun from lines and from a graph"""
    descents: dict[str, Descended]
    """one descent alone: ``"cold"`` and ``"warm"``"""
    literal: dict[int, Descended]
    """quadratics for Eq. 4 with one noise per point, by the number of segments"""
    seconds: dict[str, float]
    """for all pairs at once, by the names of ``curves``, and of one evaluation of ``"mean"`` and ``"precision"``"""

    @property
    def n(self) -> int:
        """The number of pairs."""
        return len(self.joined.first)

    @property
    def improvement(self) -> dict[str, float]:
        """How much shorter than straight lines the curves are on average, in per cent."""
        return {name: 100 * summaries.mean(curve.improvement) for name, curve in self.curves.items()}

    @property
    def excess(self) -> float:
        """The median excess of the quadratics' lengths over those of the free curves from a graph, in per cent."""
        return 100 * summaries.median(self.curves["cold"].length / self.curves["graph"].length - 1)

    @property
    def n_shorter(self) -> int:
        """The number of quadratics that are shorter than their lines by 1 % and more."""
        return int((self.curves["cold"].improvement >= 0.01).sum())

    @property
    def n_nearer(self) -> int:
        """The number of quadratics that lie nearer to the encoded training points than their lines, in the mean."""
        quadratics = self.drawn("cold")
        lines = straight(quadratics[:, 0], quadratics[:, -1], N_POINTS - 1)
        quadratic, line = (
            torch.stack([torch.cdist(curve, self.g.train_latents).amin(-1).mean() for curve in curves])
            for curves in (quadratics, lines)
        )
        return int((quadratic < line).sum())

    @property
    def lost(self) -> Tensor:
        """``(n,)``, whether a free curve begun from a line is longer than the quadratic by 1 % and more."""
        return self.curves["newton"].length > 1.01 * self.curves["cold"].length

    @property
    def changed(self) -> tuple[int, int]:
        """How many quadratics the warm start makes longer, and how many shorter, by 1 % and more."""
        cold, warm = self.curves["cold"].length, self.curves["warm"].length
        return int((warm > 1.01 * cold).sum()), int((1.01 * warm < cold).sum())

    @property
    def ratios(self) -> tuple[float, float]:
        """The decoder's evaluations and the seconds with a warm start, over those without."""
        evaluations = self.descents["warm"].n_evaluations / self.descents["cold"].n_evaluations
        return evaluations, self.seconds["warm"] / self.seconds["cold"]

    @property
    def speedup_of_one_evaluation(self) -> float:
        """How many times as long the decoder's mean takes as the RBF precision."""
        return self.seconds["mean"] / self.seconds["precision"]

    def drawn(self, name: str) -> Tensor:
        """The smooth curves ``(n, 257, 2)`` of that name, at equal steps of t.

        Points at equal Riemannian steps would be few where the metric is small.
        """
        start = self.g.test_latents
        t = torch.linspace(0, 1, N_POINTS, dtype=start.dtype, device=start.device)
        return self.curves[name].curve(t)

    @property
    def whether_enough(self) -> str:
        """Whether a quadratic is enough, in words."""
        cold = self.curves["cold"]
        said = (
            f"On average the quadratics are {self.improvement['cold']:.0f} % shorter than straight lines, and the free "
            f"curves from a graph {self.improvement['graph']:.0f} %. Half of the quadratics are at most "
            f"{self.excess:.1f} % longer than the free curves"
        )
        n = int(cold.converged.sum())
        certified = f"{n} of {self.n} {'is a geodesic' if n == 1 else 'are geodesics'} within the tolerance"
        if self.excess <= 5 and n < self.n / 2:
            return f"{said}, but {certified}: a quadratic is enough for a drawing or a first guess, and no geodesic"
        if self.excess <= 5:
            return f"{said}, and {certified}: here a quadratic is enough"
        return f"{said}, and {certified}: here a quadratic is too stiff"

    @property
    def whether_lost(self) -> str:
        """Whether free curves begun from straight lines end above the quadratics, in words."""
        n = int(self.lost.sum())
        converged = int(self.curves["newton"].converged[self.lost].sum())
        said = (
            f"Newton's method from straight lines gains {self.improvement['newton']:.0f} %, and {n} of its {self.n} "
            "curves are longer than the quadratics by 1 % and more"
        )
        if n == 0:
            return f"{said}: no free curve does worse than two numbers per curve"
        if converged == 0:
            said = f"{said}. None of these converged"
        elif converged == n:
            said = f"{said}. All of these converged, to geodesics that are not the shortest"
        else:
            said = f"{said}. Of these {converged} converged, to geodesics that are not the shortest"
        if self.improvement["newton"] < self.improvement["cold"] < self.improvement["graph"]:
            return f"{said}. So a good start matters more here than the freedom to bend"
        return said

    @property
    def whether_warm_pays(self) -> str:
        """Whether the warm start pays, in words."""
        evaluations, seconds = self.ratios
        said = (
            f"With a warm start the descent evaluates the decoder {evaluations:.2f} times as often, and a search takes "
            f"{seconds:.2f} times as long"
        )
        if evaluations < 1 and seconds < 1:
            pays = "the warm start pays here"
        elif evaluations < 1:
            pays = "it saves evaluations, but its own steps cost more than that: for so small a decoder it does not pay"
        else:
            pays = "it saves no evaluations of the decoder, so it would not pay with a slower decoder either"
        longer, shorter = self.changed
        safer = "safer" if shorter > 2 * longer else "less safe" if longer > 2 * shorter else "not the safer one either"
        return f"{said}: {pays}. It makes {longer} of {self.n} quadratics longer and {shorter} shorter: it is {safer}"

    @property
    def whether_precision_is_faster(self) -> str:
        """How the times of one evaluation of precision and decoder compare, in words."""
        speedup = self.speedup_of_one_evaluation
        if speedup >= 1:
            return f"One evaluation of the precision takes 1/{speedup:.1f} of the time of the decoder's mean"
        return (
            f"One evaluation of the precision takes {1 / speedup:.1f} times as long as one of the decoder's mean: "
            f"{len(self.g.rbf.centers)} basis functions cost more than layers as narrow as these"
        )

    @property
    def whether_literal(self) -> str:
        """What one noise per point does to the curves, in words."""
        longer = {n: int(curves.longer.sum()) for n, curves in self.literal.items()}
        one = int(self.descents["cold"].longer.sum())
        said = (
            f"With one noise per point {longer[COARSE]} of {self.n} curves are longer than the straight line that they "
            f"began from at {COARSE} segments, and {longer[FINE]} at {FINE}. With one noise per curve there "
            f"{'is' if one == 1 else 'are'} {one}"
        )
        if longer[FINE] > longer[COARSE] and longer[FINE] > one:
            return f"{said}. So refining makes it worse: Eq. 4 needs one noise for the whole curve"
        if longer[FINE] > one:
            return f"{said}. So Eq. 4 needs one noise for the whole curve"
        return f"{said}. So on these data the choice of the noise changes little"

    @property
    def numbers(self) -> list[dict[str, Any]]:
        """Rows of the numbers table, of quadratics and free curves."""
        improvement, curves = self.improvement, self.curves

        def row(quantity: str, value: float, unit: str = "%", note: str = "") -> dict[str, Any]:
            return number("YH-1", quantity, value, unit=unit, note=note)

        def converged(name: str) -> float:
            return 100 * summaries.share(curves[name].converged)

        return [
            row("pairs of test points on one moon and across", self.n, ""),
            row("reconstruction error, of a moon's radius", 100 * rms_error(self.g)),
            row("mean improvement over lines, quadratic", improvement["cold"]),
            row(
                "mean improvement over lines, Newton from lines",
                improvement["newton"],
                note="curves that meet a wall of the variance can end above the quadratics",
            ),
            row("mean improvement over lines, Newton from a graph", improvement["graph"]),
            row(
                "curves that converged, quadratic",
                converged("cold"),
                note="to a geodesic within the tolerance, which a quadratic seldom is",
            ),
            row("curves that converged, Newton from lines", converged("newton")),
            row("curves that converged, Newton from a graph", converged("graph")),
            row("median excess of the quadratics' lengths over Newton from a graph", self.excess),
            row("quadratics that lie nearer to the data than their lines", 100 * self.n_nearer / self.n),
        ]

    @property
    def numbers_of_the_warm_start(self) -> list[dict[str, Any]]:
        """Rows of the numbers table, of the warm start."""
        curves, seconds = self.curves, self.seconds
        longer, shorter = self.changed

        def row(quantity: str, value: float, unit: str = "", note: str = "") -> dict[str, Any]:
            return number("YH-1", quantity, value, unit=unit, note=note)

        return [
            row(
                "mean improvement over lines, quadratic with warm start",
                self.improvement["warm"],
                "%",
                "the paper gives no numbers",
            ),
            row("quadratics that the warm start makes longer by 1 % and more", 100 * longer / self.n, "%"),
            row("quadratics that the warm start makes shorter by 1 % and more", 100 * shorter / self.n, "%"),
            row("mean number of steps, quadratic", summaries.mean(curves["cold"].n_steps)),
            row(
                "mean number of steps, quadratic with warm start",
                summaries.mean(curves["warm"].n_steps),
                note="those of the warm start included",
            ),
            row("decoder evaluations per quadratic", self.descents["cold"].n_evaluations),
            row(
                "decoder evaluations per quadratic with warm start",
                self.descents["warm"].n_evaluations,
                note="our descent is L-BFGS in two unknowns; the paper names none",
            ),
            row("seconds, quadratic", seconds["cold"], "s", "all pairs at once, median"),
            row("seconds, quadratic with warm start", seconds["warm"], "s"),
            row("seconds, Newton from lines", seconds["newton"], "s"),
            row("seconds, Newton from a graph", seconds["graph"], "s"),
            row("speed-up of the warm start", seconds["cold"] / seconds["warm"], note="below 1 it costs time"),
            row(
                "speed-up of one evaluation, RBF precision against decoder",
                self.speedup_of_one_evaluation,
                note="our decoder has two narrow hidden layers",
            ),
        ]

    @property
    def numbers_of_the_noise(self) -> list[dict[str, Any]]:
        """Rows of the numbers table, of Eq. 4 with one noise per curve and per point."""
        rows = [
            number(
                "YH-1",
                "longer than straight lines, one noise",
                100 * summaries.share(self.descents["cold"].longer),
                unit="%",
                note="a descent alone; geodesic() keeps the line there",
            )
        ]
        for n, curves in self.literal.items():
            quantity = f"longer than straight lines, one noise per point, {n} segments"
            rows.append(number("YH-1", quantity, 100 * summaries.share(curves.longer), unit="%"))
        return rows

    @property
    def claims(self) -> list[dict[str, Any]]:
        """Verdicts on what the paper says of quadratics."""
        n = self.n
        return [
            SHORTER.decide(f"{self.n_shorter} of {n}", share=self.n_shorter / n),
            FOLLOWING.decide(f"{self.n_nearer} of {n}", share=self.n_nearer / n),
            ENOUGH.decide(f"median excess {self.excess:.1f} %", median=self.excess),
        ]

    @property
    def claims_of_the_warm_start(self) -> list[dict[str, Any]]:
        """Verdicts on what the paper says of the warm start."""
        evaluations, seconds = self.ratios
        return [
            WARM.decide(
                f"{evaluations:.2f} times the evaluations, {seconds:.2f} times the seconds",
                evaluations=evaluations,
                seconds=seconds,
            ),
            FASTER.decide(
                f"{self.speedup_of_one_evaluation:.2f} times as fast", speedup=self.speedup_of_one_evaluation
            ),
        ]

    @property
    def claims_of_the_noise(self) -> list[dict[str, Any]]:
        """The verdict on Eq. 4, read literally."""
        longer = self.literal[FINE].longer
        return [LITERAL.decide(f"{int(longer.sum())} of {self.n} curves", share=summaries.share(longer))]


def measure(g: Generator, joined: Pairs, *, settings: dict[str, Any], repeats: int = 3) -> TwoMoons:
    """Everything that the notebook shows; times are measured once and kept, so that the figures stay the same.

    Args:
        g: the generator.
        joined: the pairs, of ``pairs``.
        settings: JSON values that say how ``g`` was made, on which the kept times depend.
        repeats: runs of the quadratics that are timed.
    """
    start, end = g.test_latents[joined.first], g.test_latents[joined.second]
    timed = compared(g, start, end, repeats=repeats)
    kept = measurements.kept(
        "two-moons",
        {"generator": settings, "data": g.data.fingerprint, "pairs": len(start)},
        lambda: seconds(g, timed),
    )
    return TwoMoons(
        g,
        joined,
        {name: each.result for name, each in timed.items()},
        {
            name: descended(g, start, end, warm_start=warm_start)
            for name, warm_start in (("cold", False), ("warm", True))
        },
        {n: descended(g, start, end, n_segments=n, noise="independent") for n in (COARSE, FINE)},
        kept,
    )
