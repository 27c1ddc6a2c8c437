"""What others' solvers find between the same pairs; each says so where it is not installed or does not come to an end.

pip install -c requirements.lock "latent-geolib[bench]"
"""

import importlib.util
import multiprocessing
import os
import queue
import time
from collections.abc import Callable

import torch
from torch import Tensor

PATIENCE = 120  # seconds for one pair

# the points of curves at t (T,), and the seconds that finding them took
Found = tuple[Tensor, float]


def stochman(immersion: Callable[[Tensor], Tensor], start: Tensor, end: Tensor, t: Tensor) -> Found:
    """stochman's energy-minimising cubic spline, all pairs in one batch, with its defaults but for 8 nodes."""
    curves = importlib.import_module("stochman.curves")
    manifold = importlib.import_module("stochman.manifold")

    class Decoder(manifold.EmbeddedManifold):
        def embed(self, points, jacobian=False):
            return immersion(points)

    started = time.perf_counter()
    curve, _ = Decoder().connecting_geodesic(start, end, curves.CubicSpline(start, end, num_nodes=8))
    seconds = time.perf_counter() - started
    return curve(t).detach(), seconds


def geomstats(immersion: Callable[[Tensor], Tensor], start: Tensor, end: Tensor, t: Tensor) -> Found | str:
    """geomstats' path straightening for the first pair, in a process of its own, which may not end."""
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    process = context.Process(target=_path_straightening, args=(immersion, start[0], end[0], answers))
    process.start()
    try:
        answer = answers.get(timeout=PATIENCE)
    except queue.Empty:
        return f"no result for one pair within {PATIENCE} s"
    finally:
        process.kill()
        process.join()
    if isinstance(answer, str):
        return answer
    points, seconds = answer
    even = torch.linspace(0, len(points) - 1, len(t), dtype=t.dtype)
    left = even.floor().long().clamp(max=len(points) - 2)
    points = torch.from_numpy(points).to(start)
    return torch.lerp(points[left], points[left + 1], (even - left)[:, None])[None], seconds


def _path_straightening(immersion: Callable, start: Tensor, end: Tensor, answers: multiprocessing.Queue) -> None:
    try:
        os.environ["GEOMSTATS_BACKEND"] = "pytorch"
        torch.set_num_threads(1)
        base = importlib.import_module("geomstats.geometry.base")
        euclidean = importlib.import_module("geomstats.geometry.euclidean")
        solver = importlib.import_module("geomstats.numerics.geodesic")
        D = immersion(start[None]).shape[-1]

        class Latent(base.ImmersedSet):
            def _define_embedding_space(self):
                return euclidean.Euclidean(D)

            def immersion(self, point):
                return immersion(point)

            def projection(self, point):
                return point

        started = time.perf_counter()
        points = solver.PathStraightening(Latent(dim=len(start)), n_nodes=17).discrete_geodesic_bvp(end, start)
        answers.put((points.detach().numpy(), time.perf_counter() - started))
    except Exception as error:  # whatever it is, it is told in the table
        reason = str(error).partition(" (")[0]  # without the path that an import error ends with
        answers.put(f"does not run beside the locked versions ({type(error).__name__}: {reason})")


def installed(name: str) -> bool:
    """Whether a peer is there to be measured."""
    return importlib.util.find_spec(name) is not None
