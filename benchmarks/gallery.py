"""How fast decoders of many kinds are beside the time of evaluating them: the table of the README, on one thread.

The decoders are those of the tests' gallery, wider, in float32. F is here the time of evaluating such a decoder at
10,000 points, measured between the other measurements. Times are CPU times, so that other work beside matters little.
`python benchmarks/gallery.py` measures and writes these numbers alone; `make bench` does so too.
"""

import datetime
import importlib.util
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from geolib import PullbackMetric, geodesic
from geolib.companion.cache import store

NUMBERS = Path(__file__).with_suffix(".json")
WIDTH, N_POINTS, N_PAIRS = 64, 10_000, 50
REPEATS = 3
LONG = 3.0  # seconds, of which once is enough
ROWS = (
    "tanh",
    "ReLU",
    "residual",
    "layer norm",
    "convolution, batch norm",
    "convolution, group norm",
    "Fourier features",
    "radial basis functions",
    "normalising flow",
    "GRU",
    "LSTM",
    "transformer encoder under MATH",
    "implicit layer",
    "scripted",
    "float16 inside",
)


def gallery() -> ModuleType:
    """``tests/decoders.py``, by its place: a file beside this one has the same name."""
    tests = store.PROJECT / "tests"
    sys.path.append(str(tests))  # for what it imports
    try:
        spec = importlib.util.spec_from_file_location("gallery_of_decoders", tests / "decoders.py")
        loaded = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = loaded  # dataclasses look their module up
        spec.loader.exec_module(loaded)
    finally:
        sys.path.remove(str(tests))
    return loaded


def seconds(function: Callable[[], object]) -> float:
    started = time.process_time()
    function()
    return time.process_time() - started


def in_F(task: Callable[[], object], evaluate: Callable[[], object]) -> float:
    """The median ratio of a task's time to that of an evaluation just before it."""
    ratios: list[float] = []
    took = 0.0
    while len(ratios) < REPEATS and took < LONG:
        F = min(seconds(evaluate) for _ in range(REPEATS))
        took = seconds(task)
        ratios.append(took / F)
    return statistics.median(ratios)


def row(name: str, decoder: Callable[[torch.Tensor], torch.Tensor], rtol: float) -> dict[str, Any]:
    """The numbers of one decoder: its mode, its metric and geodesics in F, and how many of these converged."""
    generator = torch.Generator().manual_seed(0)
    points, (start, end) = (
        torch.randn(N_POINTS, 2, generator=generator),
        torch.randn(2, N_PAIRS, 2, generator=generator),
    )
    metric = PullbackMetric(decoder)
    found = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        metric(points)  # warm-up
        of_metric = in_F(lambda: metric(points), lambda: metric.immersion(points))
        of_geodesics = in_F(
            lambda: found.append(geodesic(metric, start, end, rtol=rtol)), lambda: metric.immersion(points)
        )
    reverse = any("forward mode has no rule" in str(warning.message) for warning in said)
    return {
        f"{name}, mode": "reverse" if reverse else "forward",
        f"{name}, metric, in F": of_metric,
        f"{name}, geodesics, in F": of_geodesics,
        f"{name}, converged": int(found[-1].converged.sum()),
    }


def main() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    numbers: dict[str, Any] = {}
    decoders = gallery().GALLERY
    try:
        for name in ROWS:
            # what computes in half precision is too rough for the default
            found = row(name, decoders[name].build(WIDTH, torch.float32), 1e-2 if decoders[name].half else 1e-4)
            print(found, flush=True)
            numbers |= found
    finally:
        torch.set_num_threads(before)
    about = {"date": str(datetime.date.today()), "cores": os.cpu_count(), "threads": 1}
    store.write_text(NUMBERS, json.dumps({"about": about, "numbers": numbers}, indent=1) + "\n")
    print(f"written to {NUMBERS.name}; make texts puts it into the README")


if __name__ == "__main__":
    main()
