"""How long things take, on a machine that does other things too."""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch

from geolib.companion.cache import progress

T = TypeVar("T")


class Timed(NamedTuple):
    """What a task returned, and how long it took."""

    result: object
    seconds: float
    """wall-clock time, the median of the repeats"""


def measured(tasks: dict[str, Callable[[], T]], *, repeats: int = 3) -> dict[str, Timed]:
    """Run every task ``repeats`` times, in turn, so that a slow minute of the machine falls on all of them.

    Args:
        tasks: callables by name.
        repeats: from three on, the median leaves out the first run, where that pays for what is made once.

    Returns:
        by the same names, what the last run returned and the median time.

    Raises:
        ValueError: for fewer than one repeat.
    """
    if repeats < 1:
        raise ValueError(f"repeats: got {repeats}, expected at least 1")
    results: dict[str, T] = {}
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for repeat in range(repeats):
        for name, task in tasks.items():
            progress.say(f"measuring {name}, {repeat + 1} of {repeats} times")
            _wait_for_devices()
            begun = time.perf_counter()
            results[name] = task()
            _wait_for_devices()
            seconds[name].append(time.perf_counter() - begun)
    return {name: Timed(results[name], statistics.median(seconds[name])) for name in tasks}


def _wait_for_devices() -> None:
    # a GPU is given its work and left to it; what it has not done yet is not measured
    if torch.cuda.is_available():
        torch.cuda.synchronize()
