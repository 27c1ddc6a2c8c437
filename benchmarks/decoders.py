"""What `converged` is worth: random pairs on five decoders that nothing else uses, solved in several ways.

Every way is a row of `targets.py`, with the limit that all rows have, and kept: a run that was interrupted goes on
where it stopped. `python benchmarks/decoders.py 20` draws 20 pairs per decoder instead of all.
"""

import itertools
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Any

import targets
import torch
from torch import Tensor, nn

from geolib import PullbackMetric, geodesic
from geolib.curves import curve_length, straight

N_PAIRS = 200  # per decoder
CHORDS = targets.CHORDS
SHORTEST = targets.SHORTEST  # relative excess over the best curve known
VALLEY = 0.05  # of the distance between start and end: curves nearer to each other are in one valley
METHODS = ("newton", "spline", "georce")


class Exp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 0.3 * x.exp()


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sin()


def network(sizes: tuple[int, ...], kind: type[nn.Module], gain: float, seed: int, *last: nn.Module) -> nn.Sequential:
    """An untrained decoder with normal weights and biases, in float64."""
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(sizes):
        layer = nn.Linear(n_in, n_out, dtype=torch.float64)
        layer.weight.data = torch.randn(n_out, n_in, generator=generator, dtype=torch.float64) * gain / n_in**0.5
        layer.bias.data = torch.randn(n_out, generator=generator, dtype=torch.float64) / 2
        layers += [layer, kind()]
    return nn.Sequential(*layers[:-1], *last)


DECODERS: dict[str, tuple[int, Callable[[], PullbackMetric]]] = {
    "softplus 3-40-60-100": (3, lambda: PullbackMetric(network((3, 40, 60, 100), nn.Softplus, 2.0, 1))),
    "SiLU 2-50-50-200, std": (
        2,
        lambda: PullbackMetric(
            network((2, 50, 50, 200), nn.SiLU, 2.0, 2), network((2, 20, 200), nn.Tanh, 1.0, 3, Exp())
        ),
    ),
    "sine 2-30-80": (2, lambda: PullbackMetric(network((2, 30, 80), Sine, 1.2, 4))),
    "GELU 8-64-64-150, sigmoid": (8, lambda: PullbackMetric(network((8, 64, 64, 150), nn.GELU, 2.5, 5, nn.Sigmoid()))),
    "ELU 5-64-100, tanh": (5, lambda: PullbackMetric(network((5, 64, 100), nn.ELU, 2.0, 6, nn.Tanh()))),
}


def pairs(d: int, n_pairs: int) -> tuple[Tensor, Tensor]:
    """Normal points ``(n_pairs, d)``; the first ones are the same for any number."""
    generator = torch.Generator().manual_seed(7)
    both = torch.randn(n_pairs, 2, d, generator=generator, dtype=torch.float64)
    return both[:, 0], both[:, 1]


def _bent(start: Tensor, end: Tensor, height: float, turns: int) -> Tensor:
    """Lines bent aside by so many half waves."""
    generator = torch.Generator().manual_seed(8)
    chord = end - start
    aside = torch.randn(start.shape, generator=generator, dtype=start.dtype)
    aside = aside - (aside * chord).sum(-1, keepdim=True) / chord.square().sum(-1, keepdim=True) * chord
    aside = nn.functional.normalize(aside, dim=-1) * chord.norm(dim=-1, keepdim=True)
    wave = (turns * math.pi * torch.linspace(0, 1, 33, dtype=start.dtype)).sin()
    wave[-1] = 0
    return straight(start, end, 32) + height * wave[:, None] * aside[:, None]


STARTS: dict[str, Callable[[Tensor, Tensor], Tensor | str]] = {
    "its own": lambda start, end: "auto",
    "bow": lambda start, end: _bent(start, end, 0.3, 1),
    "bow to the other side": lambda start, end: _bent(start, end, -0.3, 1),
    "wave": lambda start, end: _bent(start, end, 0.2, 2),
    "wave to the other side": lambda start, end: _bent(start, end, -0.2, 2),
    "wide bow": lambda start, end: _bent(start, end, 0.8, 1),
    "wide bow to the other side": lambda start, end: _bent(start, end, -0.8, 1),
    "two waves": lambda start, end: _bent(start, end, 0.15, 4),
}


def solved(decoder: str, method: str, start_name: str, n_pairs: str) -> dict[str, Any]:
    """Curves of one method from one start: their lengths, nine points of each, and what it says of them."""
    d, make = DECODERS[decoder]
    metric = make()
    start, end = pairs(d, int(n_pairs))
    started = time.perf_counter()
    g = geodesic(metric, start, end, method=method, init=STARTS[start_name](start, end))
    seconds = time.perf_counter() - started
    lengths = curve_length(metric, g.curve(torch.linspace(0, 1, CHORDS + 1, dtype=torch.float64))).tolist()
    places = g.points[:, ::4].mul(1e4).round().div(1e4).tolist()
    return {"seconds": seconds, "lengths": lengths, "points": places, "converged": g.converged.tolist()}


ROWS = {"solved": solved}


@dataclass(frozen=True)
class Worth:
    """Counts on one decoder."""

    pairs: int
    default_shortest: int
    """pairs of which the default's curve is within ``SHORTEST`` of the best that any way found"""
    default_converged: int
    converged: int
    """curves of all ways that are reported as converged"""
    beaten: int
    """of these, longer than the pair's best by more than ``SHORTEST``"""
    beaten_in_valley: int
    """of these, in the valley of the best"""


def worth(rows: dict[tuple[str, str], dict[str, Any] | None]) -> Worth:
    """From the rows of all ways (method, start) on one decoder; the first is the default, and done."""
    done = [row for row in rows.values() if row is not None]
    lengths, points = (torch.tensor([row[key] for row in done], dtype=torch.float64) for key in ("lengths", "points"))
    converged = torch.tensor([row["converged"] for row in done])
    best, which = lengths.min(0)
    beaten = lengths > (1 + SHORTEST) * best
    of_best = points[which, torch.arange(len(best))]
    size = (of_best[:, -1] - of_best[:, 0]).norm(dim=-1)
    near = (points - of_best).norm(dim=-1).amax(-1) < VALLEY * size
    counts = (~beaten[0], converged[0], converged, converged & beaten, converged & beaten & near)
    return Worth(len(best), *(int(x.sum()) for x in counts))


def section(n_pairs: int = N_PAIRS) -> tuple[list[str], dict[str, float]]:
    """Lines of Markdown with a row for each decoder, and their numbers."""
    lines = [
        "## Random pairs",
        "",
        f"{n_pairs} pairs of normal points on each of {len(DECODERS)} untrained decoders that nothing else here uses, "
        f"float64, by {', '.join(METHODS)}, each from {len(STARTS)} starts: {', '.join(STARTS)}. A curve is beaten "
        f"where another one is shorter by {SHORTEST:.1%}; in its valley, where that is nowhere farther away than "
        f"{VALLEY:.0%} of the pair's latent distance.",
        "",
        f"| decoder | default, within {SHORTEST:.1%} of the best | default, converged | converged curves of all | "
        "beaten | beaten in their valley |",
        "|---|---|---|---|---|---|",
    ]
    found = []
    for decoder in DECODERS:
        ways = [(method, start) for method in METHODS for start in STARTS]
        rows = {way: targets.row("solved", decoder, *way, str(n_pairs), script=__file__) for way in ways}
        if rows[ways[0]] is None:
            lines.append(_said(f"| {decoder} | not done in {targets.LIMIT} s | | | | |"))
            continue
        found.append(worth(rows))
        lines.append(_said(_line(decoder, found[-1])))
    numbers: dict[str, float] = {}
    if found:
        total = Worth(*(sum(counts) for counts in zip(*(astuple(w) for w in found), strict=True)))
        lines.append(_said(_line("all", total)))
        numbers = {
            "random pairs": total.pairs,
            "random pairs, default, share of shortest known": total.default_shortest / total.pairs,
            "random pairs, converged and beaten in their valley": total.beaten_in_valley,
        }
    return [*lines, ""], numbers


def _line(name: str, w: Worth) -> str:
    return (
        f"| {name} | {w.default_shortest} of {w.pairs} | {w.default_converged} of {w.pairs} | {w.converged:,} | "
        f"{w.beaten} | {w.beaten_in_valley} |"
    )


def _said(line: str) -> str:
    print(line, flush=True)
    return line


if __name__ == "__main__":
    if len(sys.argv) > 2:
        print(json.dumps(ROWS[sys.argv[1]](*sys.argv[2:])))
    else:
        section(*map(int, sys.argv[1:]))
