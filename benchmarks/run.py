"""How long the core takes on the digits VAE, in seconds and in decoder evaluations, and others beside it: `make bench`.

F is the time of evaluating the immersion (mean and sigma, float32) at 10,000 points in chunks that fit the cache,
measured between the other measurements, so that a ratio to F means the same on a fast, slow or busy machine.
"""

import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import decoders
import gallery
import matplotlib.pyplot as plt
import peers
import targets
import torch
from torch import Tensor

import geolib
from geolib.companion.cache import store
from geolib.companion.figures import style
from geolib.companion.models import generators
from geolib.companion.models.recipes import recipe
from geolib.curves import curve_length

RESULTS = Path(__file__).with_name("results.md")
NUMBERS = RESULTS.with_suffix(".json")
PICTURE = Path(__file__).with_name("results.png")
REPEATS = 5
CHORDS = 512


def seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


@dataclass
class Row:
    """One solver on the pairs."""

    name: str
    seconds: float
    in_F: float
    points: Tensor
    """(n, CHORDS + 1, d)"""
    converged: str


def main() -> None:
    g = recipe("digits").generator()
    data, vae = g.data, g.vae
    double = generators.in_double(g)
    target = generators.variance_target(vae, data.train_images, g.train_latents)
    points = torch.randn(10_000, 2, generator=torch.Generator().manual_seed(0))
    t = torch.linspace(0, 1, CHORDS + 1)

    def unit() -> float:
        return min(seconds(lambda: g.metric.immersion(points)) for _ in range(REPEATS))

    def timed(task: Callable[[], object], repeats: int) -> tuple[float, float]:
        times, ratios = [], []
        for _ in range(repeats):
            F = unit()
            times.append(seconds(task))
            ratios.append(times[-1] / F)
        return statistics.median(times), statistics.median(ratios)

    unit()  # warm-up
    parts = []
    numbers: dict[str, float] = {}

    def note(name: str, took: float, in_F: float) -> None:
        numbers.update({f"{name}, seconds": took, f"{name}, in F": in_F})
        parts.append(f"| {name} | {took:.3g} | {in_F:.3g} |")
        print(parts[-1], flush=True)

    for name, task in (
        ("metric tensor at 10,000 points", lambda: g.metric(points)),
        (
            f"RBF fit, {len(g.train_latents):,} latents, K = 64",
            lambda: geolib.fit_rbf_precision(g.train_latents, target),
        ),
    ):
        note(name, *timed(task, REPEATS))

    mc = geolib.relative_improvement(g.metric, n_samples=200, max_steps=1)
    many = geolib.relative_improvement(g.metric, n_samples=1000, max_steps=1)
    start, end = mc.start, mc.end
    latents = g.train_latents

    def solved(name: str, repeats: int, **options: object) -> Row:
        found: list[geolib.Geodesic] = []
        took = timed(lambda: found.append(geolib.geodesic(g.metric, start, end, **options)), repeats)
        share = 100 * float(found[-1].converged.double().mean())
        return Row(name, *took, found[-1].curve(t), f"{share:.1f} %")

    rows = [solved("newton (default)", REPEATS)]
    rows.append(solved('newton, init="graph"', 3, init="graph", latents=latents))
    rows.append(solved('newton, init="best"', 3, init="best", latents=latents))
    rows.append(solved("newton, rtol 1e-3", 3, rtol=1e-3))
    rows.append(solved("newton, rtol 1e-5", 3, rtol=1e-5))
    rows.append(solved("spline (Michelis & Becker)", 1, method="spline"))
    for method in geolib.METHODS[2:]:
        # the slower ones take more than the default's hundred steps
        rows.append(solved(method, 1, method=method, latents=latents, max_steps=500))
    note("1,000 pairs of Algorithm 1", *timed(lambda: geolib.geodesic(g.metric, many.start, many.end), 3))

    walkers = g.train_latents[:100]
    walk = {"n_steps": 10_000, "step_size": 0.2}
    exact = timed(lambda: geolib.random_walk(g.metric, walkers, **walk), 1)
    note("random walk, 100 walkers, 10,000 steps", *exact)
    low, high = torch.full((2,), -5.0), torch.full((2,), 5.0)
    tabulated = timed(lambda: geolib.random_walk(geolib.tabulate(g.metric, low, high), walkers, **walk), 3)
    note("the same on a table of the metric, which is made first", *tabulated)

    missing = []
    for name, (solver, how) in peers.PEERS.items():
        if not peers.installed(name):
            missing.append(f"{name}: not installed")
            continue
        F = unit()
        answer = solver(g, start, end, t)
        if isinstance(answer, str):
            missing.append(f"{name}: {answer}")
            continue
        curves, took = answer
        if len(curves) < len(start):
            missing.append(f"{name} ({how}): {took:.3g} s for one pair")
            continue
        rows.append(Row(f"{name} ({how})", took, took / F, curves, "not reported"))

    def improvement(curves: Tensor) -> float:
        line = torch.lerp(start.double()[:, None], end.double()[:, None], t.double()[:, None])
        straight = curve_length(double.metric, line)
        return 100 * float((1 - curve_length(double.metric, curves.double()) / straight).mean())

    finest = geolib.geodesic(double.metric, start.double(), end.double(), rtol=1e-6, n_segments=320, max_steps=500)
    reference = improvement(finest.curve(t.double()))
    numbers["reference, mean improvement"] = reference
    table, found = [], []
    for row in rows:
        found.append(improvement(row.points))
        table.append(
            f"| {row.name} | {row.seconds:.3g} | {row.in_F:.3g} | {1000 * row.seconds / len(start):.3g} | "
            f"{row.seconds / rows[0].seconds:.3g} | {found[-1]:.4f} % | {row.converged} |"
        )
        print(table[-1], flush=True)
        numbers |= {
            f"{row.name}, seconds": row.seconds,
            f"{row.name}, in F": row.in_F,
            f"{row.name}, times newton": row.seconds / rows[0].seconds,
            f"{row.name}, mean improvement": found[-1],
        }
    more, of_targets = targets.section()
    of_random, of_decoders = decoders.section()
    numbers |= of_targets | of_decoders
    source = f"{data.name}, {data.source}" + (f" ({data.notice})" if data.notice else "")
    text = [
        "# Speed",
        "",
        f"{datetime.date.today()}, {os.cpu_count()} cores ({platform.machine()}), torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads. Data: {source}. Medians; F is the time of evaluating the immersion at "
        "10,000 points, measured beside each task.",
        "",
        "| task | seconds | in F |",
        "|---|---|---|",
        *parts,
        "",
        "## 200 pairs of Algorithm 1",
        "",
        f"Lengths of all curves remeasured on {CHORDS} chords in float64. The mean relative improvement over straight "
        f"lines is {reference:.4f} % with ten times the segments, a hundredth of the tolerance, and float64.",
        "",
        "| solver | seconds | in F | ms per pair | times newton | mean improvement | converged |",
        "|---|---|---|---|---|---|---|",
        *table,
        "",
        *(f"- {line}" for line in missing),
        *([""] if missing else []),
        "![seconds per pair against what is missing from the mean improvement](results.png)",
        "",
        *more,
        *of_random,
        *targets.judged(numbers),
    ]
    store.write_text(RESULTS, "\n".join(text))
    about = {"date": str(datetime.date.today()), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    store.write_text(NUMBERS, json.dumps({"about": about, "numbers": numbers}, indent=1) + "\n")
    draw(rows, [reference - x for x in found], len(start))
    print(f"written to {RESULTS} and {PICTURE.name}")
    gallery.main()


def draw(rows: list[Row], errors: list[float], n_pairs: int) -> None:
    """Work against precision."""
    style.set_style()
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    for k, (row, error) in enumerate(zip(rows, errors, strict=True)):
        x, y = 1000 * row.seconds / n_pairs, abs(error)
        axes.scatter(x, y, label=row.name, s=50, marker="oD^"[k // 10])  # colours repeat after ten
    axes.set(xscale="log", yscale="log", xlabel="milliseconds per pair")
    axes.set(ylabel="error of the mean improvement,\npercentage points", title=f"{n_pairs} pairs of Algorithm 1")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    beside = PICTURE.with_suffix(".new.png")
    figure.savefig(beside, dpi=130)
    plt.close(figure)
    beside.replace(PICTURE)


if __name__ == "__main__":
    main()
