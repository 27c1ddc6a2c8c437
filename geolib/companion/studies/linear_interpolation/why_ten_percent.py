"""Notebook 09: from our mean improvement to the paper's 10.20 %, one setting at a time.

The order of the rungs and the criteria stood here before the first run.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from geolib import PullbackMetric, relative_improvement
from geolib.companion.cache import measurements, progress, store
from geolib.companion.models import michelis_becker
from geolib.companion.models.recipes import Recipe
from geolib.companion.studies import summaries
from geolib.companion.studies.evidence import Claim, Verdict, number
from geolib.companion.studies.linear_interpolation import authors_solver
from geolib.companion.studies.linear_interpolation.monte_carlo import PAPER_MEAN

_RECIPE = 1  # counts changes of the companion that change a rung's values, so that older measurements are not taken

MAX_STEPS = 100  # of our solver; curves that have not converged by then are counted

NARROW = 2.0  # per cent: the widest half interval of a mean that can explain the paper's
HALF = 0.5  # of the gap between our mean and the paper's
STEEP = (4.0, 5.0)  # logarithms of how much the speed changes over a line of one dimension


@dataclass(frozen=True)
class Rung:
    """One set of settings, which differs from an earlier one in one thing."""

    key: str
    label: str
    """for figure and table"""
    since: str
    """the key of the rung from which it differs in one thing; empty for the first"""
    recipe: str = ""
    """the recipe's name; empty for the published weights"""
    changes: dict[str, Any] = field(default_factory=dict)
    """of the recipe"""
    step_size: float = 1.0
    theirs: bool = False
    """whether these are settings of the authors' code or of their published model, and not only in part"""


_CENTERS = (8, 16, 32, 64)
_ADAM = {"curvature": 1.0, "fit": "adam"}
_ZETA = michelis_becker.PRECISION * 1e-2

RUNGS = (
    Rung("ours", "our model", "", "digits"),
    *(
        Rung(f"their-fit-{k}", f"their variance fit, $K$ = {k}", "ours", "digits", {"n_centers": k, **_ADAM})
        for k in _CENTERS
    ),
    *(
        Rung(
            f"our-fit-{k}",
            f"our variance fit, $a$ = 1, $K$ = {k}",
            f"their-fit-{k}",
            "digits",
            {"n_centers": k, "curvature": 1.0},
        )
        for k in _CENTERS
    ),
    Rung(
        "zeta", "their fit and their ζ, $K$ = 64", "their-fit-64", "digits", {"n_centers": 64, "zeta": _ZETA, **_ADAM}
    ),
    Rung("code-64", "their decoder too, $K$ = 64", "zeta", "michelis_becker_code", {"n_centers": 64}, theirs=True),
    Rung("code-8", "their decoder, $K$ = 8", "code-64", "michelis_becker_code", theirs=True),
    *(
        Rung(
            f"alpha-{a:g}",
            f"their decoder, $K$ = 64, $α$ = {a:g}",
            "code-64",
            "michelis_becker_code",
            {"n_centers": 64},
            a,
        )
        for a in (0.5, 2.0, 3.0)
    ),
    Rung("sixteen", "their decoder, 16 dimensions, $K$ = 64", "code-64", "michelis_becker_16", theirs=True),
    Rung("published", "their published weights, 16 dimensions", "sixteen", theirs=True),
)
REPEATED = ("ours", "code-64", "code-8")
"""the rungs that are repeated on models trained from other seeds"""

EXPLAINED = Claim(
    "MB-2",
    "the settings of the authors' code explain the mean of 10.20 %",
    f"on a rung with all of their settings the paper's mean lies within the 95 % interval of what their solver and "
    f"rule print, and half of that interval is at most {NARROW:g} %",
    lambda explained: explained > 0,
    paper=f"{PAPER_MEAN:.2f} %",
    otherwise=Verdict.NOT_REPRODUCED,
)
PARTLY = Claim(
    "MB-2",
    "the settings of the authors' code explain at least half of the gap between our mean and 10.20 %",
    "on a rung with all of their settings, their solver and rule print at least half of the way from our true mean to "
    "the paper's",
    lambda share: share >= HALF,
    paper=f"{PAPER_MEAN:.2f} %",
    otherwise=Verdict.NOT_REPRODUCED,
)


@dataclass(frozen=True)
class Mean:
    """A mean in per cent with its 95 % interval."""

    value: float
    half: float
    """half of the interval; not a number for a single value"""

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.value - self.half

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.value + self.half

    def __str__(self) -> str:
        if not math.isfinite(self.half):
            return f"{self.value:.2f} %"
        return f"{self.value:.2f} % ({self.low:.2f} to {self.high:.2f} %)"


def mean_of(values: list[float]) -> Mean:
    """The mean of independent values and Student's interval."""
    tensor = torch.tensor(values, dtype=torch.float64)
    return Mean(float(tensor.mean()), float(summaries.half_width(tensor)))


@dataclass(frozen=True)
class Measured:
    """A rung and what was measured there, per trained model."""

    rung: Rung
    runs: list[dict[str, Any]]
    """lists of improvements in per cent, one entry a pair, ``"true"``, ``"rule"`` and ``"solver"``; ``"converged"``"""

    def mean(self, what: str) -> Mean:
        """``"true"``, ``"rule"`` or ``"solver"``: the interval is over draws of one model, or over several models."""
        if len(self.runs) == 1:
            return mean_of(self.runs[0][what])
        return mean_of([mean_of(run[what]).value for run in self.runs])

    @property
    def true(self) -> Mean:
        """The improvement of geodesics."""
        return self.mean("true")

    @property
    def rule(self) -> Mean:
        """The same geodesics and lines, by their rule of length."""
        return self.mean("rule")

    @property
    def solver(self) -> Mean:
        """What their solver and rule print."""
        return self.mean("solver")

    @property
    def converged(self) -> float:
        """In per cent, the curves of our solver that converged."""
        return 100 * sum(run["converged"] for run in self.runs) / len(self.runs)

    @property
    def sample(self) -> str:
        """What the interval is over, in words."""
        pairs = len(self.runs[0]["true"])
        return f"{pairs} pairs" if len(self.runs) == 1 else f"{len(self.runs)} trained models, {pairs} pairs each"


@dataclass(frozen=True)
class Ladder:
    """All rungs that could be measured."""

    measured: list[Measured]
    missing: str
    """why the published weights are not among them; empty where they are"""

    def __getitem__(self, key: str) -> Measured:
        """The rung of that key."""
        (found,) = [measured for measured in self.measured if measured.rung.key == key]
        return found

    @property
    def over_models(self) -> str:
        """For a caption: which intervals are over trained models rather than pairs; empty where none is."""
        several = [measured for measured in self.measured if len(measured.runs) > 1]
        if not several:
            return ""
        names = ", ".join(f"“{measured.rung.label}”" for measured in several)
        return f" (over {len(several[0].runs)} trained models on {names})"

    @property
    def _theirs(self) -> list[Measured]:
        return [measured for measured in self.measured if measured.rung.theirs]

    @property
    def nearest(self) -> Measured:
        """Of the rungs with all of their settings, the one on which their code prints most."""
        return max(self._theirs, key=lambda measured: measured.solver.value)

    @property
    def explained(self) -> list[Measured]:
        """The rungs that explain the paper's number."""
        return [
            measured
            for measured in self._theirs
            if measured.solver.half <= NARROW and measured.solver.low <= PAPER_MEAN <= measured.solver.high
        ]

    @property
    def share_of_the_gap(self) -> float:
        """How much of the way from our true mean to the paper's the nearest rung prints."""
        ours = self["ours"].true.value
        return (self.nearest.solver.value - ours) / (PAPER_MEAN - ours)

    @property
    def verdict(self) -> str:
        """What becomes of the paper's number, in words."""
        if self.explained:
            return "explained"
        return "partly explained" if self.share_of_the_gap >= HALF else "not reproduced"

    @property
    def steps(self) -> list[tuple[Measured, float]]:
        """Every rung but the first, and by how much its one change moves the true mean, in per cent."""
        there = {measured.rung.key: measured for measured in self.measured}
        return [
            (measured, measured.true.value - there[measured.rung.since].true.value)
            for measured in self.measured
            if measured.rung.since in there
        ]

    @property
    def largest_step(self) -> str:
        """The single change that moves the true mean most, in words."""
        measured, change = max(self.steps, key=lambda step: abs(step[1]))
        before = self[measured.rung.since]
        return (
            f"from “{before.rung.label}” to “{measured.rung.label}”, {before.true.value:.2f} to "
            f"{measured.true.value:.2f} % ({change:+.2f})"
        )

    @property
    def about_the_rule(self) -> str:
        """What their rule and solver add where the model is smooth and where it is rough, in words."""
        smooth, rough = (self[key] for key in ("code-8", "code-64"))
        return " ".join(
            f"With {centers} centres their code prints {measured.solver.value:.2f} % where {measured.true.value:.2f} % "
            f"is true ({measured.solver.value / measured.true.value:.1f} times)."
            for centers, measured in (("8", smooth), ("64", rough))
        )

    @property
    def about_the_step(self) -> str:
        """What a longer step would print, in words: the paper does not give alpha, and their default is 1."""
        longest = max(self.measured, key=lambda measured: measured.rung.step_size)
        return (
            f"The paper does not say how long its step is. Their default is {self['code-64'].rung.step_size:g}; with "
            f"{longest.rung.step_size:g} instead, and {longest.rung.changes['n_centers']} centres, their code prints "
            f"{longest.solver}, and {longest.true} is true."
        )

    @property
    def in_one_dimension(self) -> dict[float, float]:
        """Their rule's improvement in per cent on a line of one dimension, where none is true, by its steepness."""
        return {ratio: 100 * authors_solver.exact_minimiser(ratio) for ratio in (0.0, *STEEP)}

    @property
    def about_the_published(self) -> str:
        """The published weights, in words."""
        if self.missing:
            return f"The published weights are missing here: {self.missing}"
        found = self["published"]
        return f"On the published weights their code prints {found.solver}; {found.true} is true."

    @property
    def numbers(self) -> list[dict[str, Any]]:
        """Rows of the numbers table."""
        rows = []
        for place, found in enumerate(self.measured):
            name = f"ladder {place:02d}, {found.rung.label.replace('$', '')}"
            about = f"{found.sample}; {found.converged:.0f} % of our curves converged"
            rows += [
                number("MB-2", f"{name}: true", found.true.value, unit="%", note=f"{found.true}, {about}"),
                number(
                    "MB-2",
                    f"{name}: printed by their solver and rule",
                    found.solver.value,
                    unit="%",
                    paper=PAPER_MEAN,
                    note=f"{found.solver}; their rule on our geodesics {found.rule}",
                ),
            ]
        if self.missing:
            rows.append(
                number("MB-2", "ladder, their published weights", "missing", paper=PAPER_MEAN, note=self.missing)
            )
        rows += [
            number(
                "MB-2",
                f"their rule in one dimension, speed changing by e^{ratio:g}",
                value,
                unit="%",
                note="nothing can be shortened there; exact minimiser of their energy",
            )
            for ratio, value in self.in_one_dimension.items()
        ]
        return rows

    @property
    def claims(self) -> list[dict[str, Any]]:
        """Verdicts on the paper's number."""
        found = f"{self.nearest.rung.label.replace('$', '')}: {self.nearest.solver}"
        return [
            EXPLAINED.decide(found, explained=len(self.explained)),
            PARTLY.decide(f"{100 * self.share_of_the_gap:.0f} % of the gap; {found}", share=self.share_of_the_gap),
        ]


def n_pairs_of(rung: Rung, n_pairs: int) -> int:
    """How many pairs a rung gets: more where they are cheap, fewer in 16 dimensions."""
    if rung.recipe == "digits":
        return 4 * n_pairs
    return n_pairs if rung.recipe == "michelis_becker_code" else max(2, n_pairs // 3)


def measure(
    recipe: Callable[[str], Recipe],
    *,
    n_pairs: int,
    n_seeds: int,
    seed: int,
    max_steps: int = MAX_STEPS,
    device: torch.device | str = "cpu",
) -> Ladder:
    """Measure every rung, or read what was measured before.

    Args:
        recipe: gives the recipe of a name, e.g. ``Run.recipe``.
        n_pairs: pairs on the rungs of their decoder in two dimensions; see ``n_pairs_of`` for the others.
        n_seeds: trained models on the rungs of ``REPEATED``.
        seed: of the first model, the pairs and their solver.
        max_steps: of our solver.
        device: of the models.

    Raises:
        ValueError: for published weights that are there and not what they should be, before anything is trained.
    """
    published, missing = None, ""
    try:
        published = michelis_becker.published_metric()
    except FileNotFoundError as error:
        missing = str(error)
    bases = {rung.recipe: recipe(rung.recipe) for rung in RUNGS if rung.recipe}
    made: dict[str, PullbackMetric] = {}
    measured = []
    for rung in RUNGS:
        progress.say(f"rung {len(measured) + 1} of {len(RUNGS)}: {rung.label.replace('$', '')}")
        count = n_pairs_of(rung, n_pairs)
        if rung.recipe:
            seeds = range(seed, seed + (n_seeds if rung.key in REPEATED else 1))
            runs = [_trained(bases[rung.recipe], rung, count, own, seed, max_steps, device, made) for own in seeds]
        elif published is None:
            continue
        else:
            configuration = {"weights": michelis_becker.WEIGHTS_SHA256}
            runs = [_kept(lambda: published, configuration, rung, count, seed, max_steps)]
        measured.append(Measured(rung, runs))
    progress.say("")
    return Ladder(measured, missing)


def _trained(
    base: Recipe,
    rung: Rung,
    n_pairs: int,
    own: int,
    seed: int,
    max_steps: int,
    device: torch.device | str,
    made: dict[str, PullbackMetric],
) -> dict[str, Any]:
    """A rung on the model trained from the seed ``own``; metrics are kept in ``made``, as several rungs share one."""
    # the data are read once for all rungs
    chosen = replace(base, load=lambda: base.data, training=replace(base.training, seed=own), **rung.changes)
    configuration = {"recipe": chosen.as_dict(), "data": chosen.data.fingerprint}
    key = store.key(configuration)

    def metric() -> PullbackMetric:
        if key not in made:
            made[key] = chosen.generator(device=device).metric
        return made[key]

    return _kept(metric, configuration, rung, n_pairs, seed, max_steps)


def _kept(
    metric: Callable[[], PullbackMetric],
    configuration: dict[str, Any],
    rung: Rung,
    n_pairs: int,
    seed: int,
    max_steps: int,
) -> dict[str, Any]:
    drawn = {"study": _RECIPE, "step_size": rung.step_size, "n_pairs": n_pairs, "seed": seed, "max_steps": max_steps}
    return measurements.kept(
        "ladder", {**configuration, **drawn}, lambda: _improvements(metric(), rung, n_pairs, seed, max_steps)
    )


def _improvements(metric: PullbackMetric, rung: Rung, n_pairs: int, seed: int, max_steps: int) -> dict[str, Any]:
    mc = relative_improvement(metric, n_samples=n_pairs, step_size=rung.step_size, seed=seed, max_steps=max_steps)
    printed = authors_solver.solve(authors_solver.squared_speed(metric), mc.start, mc.end, seed=seed)
    by_rule = 1 - authors_solver.rule_at_constant_speed(mc.geodesic.length) / printed.line
    values = {"true": mc.improvement, "rule": by_rule, "solver": printed.improvement}
    return {
        **{name: (100 * value.double()).tolist() for name, value in values.items()},
        "converged": summaries.share(mc.geodesic.converged),
    }
