"""Every solver on the same pairs, with the same budget and the same measure of error."""

import time
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from geolib import METHODS, PullbackMetric, geodesic
from geolib.companion.cache import progress
from geolib.companion.studies import evidence
from geolib.curves import curve_length
from geolib.jacobian import push_forward
from geolib.riemannian import Metric

CHORDS = 512
SOLVED = 1e-3  # relative excess over the shortest curve that any method found
_REPEAT_BELOW = 0.3  # seconds; what takes less is timed twice

# From coarse to fine: what a method's user would turn to have it more accurate. The defaults of geodesic() are among
# them (rtol 1e-4, 32 segments), so that its row in the table of successes is one of these.
_TOLERANCES = [{"rtol": rtol} for rtol in (1e-2, 1e-3, 1e-4, 1e-5)]
SWEEPS: dict[str, list[dict]] = {
    "newton": [*_TOLERANCES, {"rtol": 1e-6}],
    "spline": _TOLERANCES,
    "georce": _TOLERANCES,
    "discrete": [{"max_steps": n} for n in (10, 30, 100, 300)],
    "quadratic": [{"rtol": 1e-2}, {"rtol": 1e-4}],
    "network": [{"n_hidden": n, "rtol": rtol} for n, rtol in ((4, 1e-2), (8, 1e-3), (16, 1e-4), (32, 1e-5))],
    "graph": [{"n_segments": n} for n in (8, 32)],
    "bvp": [{"rtol": 1e-2}, {"rtol": 1e-4}],
    "fixed_point": [{"rtol": rtol} for rtol in (1e-2, 1e-3, 1e-4, 1e-5)],
}
# the setting of each method that stands in the table of successes
STANDARD = {method: min(2, len(sweep) - 1) for method, sweep in SWEEPS.items()} | {"discrete": 3}


class OutOfTime(Exception):
    """The budget is spent; raised out of the decoder, wherever a solver has got to."""


class Counted(nn.Module):
    """A decoder that counts what passes through it: points, tangents and cotangents; and that has a deadline."""

    def __init__(self, decoder: nn.Module):
        super().__init__()
        self.decoder = decoder
        self.restart(float("inf"))

    def restart(self, seconds: float) -> None:
        """Count from zero, and stop after so many seconds."""
        self.evaluations, self.deadline = 0, time.perf_counter() + seconds

    def _count(self, n: int) -> None:
        self.evaluations += n
        if time.perf_counter() > self.deadline:
            raise OutOfTime

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
    """Pairs to be joined under a metric whose decoder counts."""

    name: str
    metric: PullbackMetric
    """its ``mean`` is a ``Counted``"""
    exact: Metric
    """the same in float64, in which curves are measured"""
    start: Tensor
    """(n, d)"""
    end: Tensor
    """(n, d)"""
    latents: Tensor
    """(m, d), for graphs"""


@dataclass(frozen=True)
class Row:
    """One method with one setting on one problem. Lists have one entry a pair."""

    problem: str
    method: str
    setting: int
    seconds: float
    evaluations: int
    lengths: list[float]
    """on ``CHORDS`` chords in float64; empty where the budget did not suffice"""
    converged: list[bool]

    @property
    def in_time(self) -> bool:
        """Whether the method came to an end within the budget."""
        return bool(self.lengths)


def compete(problem: Problem, *, budget: float) -> list[Row]:
    """Every method of ``METHODS`` on a problem, from its coarsest setting to its finest.

    Args:
        problem: pairs and metric.
        budget: seconds a run; a method that is not done by then has no result, and its finer settings are not tried.
    """
    # what is done once a process or a metric is nobody's cost
    geodesic(problem.metric, problem.start[:1], problem.end[:1], max_steps=2)
    rows = []
    n_runs = sum(map(len, SWEEPS.values()))
    with progress.bar(total=n_runs, description=problem.name, unit=" runs") as bar:
        for method in METHODS:
            for setting, options in enumerate(SWEEPS[method]):
                bar.set_postfix_str(f"{method} {options}")
                row = _run(problem, method, setting, budget)
                if row.in_time and row.seconds < _REPEAT_BELOW:
                    again = _run(problem, method, setting, budget)
                    row = min(row, again, key=lambda r: r.seconds) if again.in_time else row
                rows.append(row)
                bar.update()
                if not row.in_time:
                    break
    return rows


def _run(problem: Problem, method: str, setting: int, budget: float) -> Row:
    counted = problem.metric.mean
    options = {"max_steps": 1000, "latents": problem.latents} | SWEEPS[method][setting]
    counted.restart(budget)
    started = time.perf_counter()
    try:
        g = geodesic(problem.metric, problem.start, problem.end, method=method, **options)
    except OutOfTime:
        g = None
    seconds, evaluations = time.perf_counter() - started, counted.evaluations
    counted.restart(float("inf"))
    if g is None or seconds > budget:
        return Row(problem.name, method, setting, seconds, evaluations, [], [])
    points = g.curve(torch.linspace(0, 1, CHORDS + 1).to(g.points)).double()
    lengths = curve_length(problem.exact, points).tolist()
    return Row(problem.name, method, setting, seconds, evaluations, lengths, g.converged.tolist())


def as_json(rows: list[Row]) -> list[dict]:
    """For files."""
    return [asdict(row) for row in rows]


def from_json(values: list[dict]) -> list[Row]:
    """The inverse of ``as_json``."""
    return [Row(**value) for value in values]


def shortest(rows: list[Row]) -> Tensor:
    """Length of the shortest curve that any method found for each pair, ``(n,)``."""
    return torch.tensor([row.lengths for row in rows if row.in_time], dtype=torch.float64).amin(0)


@dataclass(frozen=True)
class Success:
    """How a method fared at its standard setting; shares of the pairs."""

    solved: float
    """no longer than the shortest known curve by more than ``SOLVED``"""
    claimed: float
    """reported as converged"""
    claimed_and_longer: float
    """reported as converged, and yet longer by more than that: geodesics that are not the shortest"""
    seconds: float
    """a pair"""


def success(rows: list[Row], problem: str, method: str) -> Success | None:
    """None where the method did not come to an end within the budget."""
    own = [row for row in rows if row.problem == problem]
    best = shortest(own)
    row = next((r for r in own if r.method == method and r.setting == STANDARD[method]), None)
    if row is None or not row.in_time:
        return None
    solved = torch.tensor(row.lengths, dtype=torch.float64) <= best * (1 + SOLVED)
    claimed = torch.tensor(row.converged)
    shares = [float(x.double().mean()) for x in (solved, claimed, claimed & ~solved)]
    return Success(*shares, row.seconds / len(best))


def numbers(rows: list[Row]) -> list[dict]:
    """Rows of the numbers table: who solves what."""
    found = []
    for problem in dict.fromkeys(row.problem for row in rows):
        for method in METHODS:
            result = success(rows, problem, method)
            value = "out of time" if result is None else 100 * result.solved
            note = (
                ""
                if result is None
                else (
                    f"reported as converged: {100 * result.claimed:.0f} % of the pairs; so and yet longer than the "
                    f"shortest known: {100 * result.claimed_and_longer:.0f} %"
                )
            )
            found.append(evidence.number("B-1", f"{problem}: pairs solved by {method}", value, unit="%", note=note))
    return found
