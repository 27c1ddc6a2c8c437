"""What the defaults are held to: shortest curves on hard decoders, and one pair in large latent spaces.

`make bench` adds these rows to its table. Each is measured in a process of its own that is given `LIMIT` seconds, and
kept in `data/derived`, so that a run that was interrupted goes on where it stopped.
"""

import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

from geolib import PullbackMetric, geodesic
from geolib.companion.cache import measurements
from geolib.companion.figures import style
from geolib.companion.models.recipes import recipe
from geolib.companion.studies import summaries
from geolib.companion.studies.shortest_curves import problems, solvers
from geolib.companion.studies.shortest_curves.solvers import CHORDS, Problem
from geolib.curves import curve_length

LIMIT = 300  # seconds per row
PICTURE = Path(__file__).with_name("dimensions.png")

N_PAIRS = 100
RTOL = 1e-4  # of geodesic()
SHORTEST = 1e-3  # relative excess over the shortest known curve; also ten times the tolerance
HARD = {"moons": "two moons", "few_digits": "VAE, 1,600 digits", "few_digits_small": "VAE2, 1,600 digits"}
DEFAULTS = ("default", "default, latents")
# The defaults, and others whose only task is to find a shorter curve.
FINDERS: dict[str, dict[str, Any]] = {
    "default": {},
    "default, latents": {"latents": True},
    "newton, graph": {"latents": True, "init": "graph", "max_steps": 300},
    "newton, best": {"latents": True, "init": "best", "max_steps": 300},
    "newton, fine": {"latents": True, "init": "best", "rtol": 1e-5, "n_segments": 64, "max_steps": 300},
    "spline": {"method": "spline", "max_steps": 300},
    "spline, best": {"method": "spline", "latents": True, "init": "best", "max_steps": 300},
    "georce, best": {"method": "georce", "latents": True, "init": "best", "max_steps": 300},
}

DIMENSIONS = (2, 4, 16, 64, 128, 256, 512)
WIDTH, N_OUTPUTS = 512, 784

# the number that a target is about, whether it is a least or a greatest value, and the value
TARGETS = [
    ("newton (default), in F", "at most", 15),
    *(
        (f"{label}, {finder}, shortest known", "at least", n)
        for label in HARD.values()
        for finder, n in zip(DEFAULTS, (95, 99), strict=True)
    ),
    *((f"{label}, {finder}, converged and longer", "at most", 0) for label in HARD.values() for finder in DEFAULTS),
    ("random pairs, converged and beaten in their valley", "at most", 0),
    (f"d = {DIMENSIONS[-1]}, converged", "at least", 1),
    (f"d = {DIMENSIONS[-1]}, seconds", "at most", 20),
    (f"d = {DIMENSIONS[-1]}, MiB", "at most", 2048),
]


# Rows, each in a process of its own


def _problem(name: str) -> Problem:
    generator = recipe(name).generator()
    if name == "moons":
        return problems.two_moons(generator, N_PAIRS, seed=1)
    return problems.digits(name, generator, N_PAIRS, seed=1)


def found(name: str, finder: str) -> dict[str, Any]:
    """Curves of one finder on a hard decoder: their lengths on fine chords in float64, and what it says of them."""
    problem = _problem(name)
    options = dict(FINDERS[finder])
    if options.pop("latents", False):
        options["latents"] = problem.latents
    problem.metric.mean.restart()
    started = time.perf_counter()
    g = geodesic(problem.metric, problem.start, problem.end, **options)
    seconds = time.perf_counter() - started
    evaluations = problem.metric.mean.evaluations
    points = g.curve(torch.linspace(0, 1, CHORDS + 1).to(g.points)).double()
    lengths = curve_length(problem.exact, points).tolist()
    return {"seconds": seconds, "evaluations": evaluations, "lengths": lengths, "converged": g.converged.tolist()}


def one_pair(d: int) -> dict[str, Any]:
    """One pair in a latent space of dimension d, under an untrained decoder; one thread."""
    torch.set_num_threads(1)
    # what is done once per process is no dimension's cost
    geodesic(PullbackMetric(nn.Sequential(nn.Linear(2, 4), nn.Tanh())), torch.zeros(2), torch.ones(2))
    torch.manual_seed(0)
    layers = [nn.Linear(d, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, N_OUTPUTS)]
    for layer in layers[::2]:  # torch's own start is nearly linear
        nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    metric = PullbackMetric(nn.Sequential(*layers))
    start, end = torch.randn(2, d)
    before = _peak()
    started = time.perf_counter()
    g = geodesic(metric, start, end)
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "mebibytes": _peak(),
        "mebibytes before": before,
        "improvement": float(g.improvement),
        "converged": bool(g.converged),
    }


def _peak() -> float:
    """The most memory that this process ever held, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)


ROWS = {"found": found, "one_pair": lambda d: one_pair(int(d))}


def row(*words: str, script: str = __file__) -> dict[str, Any] | None:
    """What ``ROWS[words[0]](*words[1:])`` of a script returns, from a process that is given ``LIMIT`` seconds. None
    where it is not done by then."""

    def measure() -> dict[str, Any]:
        command = [sys.executable, script, *words]
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=LIMIT, check=True)
        except subprocess.TimeoutExpired:
            return {"row": None}
        return {"row": json.loads(done.stdout.splitlines()[-1])}

    configuration: dict[str, Any] = {"words": words, "limit": LIMIT, "n_pairs": N_PAIRS, "finders": FINDERS}
    if words[0] == "found":
        chosen = recipe(words[1])
        configuration |= {"recipe": chosen.as_dict(), "data": chosen.data.fingerprint}
    return measurements.kept("bench", configuration, measure)["row"]


# What is made of them


@dataclass(frozen=True)
class Share:
    """How a default fares on a hard decoder; counts of ``N_PAIRS`` pairs."""

    shortest: int
    """within ``SHORTEST`` of the shortest curve that any finder found"""
    converged: int
    converged_and_longer: int
    """reported as converged, and longer than the shortest known by more than ten times the tolerance"""
    seconds: float
    evaluations: int


def share(rows: dict[str, dict[str, Any] | None], finder: str) -> Share | None:
    """A finder's share, from the rows of all finders on one decoder. None where its row was not done in time."""
    own = rows[finder]
    if own is None:
        return None
    lengths = torch.tensor([other["lengths"] for other in rows.values() if other is not None], dtype=torch.float64)
    excess = torch.tensor(own["lengths"], dtype=torch.float64) / lengths.amin(0) - 1
    converged = torch.tensor(own["converged"])
    counts = (excess <= SHORTEST, converged, converged & (excess > 10 * RTOL))
    return Share(*(int(x.sum()) for x in counts), own["seconds"], own["evaluations"])


def exponent(seconds: dict[int, float]) -> float:
    """p of the fit ``seconds ~ d^p``, in logarithms; NaN for fewer than two dimensions."""
    if len(seconds) < 2:
        return math.nan
    return float(np.polyfit(np.log(list(seconds)), np.log(list(seconds.values())), 1)[0])


def section() -> tuple[list[str], dict[str, float]]:
    """Lines of Markdown with all rows, and their numbers. Draws the cost against the dimension."""
    numbers: dict[str, float] = {}
    lines = ["## Shortest curves on hard decoders", "", *_shares(numbers), "", "## Large latent spaces", ""]
    return [*lines, *_dimensions(numbers), ""], numbers


def judged(numbers: dict[str, float]) -> list[str]:
    """Lines of Markdown with every target and whether it is met."""
    lines = ["## Targets", "", "| what | target | measured | met |", "|---|---|---|---|"]
    for name, word, value in TARGETS:
        own = numbers.get(name)
        measured = "not done" if own is None else f"{own:.3g}"
        met = own is not None and (own >= value if word == "at least" else own <= value)
        lines.append(f"| {name} | {word} {value} | {measured} | {'yes' if met else 'no'} |")
    return [*lines, ""]


def _said(line: str) -> str:
    print(line, flush=True)
    return line


def _shares(numbers: dict[str, float]) -> Iterator[str]:
    yield (
        f"{N_PAIRS} random pairs of test data each. The shortest known curve of a pair is the shortest of "
        f"{len(FINDERS)} runs: {'; '.join(FINDERS)}. Lengths on {CHORDS} chords in float64. Wilson's 95 % intervals. A "
        f"row that takes more than {LIMIT} s is left out."
    )
    yield ""
    yield (
        f"| decoder | solver | within {SHORTEST:.1%} of the shortest known | converged | "
        "converged and longer by 10 rtol | ms per pair | evaluations per pair |"
    )
    yield "|---|---|---|---|---|---|---|"
    for name, label in HARD.items():
        rows = {finder: row("found", name, finder) for finder in FINDERS}
        for finder in DEFAULTS:
            of = share(rows, finder)
            if of is None:
                yield _said(f"| {label} | {finder} | not done in {LIMIT} s | | | | |")
                continue
            interval = solvers.percent(summaries.share_interval(of.shortest, N_PAIRS))
            yield _said(
                f"| {label} | {finder} | {of.shortest} of {N_PAIRS} ({interval}) | {of.converged} | "
                f"{of.converged_and_longer} | {1000 * of.seconds / N_PAIRS:.3g} | {of.evaluations / N_PAIRS:,.0f} |"
            )
            numbers |= {
                f"{label}, {finder}, shortest known": of.shortest,
                f"{label}, {finder}, converged and longer": of.converged_and_longer,
                f"{label}, {finder}, seconds": of.seconds,
            }


def _dimensions(numbers: dict[str, float]) -> Iterator[str]:
    yield (
        f"One pair of normal points, decoder of widths d, {WIDTH}, {WIDTH}, {N_OUTPUTS} with tanh and normal weights "
        f"of variance 1 / (width before), float32, one thread. Memory is "
        f"the peak of the whole process, torch included. Limit {LIMIT} s per row."
    )
    yield ""
    yield "| d | seconds | peak memory [MiB] | before the solve [MiB] | improvement | converged |"
    yield "|---|---|---|---|---|---|"
    seconds = {}
    for d in DIMENSIONS:
        found_one = row("one_pair", str(d))
        if found_one is None:
            yield _said(f"| {d} | not done in {LIMIT} s | | | | |")
            continue
        seconds[d] = found_one["seconds"]
        yield _said(
            f"| {d} | {seconds[d]:.3g} | {found_one['mebibytes']:.0f} | {found_one['mebibytes before']:.0f} | "
            f"{found_one['improvement']:.2%} | {'yes' if found_one['converged'] else 'no'} |"
        )
        numbers |= {
            f"d = {d}, converged": int(found_one["converged"]),
            f"d = {d}, seconds": seconds[d],
            f"d = {d}, MiB": found_one["mebibytes"],
        }
    p = exponent(seconds)
    if math.isfinite(p):
        numbers["seconds against d, exponent"] = p
        yield ""
        yield f"Seconds grow as d to the power of {p:.2f} between d = {min(seconds)} and d = {max(seconds)}."
    yield ""
    yield f"![seconds for one pair against the latent dimension]({PICTURE.name})"
    draw(seconds)


def draw(seconds: dict[int, float]) -> None:
    """Cost against the dimension, and the dimensions that were not done."""
    style.set_style()
    figure, axes = plt.subplots(figsize=(style.COLUMN, 2.4), layout="constrained")
    axes.plot(list(seconds), list(seconds.values()), marker="o")
    for d in DIMENSIONS:
        if d not in seconds:
            axes.annotate(f"not done\nin {LIMIT} s", (d, LIMIT), ha="center", va="top", fontsize=7)
            axes.plot([d], [LIMIT], marker="^", color="0.5")
    axes.set(xscale="log", yscale="log", xlabel="latent dimension d", ylabel="time for one pair [s]")
    axes.set_xticks(DIMENSIONS, [str(d) for d in DIMENSIONS])
    axes.minorticks_off()
    beside = PICTURE.with_suffix(".new.png")
    figure.savefig(beside, dpi=130)
    plt.close(figure)
    beside.replace(PICTURE)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(ROWS[sys.argv[1]](*sys.argv[2:])))
    else:
        section()
