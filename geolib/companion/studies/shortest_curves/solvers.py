"""Notebook 06: every solver on the same pairs, with the same budget of evaluations and the same measure of error."""

import functools
import math
import re
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from geolib import METHODS, PullbackMetric, geodesic
from geolib.companion.cache import measurements, progress
from geolib.companion.studies import summaries
from geolib.companion.studies.evidence import Claim, number
from geolib.curves import curve_length
from geolib.jacobian import push_forward
from geolib.riemannian import Metric

CHORDS = 512
ON_DATA = ("graph",)  # built on the latents; all other methods begin as they do without them
# The default keeps its hundred steps; the others need more. What a method does between two evaluations is in proportion
# to them, or is limited by its steps and nodes, so that the budget of evaluations and this limit end every run.
MAX_STEPS = 300
SOLVED = 1e-3  # relative excess over the shortest curve that any method found
ACCURATE = 1e-4  # median relative excess that the fastest method is chosen for
_REPEAT_BELOW = 0.3  # seconds; shorter runs are timed twice
_TAXING = 10  # times the median of the other methods

BVP = Claim(
    "B-1",
    "solving the geodesic equation as a boundary value problem is computationally taxing (Ramirez 2020)",
    f"on more than half of the problems, bvp exceeds the budget or takes at least {_TAXING} times as long per pair as "
    "the median of the other methods",
    lambda taxing, problems: taxing > problems / 2,
)

# From coarse to fine: what a user changes to make a method more accurate. The defaults of geodesic() are among the
# settings (rtol 1e-4, 32 segments), so that its row in the table of successes is one of these.
_TOLERANCES = [{"rtol": rtol} for rtol in (1e-2, 1e-4, 1e-5)]
SWEEPS: dict[str, list[dict]] = {
    "newton": _TOLERANCES,
    "spline": _TOLERANCES[:2],
    "georce": _TOLERANCES[:2],
    "discrete": [{"max_steps": n} for n in (100, 300)],
    "quadratic": _TOLERANCES[:2],
    "network": [{"n_hidden": n, "rtol": rtol} for n, rtol in ((8, 1e-3), (16, 1e-4))],
    "graph": [{}],
    "bvp": _TOLERANCES[:2],
    "fixed_point": _TOLERANCES[:2],
}
# the setting of each method in the table of successes: the default's tolerance, or the finest
STANDARD = {
    method: sweep.index(_TOLERANCES[1]) if _TOLERANCES[1] in sweep else len(sweep) - 1
    for method, sweep in SWEEPS.items()
}


class OverBudget(Exception):
    """The budget is spent. The decoder raises it, at whatever point a solver is."""


class Counted(nn.Module):
    """A decoder with a budget, that counts the points, tangents and cotangents that pass through it.

    A count is the same on a fast, slow or busy machine, so that who solves what within a budget is, too.
    """

    def __init__(self, decoder: nn.Module):
        super().__init__()
        self.decoder = decoder
        self.restart()

    def restart(self, budget: float = math.inf) -> None:
        """Count from zero, and stop before the count exceeds the budget."""
        self.evaluations, self.budget = 0, budget

    def _count(self, n: int) -> None:
        if self.evaluations + n > self.budget:
            raise OverBudget
        self.evaluations += n

    def _watched(self, out: Tensor) -> Tensor:
        if out.requires_grad:
            out.register_hook(lambda slope: self._count(slope.shape[:-1].numel()))
        return out

    def forward(self, z: Tensor) -> Tensor:
        """``z (n, d)`` to ``(n, D)``."""
        self._count(len(z))
        return self._watched(self.decoder(z))

    def push_forward(self, z: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        """Values ``(n, D)`` and derivatives ``(k, n, D)`` along ``tangents (k, n, d)``."""
        self._count(len(z) * (1 + len(tangents)))
        value, derivatives = push_forward(self.decoder, z, tangents)
        return self._watched(value), self._watched(derivatives)


@dataclass(frozen=True)
class Problem:
    """Pairs to be joined under a metric whose decoder counts evaluations."""

    name: str
    metric: PullbackMetric
    """its ``mean`` is a ``Counted``"""
    exact: Metric
    """the same in float64, for measuring curves"""
    start: Tensor
    """(n, d)"""
    end: Tensor
    """(n, d)"""
    latents: Tensor
    """(m, d), for graphs"""


@dataclass(frozen=True)
class Row:
    """One method with one setting on one problem. Lists have one entry per pair."""

    problem: str
    method: str
    setting: int
    seconds: float
    """of the whole run; the shorter of two where it is short"""
    evaluations: int
    """of the whole run"""
    lengths: list[float]
    """on ``CHORDS`` chords in float64; empty where the run exceeded the budget"""
    converged: list[bool]

    @property
    def ended(self) -> bool:
        """Whether the run ended within the budget."""
        return bool(self.lengths)


def compete(problem: Problem, *, budget: int) -> list[Row]:
    """Every method of ``METHODS`` on a problem, from its coarsest setting to its finest.

    Args:
        problem: pairs and metric.
        budget: decoder evaluations per pair. The pairs of a run share what they have together; a run that needs more
            has no result, and the method's finer settings are not tried.
    """
    # work that is done once per process or per metric is no method's cost
    geodesic(problem.metric, problem.start[:1], problem.end[:1], max_steps=2)
    rows = []
    n_runs = sum(map(len, SWEEPS.values()))
    with progress.bar(total=n_runs, description=problem.name, unit=" runs") as bar:
        for method in METHODS:
            for setting, options in enumerate(SWEEPS[method]):
                bar.set_postfix_str(f"{method} {options}")
                row = _run(problem, method, setting, budget)
                if row.ended and row.seconds < _REPEAT_BELOW:
                    row = min(row, _run(problem, method, setting, budget), key=lambda r: r.seconds)
                rows.append(row)
                bar.update()
                if not row.ended:
                    break
    return rows


def _run(problem: Problem, method: str, setting: int, budget: int) -> Row:
    counted = problem.metric.mean
    steps = {} if method == METHODS[0] else {"max_steps": MAX_STEPS}
    latents = {"latents": problem.latents} if method in ON_DATA else {}
    options = latents | steps | SWEEPS[method][setting]
    counted.restart(budget * len(problem.start))
    started = time.perf_counter()
    try:
        g = geodesic(problem.metric, problem.start, problem.end, method=method, **options)
    except OverBudget:
        g = None
    seconds, evaluations = time.perf_counter() - started, counted.evaluations
    counted.restart()
    if g is None:
        return Row(problem.name, method, setting, seconds, evaluations, [], [])
    points = g.curve(torch.linspace(0, 1, CHORDS + 1).to(g.points)).double()
    lengths = curve_length(problem.exact, points).tolist()
    return Row(problem.name, method, setting, seconds, evaluations, lengths, g.converged.tolist())


def as_json(rows: list[Row]) -> list[dict[str, Any]]:
    """Rows as JSON values."""
    return [asdict(row) for row in rows]


def from_json(values: list[dict[str, Any]]) -> list[Row]:
    """The inverse of ``as_json``."""
    return [Row(**value) for value in values]


@dataclass(frozen=True)
class Success:
    """How a method fared on a problem at its standard setting; counts of pairs."""

    n: int
    """pairs of the problem"""
    solved: int
    """no longer than the shortest known curve by more than ``SOLVED``"""
    converged: int
    """reported as converged"""
    converged_and_longer: int
    """reported as converged and not solved: geodesics, but not the shortest"""
    seconds: float
    """per pair"""

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the share of pairs solved, over draws of the pairs."""
        return summaries.share_interval(self.solved, self.n)


@dataclass(frozen=True)
class Contest:
    """All methods on all problems."""

    rows: list[Row]
    n_pairs: dict[str, int]
    """by problem"""
    budget: int
    """decoder evaluations per pair"""

    @property
    def problems(self) -> list[str]:
        """Their names."""
        return list(self.n_pairs)

    @property
    def n(self) -> int:
        """Pairs of all problems."""
        return sum(self.n_pairs.values())

    def of(self, problem: str, method: str | None = None) -> list[Row]:
        """Runs on a problem that ended within the budget, of one method or of all."""
        return [r for r in self.rows if r.problem == problem and r.ended and method in (None, r.method)]

    def shortest(self, problem: str) -> Tensor:
        """``(n,)``, length of the shortest curve that any method found for each pair."""
        return torch.tensor([row.lengths for row in self.of(problem)], dtype=torch.float64).amin(0)

    def excess(self, row: Row) -> Tensor:
        """``(n,)``, relative excess of a row's curves over the shortest known ones."""
        return torch.tensor(row.lengths, dtype=torch.float64) / self.shortest(row.problem) - 1

    def success(self, problem: str, method: str) -> Success | None:
        """None where the method's standard setting exceeded the budget or was not tried for that reason."""
        row = next((r for r in self.of(problem, method) if r.setting == STANDARD[method]), None)
        if row is None:
            return None
        solved, converged = self.excess(row) <= SOLVED, torch.tensor(row.converged)
        counts = [int(x.sum()) for x in (solved, converged, converged & ~solved)]
        n = self.n_pairs[problem]
        return Success(n, *counts, row.seconds / n)

    def over_budget(self, method: str) -> list[str]:
        """Problems on which the method's standard setting has no result."""
        return [problem for problem in self.problems if self.success(problem, method) is None]

    def solved(self, method: str) -> int:
        """Pairs that the method solves over all problems; a run over the budget solves none."""
        return sum(found.solved for found in self._successes(method))

    def converged_and_longer(self, method: str) -> int:
        """Pairs of all problems whose curve is reported as converged and not solved."""
        return sum(found.converged_and_longer for found in self._successes(method))

    def _successes(self, method: str) -> list[Success]:
        return [found for problem in self.problems if (found := self.success(problem, method)) is not None]

    def first(self, problem: str, work: str) -> str | None:
        """The method that reaches a median excess of ``ACCURATE`` with the least ``work``: ``"seconds"`` or
        ``"evaluations"``. None where no method reaches it within the budget."""
        accurate = [row for row in self.of(problem) if summaries.median(self.excess(row)) <= ACCURATE]
        return min(accurate, key=lambda row: getattr(row, work)).method if accurate else None

    @property
    def coarse(self) -> list[str]:
        """Methods that reach a median excess of ``SOLVED`` on fewer than half of the problems, at any setting."""

        def reached(method: str) -> int:
            return sum(
                any(summaries.median(self.excess(row)) <= SOLVED for row in self.of(problem, method))
                for problem in self.problems
            )

        return [method for method in METHODS if reached(method) < len(self.problems) / 2]

    @property
    def seen_in_precision(self) -> str:
        """Who is first, by time and by evaluations, and who never gets there, in words."""
        seconds, evaluations = (self._firsts(work) for work in ("seconds", "evaluations"))
        also = "the same" if evaluations == seconds else evaluations
        coarse = _listed([f"`{method}`" for method in self.coarse])
        verb = "comes" if len(self.coarse) == 1 else "come"
        return f"Fastest to a median excess of {ACCURATE:g}: {seconds}. Fewest decoder evaluations: {also}." + (
            f" {coarse} {verb} within {SOLVED:g} on fewer than half of the problems with this budget." if coarse else ""
        )

    def _firsts(self, work: str) -> str:
        by_method: dict[str, list[str]] = {}
        for problem in self.problems:
            by_method.setdefault(self.first(problem, work) or "", []).append(f"*{problem}*")
        missed = by_method.pop("", [])
        methods = sorted(by_method, key=lambda method: -len(by_method[method]))
        words = [f"`{method}` on {_listed(by_method[method])}" for method in methods]
        if missed:
            words.append(f"no method gets there on {_listed(missed)}")
        return "; ".join(words)

    @property
    def seen_in_success(self) -> str:
        """Who solves most and least, what was converged and not the shortest, what was over the budget, in words."""
        solved = {method: self.solved(method) for method in METHODS}
        most, least = max(solved.values()), min(solved.values())
        best, worst = ([f"`{m}`" for m, count in solved.items() if count == value] for value in (most, least))
        exceeding = sum(len(self.over_budget(method)) for method in METHODS)
        return (
            f"Of {self.n} pairs, {_listed(best)} {'solves' if len(best) == 1 else 'solve'} the most: "
            f"{most} ({percent(summaries.share_interval(most, self.n))}). "
            f"{_listed(worst)} {'solves' if len(worst) == 1 else 'solve'} the fewest: {least}. {self._seen_longer} "
            f"At the standard settings, {exceeding} of {len(METHODS) * len(self.problems)} runs exceeded the budget of "
            f"{self.budget:,} evaluations per pair."
        )

    @property
    def _seen_longer(self) -> str:
        """How many converged curves are not the shortest known, over all methods and for the default, in words."""
        longer = sum(map(self.converged_and_longer, METHODS))
        few = "No curve was" if longer == 0 else "One curve was" if longer == 1 else f"{longer} curves were"
        words = f"{few} reported as converged without being within a thousandth of the shortest known one."
        of_default = {p: s for p in self.problems if (s := self.success(p, METHODS[0])) and s.converged_and_longer}
        if not of_default:
            return f"{words} None of them is from `{METHODS[0]}`." if longer else words
        worst = max(of_default, key=lambda p: of_default[p].converged_and_longer / of_default[p].n)
        found = of_default[worst]
        return (
            f"{words} For the default, `{METHODS[0]}`, their share is largest on *{worst}*: of the {found.converged} "
            f"curves that it reports as converged there, {found.converged_and_longer} "
            f"{'is a geodesic' if found.converged_and_longer == 1 else 'are geodesics'}, but not the shortest known."
        )

    @property
    def table(self) -> str:
        """One line of Markdown per method: what this run found."""
        lines = [
            f"| method | solved, of {self.n} | 95 % interval | converged, not solved | fastest to {ACCURATE:g} on | "
            "over budget on |",
            "|---|---|---|---|---|---|",
        ]
        for method in METHODS:
            solved, longer = self.solved(method), self.converged_and_longer(method)
            interval = percent(summaries.share_interval(solved, self.n))
            first = [problem for problem in self.problems if self.first(problem, "seconds") == method]
            names = ["; ".join(problems) or "–" for problems in (first, self.over_budget(method))]
            lines.append(f"| `{method}` | {solved} | {interval} | {longer} | {' | '.join(names)} |")
        return "\n".join(lines)

    @property
    def numbers(self) -> list[dict[str, Any]]:
        """Rows of the numbers table: who solves what."""
        rows = []
        for problem, n in self.n_pairs.items():
            for method in METHODS:
                found = self.success(problem, method)
                quantity = f"{problem}: pairs solved by {method}"
                if found is None:
                    rows.append(number("B-1", quantity, "over budget"))
                    continue
                note = (
                    f"95 % interval {percent(found.interval)}; reported as converged: {found.converged}; of these not "
                    f"solved: {found.converged_and_longer}"
                )
                rows.append(number("B-1", quantity, found.solved, unit=f"of {n}", note=note))
        return rows

    @property
    def claims(self) -> list[dict[str, Any]]:
        """The verdict on the boundary value problem."""
        taxing, problems = sum(map(self._is_taxing, self.problems)), len(self.problems)
        return [BVP.decide(f"{taxing} of {problems} problems", taxing=taxing, problems=problems)]

    def _is_taxing(self, problem: str) -> bool:
        seconds = {m: found.seconds for m in METHODS if (found := self.success(problem, m)) is not None}
        if "bvp" not in seconds:
            return True
        others = torch.tensor([value for method, value in seconds.items() if method != "bvp"])
        return len(others) > 0 and seconds["bvp"] >= _TAXING * summaries.median(others)


def _listed(names: list[str]) -> str:
    """``a, b and c``."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def percent(interval: tuple[float, float]) -> str:
    """An interval of shares, e.g. ``76 to 98 %``."""
    low, high = interval
    return f"{100 * low:.0f} to {100 * high:.0f} %"


def _measured(problem: Problem, budget: int) -> list[dict[str, Any]]:
    return as_json(compete(problem, budget=budget))


def measure(problems: list[Problem], *, budget: int, settings: dict[str, Any]) -> Contest:
    """The contest on these problems. Each is kept in ``data/derived`` when it is measured, so a killed run goes on.

    Args:
        problems: see ``problems.six``.
        budget: decoder evaluations per pair.
        settings: what the problems were made from, as JSON values.
    """
    rows = []
    for problem in problems:
        name = re.sub(r"\W+", "-", problem.name)
        everything = {"problem": problem.name, "settings": settings, "budget": budget}
        everything |= {"sweeps": SWEEPS, "max_steps": MAX_STEPS, "chords": CHORDS, "on_data": ON_DATA}
        task = functools.partial(_measured, problem, budget)
        rows += from_json(measurements.kept(f"contest-{name}", everything, task))
    return Contest(rows, {problem.name: len(problem.start) for problem in problems}, budget)
