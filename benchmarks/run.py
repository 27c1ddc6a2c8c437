"""How long the core takes on the digits VAE, in seconds and in decoder evaluations: `make bench`.

F is the time of evaluating the immersion (mean and sigma, float32) at 10,000 points in chunks that fit the cache,
measured between the other measurements, so that a ratio to F means the same on a fast, slow or busy machine.
"""

import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

import geolib
from geolib.companion import datasets, generators, models, store, training
from geolib.curves import curve_length

RESULTS = Path(__file__).with_name("results.md")
REPEATS = 5


def seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def main() -> None:
    data = datasets.load("mnist", classes=(2, 4, 5, 7))
    vae = training.trained_vae(data, models.MAIN, training.TrainingConfig()).vae
    g = generators.generator(data, vae)
    target = generators.variance_target(vae, data.train_images, g.train_latents)
    points = torch.randn(10_000, 2, generator=torch.Generator().manual_seed(0))
    found: dict[int, geolib.evaluation.RelativeImprovement] = {}

    def pairs(n: int) -> Callable[[], None]:
        def run() -> None:
            found[n] = geolib.relative_improvement(g.metric, n_samples=n)

        return run

    tasks: dict[str, tuple[Callable[[], object], int]] = {
        "metric tensor at 10,000 points": (lambda: g.metric(points), REPEATS),
        f"RBF fit, {len(g.train_latents):,} latents, K = 64": (
            lambda: geolib.fit_rbf_precision(g.train_latents, target),
            REPEATS,
        ),
        "spline: 200 pairs of Algorithm 1": (pairs(200), 3),
        "spline: 1,000 pairs of Algorithm 1": (pairs(1000), 1),
    }
    g.metric.immersion(points)  # warm-up
    rows = []
    for name, (task, repeats) in tasks.items():
        times, ratios = [], []
        for _ in range(repeats):
            unit = min(seconds(lambda: g.metric.immersion(points)) for _ in range(REPEATS))
            times.append(seconds(task))
            ratios.append(times[-1] / unit)
        rows.append(f"| {name} | {statistics.median(times):.3g} | {statistics.median(ratios):.3g} |")
        print(rows[-1], flush=True)

    mc = found[200]
    t = torch.linspace(0, 1, 513)
    line = torch.lerp(mc.start.unsqueeze(1), mc.end.unsqueeze(1), t[:, None])
    straight = curve_length(g.metric, line)
    improvement = 1 - curve_length(g.metric, mc.geodesic.curve(t)) / straight
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
        *rows,
        "",
        f"200 pairs, remeasured on 512 chords: mean improvement {100 * float(improvement.mean()):.3f} %, "
        f"{100 * float(mc.geodesic.converged.double().mean()):.1f} % converged.",
        "",
    ]
    store.write_text(RESULTS, "\n".join(text))
    print(f"written to {RESULTS}")


if __name__ == "__main__":
    main()
