"""Is the maximal eigenvector the worst direction? Steps from the same points in other directions, in pairs."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from geolib import extremal_directions, geodesic
from geolib.companion.cache import measurements, progress
from geolib.companion.models.generators import Generator
from geolib.companion.studies import summaries
from geolib.companion.studies.evidence import Claim, number

STEPS = (0.25, 0.5, 1.0, 2.0)  # times the notebook's step size
DIRECTIONS = ("v_max", "v_min", "random")
LABELS = {"v_max": "maximal eigenvector", "v_min": "minimal eigenvector", "random": "random direction"}
_MAX_STEPS = 100  # long lines of a model that was hardly trained take many more
_REVISION = 1  # counts changes of this file that change what is measured

WORST = Claim(
    "MB-2",
    "the maximal eigenvector is the worst case: an upper bound on how much straight lines can be improved",
    "from the same points and by the same step, lines along it can be improved by more on average than lines along the "
    "minimal eigenvector and along random directions; both 95 % intervals of the paired difference lie above 0",
    lambda low_v_min, low_random: min(low_v_min, low_random) > 0,
)


@dataclass(frozen=True)
class WorstCase:
    """Relative improvements from the same points, along three directions and for several step sizes."""

    improvement: dict[str, Tensor]
    """by the names of ``DIRECTIONS``: ``(len(STEPS), n)``"""
    length: dict[str, Tensor]
    """the same, of the straight lines' lengths"""
    converged: dict[str, list[int]]
    """by the same names: for each of ``STEPS`` the number of curves whose solver converged"""
    step_size: float
    """what ``STEPS`` are multiples of, in latent units"""

    @property
    def n(self) -> int:
        """The number of points."""
        return self.improvement["v_max"].shape[1]

    @property
    def step_sizes(self) -> list[float]:
        """In latent units."""
        return [self.step_size * step for step in STEPS]

    def mean(self, direction: str) -> Tensor:
        """``(len(STEPS), 3)``, the mean improvement and its 95 % interval over draws, in per cent."""
        return _mean_and_interval(100 * self.improvement[direction])

    def difference(self, direction: str) -> tuple[float, float, float]:
        """How much more lines along ``v_max`` can be improved, in percentage points, and its 95 % interval.

        At the notebook's own step size.
        """
        k = STEPS.index(1.0)
        both = 100 * (self.improvement["v_max"][k] - self.improvement[direction][k])
        return tuple(_mean_and_interval(both).tolist())

    @cached_property
    def exponent(self) -> float:
        """The power of the step size that the mean improvement along ``v_max`` grows with, from smallest to largest."""
        mean = self.mean("v_max")[:, 0]
        return float((mean[-1] / mean[0]).log() / math.log(STEPS[-1] / STEPS[0]))

    @property
    def which_is_worst(self) -> str:
        """The direction whose lines can be improved most on average at the notebook's step size, in words."""
        k = STEPS.index(1.0)
        return LABELS[max(DIRECTIONS, key=lambda name: float(self.mean(name)[k, 0]))]

    @property
    def ratio_of_lengths(self) -> float:
        """The median over points of a line's length along ``v_max`` over that along ``v_min``, at that step size."""
        k = STEPS.index(1.0)
        return summaries.median(self.length["v_max"][k] / self.length["v_min"][k])

    @property
    def numbers(self) -> list[dict[str, Any]]:
        """Rows of the numbers table."""
        rows = []
        k = STEPS.index(1.0)
        for name in DIRECTIONS:
            mean, low, high = self.mean(name)[k].tolist()
            note = f"95 % interval over draws {low:.2f} to {high:.2f} %, {self.n} points"
            rows.append(number("MB-2", f"mean improvement along the {LABELS[name]}", mean, unit="%", note=note))
        share = sum(map(sum, self.converged.values())) / (len(DIRECTIONS) * len(STEPS) * self.n)
        note = "the others are no longer than their lines"
        quantity = "curves in three directions whose solver converged"
        rows.append(number("MB-2", quantity, 100 * share, unit="%", note=note))
        rows.append(number("MB-2", "power of the step size that the improvement grows with", self.exponent))
        return rows

    @property
    def claims(self) -> list[dict[str, Any]]:
        """The verdict on the paper's claim."""
        found = {name: self.difference(name) for name in DIRECTIONS[1:]}
        said = "; ".join(
            f"against the {LABELS[name]} {mean:+.2f} ({low:+.2f} to {high:+.2f}) percentage points"
            for name, (mean, low, high) in found.items()
        )
        return [WORST.decide(said, low_v_min=found["v_min"][1], low_random=found["random"][1])]


def measure(g: Generator, start: Tensor, *, step_size: float, seed: int, settings: dict[str, Any]) -> WorstCase:
    """Steps along both extremal eigenvectors and along a random direction, from the same points.

    Args:
        g: the generator.
        start: ``(n, d)``, the points, such as those of Algorithm 1.
        step_size: in latent units; steps are ``STEPS`` times as long.
        seed: of the random directions.
        settings: what else the result depends on (such as the points), as in ``Run.settings``: it is kept under these.
    """

    def improvements() -> dict[str, Any]:
        directions = inwards(g, start, seed=seed)
        found: dict[str, Any] = {}
        for name, direction in directions.items():
            curves = []
            for step in STEPS:
                progress.say(f"{len(start)} steps of {step * step_size:g}, {LABELS[name]}")
                curves.append(geodesic(g.metric, start, start + step * step_size * direction, max_steps=_MAX_STEPS))
            found[name] = {
                "improvement": [each.improvement.tolist() for each in curves],
                "length": [each.line_length.tolist() for each in curves],
                "converged": [int(each.converged.sum()) for each in curves],
            }
        return found

    key = {
        **settings,
        "revision": _REVISION,
        "steps": STEPS,
        "step_size": step_size,
        "n_points": len(start),
        "seed": seed,
    }
    kept = measurements.kept("worst-case", key, improvements)
    improvement, length = (
        {name: torch.tensor(kept[name][part], dtype=torch.float64) for name in DIRECTIONS}
        for part in ("improvement", "length")
    )
    converged = {name: kept[name]["converged"] for name in DIRECTIONS}
    return WorstCase(improvement, length, converged, step_size)


def inwards(g: Generator, start: Tensor, *, seed: int) -> dict[str, Tensor]:
    """Unit directions ``(n, d)`` at ``start (n, d)`` by name, all towards the origin (the paper's footnote 1)."""
    other = torch.randn(start.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(start)
    v_min, v_max = extremal_directions(g.metric(start))
    directions = {"v_max": v_max, "v_min": v_min, "random": other / other.norm(dim=-1, keepdim=True)}
    return {name: torch.where((start * v).sum(-1, keepdim=True) > 0, -v, v) for name, v in directions.items()}


def _mean_and_interval(values: Tensor) -> Tensor:
    """``(..., 3)``: the mean over the last dimension and Student's 95 % interval."""
    mean, half = values.double().mean(-1), summaries.half_width(values)
    return torch.stack([mean, mean - half, mean + half], dim=-1)
