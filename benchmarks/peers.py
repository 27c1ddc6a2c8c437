"""What others' solvers find between the same pairs; each says so where it is not installed or does not come to an end.

pip install -c requirements.lock "latent-geolib[bench]"
"""

import importlib
import importlib.util
import multiprocessing
import os
import queue
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from geolib.companion.models.generators import Generator

PATIENCE = 120  # seconds for one pair, or for a batch that is tried after one pair

# the points of curves at t (T,), and the seconds that finding them took
Found = tuple[Tensor, float]


def stochman(g: Generator, start: Tensor, end: Tensor, t: Tensor) -> Found:
    """stochman's energy-minimising cubic spline, all pairs in one batch, with its defaults but for 8 nodes."""
    curves = importlib.import_module("stochman.curves")
    manifold = importlib.import_module("stochman.manifold")

    class Decoder(manifold.EmbeddedManifold):
        def embed(self, points, jacobian=False):
            return g.metric.immersion(points)

    started = time.perf_counter()
    curve, _ = Decoder().connecting_geodesic(start, end, curves.CubicSpline(start, end, num_nodes=8))
    seconds = time.perf_counter() - started
    return curve(t).detach(), seconds


def geomstats(g: Generator, start: Tensor, end: Tensor, t: Tensor) -> Found | str:
    """geomstats' path straightening for the first pair."""
    answer = _apart(_path_straightening, g, start[0], end[0])
    if isinstance(answer, str):
        return f"{answer}, one pair"
    points, seconds = answer
    return _along(points[None], t, start), seconds


def finslerax(g: Generator, start: Tensor, end: Tensor, t: Tensor) -> Found | str:
    """finslerax' block-tridiagonal Newton method with 32 segments: all pairs in one batch, or else the first one."""
    answers = [_apart(_block_newton, g, start[:n], end[:n]) for n in (1, len(start))]
    answer = answers[0] if isinstance(answers[1], str) else answers[1]
    if isinstance(answer, str):
        return f"{answer}, one pair"
    points, seconds = answer
    return _along(points, t, start), seconds


PEERS: dict[str, tuple[Callable[[Generator, Tensor, Tensor, Tensor], Found | str], str]] = {
    "stochman": (stochman, "cubic spline, 8 nodes, Adam"),
    "geomstats": (geomstats, "path straightening, 17 nodes"),
    "finslerax": (finslerax, "block-tridiagonal Newton, 32 segments"),
}


def _along(points: Tensor, t: Tensor, like: Tensor) -> Tensor:
    """Polylines ``(n, k, d)`` at equal steps, at ``t (T,)``."""
    points = points.to(like)
    even = torch.linspace(0, points.shape[1] - 1, len(t), dtype=t.dtype)
    left = even.floor().long().clamp(max=points.shape[1] - 2)
    return torch.lerp(points[:, left], points[:, left + 1], (even - left)[:, None])


def _apart(solve: Callable[..., Found], *arguments: object) -> Found | str:
    """What ``solve`` returns, from a process of its own, which may not end; or why there is nothing."""
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    process = context.Process(target=_answered, args=(answers, solve, *arguments))
    process.start()
    try:
        answer = answers.get(timeout=PATIENCE)
    except queue.Empty:
        return f"no result within {PATIENCE} s"
    finally:
        process.kill()
        process.join()
    if isinstance(answer, str):
        return answer
    points, seconds = answer
    return torch.from_numpy(points), seconds


def _answered(answers: multiprocessing.Queue, solve: Callable[..., Found], *arguments: object) -> None:
    try:
        torch.set_num_threads(1)  # threads do not survive a fork
        points, seconds = solve(*arguments)
        answers.put((points.detach().numpy(), seconds))
    except Exception as error:  # whatever it is, it is told in the table
        reason = str(error).partition(" (")[0]  # without the path that an import error ends with
        answers.put(f"does not run beside the locked versions ({type(error).__name__}: {reason})")


def _path_straightening(g: Generator, start: Tensor, end: Tensor) -> Found:
    os.environ["GEOMSTATS_BACKEND"] = "pytorch"
    base = importlib.import_module("geomstats.geometry.base")
    euclidean = importlib.import_module("geomstats.geometry.euclidean")
    solver = importlib.import_module("geomstats.numerics.geodesic")
    D = g.metric.immersion(start[None]).shape[-1]

    class Latent(base.ImmersedSet):
        def _define_embedding_space(self):
            return euclidean.Euclidean(D)

        def immersion(self, point):
            return g.metric.immersion(point)

        def projection(self, point):
            return point

    started = time.perf_counter()
    points = solver.PathStraightening(Latent(dim=len(start)), n_nodes=17).discrete_geodesic_bvp(end, start)
    return points, time.perf_counter() - started


def _block_newton(g: Generator, start: Tensor, end: Tensor) -> Found:
    jax = importlib.import_module("jax")
    np = jax.numpy
    manifolds = importlib.import_module("finslerax.geometry.manifolds")
    zoo = importlib.import_module("finslerax.geometry.zoo")
    solvers = importlib.import_module("finslerax.solvers")

    functions = {nn.Tanh: np.tanh, nn.Sigmoid: jax.nn.sigmoid}
    parameters = [
        (np.asarray(layer.weight.numpy()), np.asarray(layer.bias.numpy())) if isinstance(layer, nn.Linear) else layer
        for layer in g.vae.mean
    ]
    centers, bandwidths, weights = (np.asarray(x.numpy()) for x in (g.rbf.centers, g.rbf.bandwidths, g.rbf.weights))
    zeta = float(g.rbf.zeta)

    def immersion(z):
        x = z
        for layer in parameters:
            x = layer[0] @ x + layer[1] if isinstance(layer, tuple) else functions[type(layer)](x)
        precision = np.exp(-bandwidths * ((z - centers) ** 2).sum(-1)) @ weights + zeta
        return np.concatenate([x, precision**-0.5])

    def tensor(z):
        J = jax.jacfwd(immersion)(z)
        return J.T @ J

    metric = zoo.Riemannian(manifolds.EuclideanSpace(start.shape[-1]), tensor)
    solver = solvers.GaussNewtonGeodesic()

    @jax.jit
    @jax.vmap
    def solve(a, b):
        return solver.solve(metric, a, b, n_steps=32, train_mode=False).xs

    a, b = (np.asarray(x.numpy()) for x in (start, end))
    same = g.metric(start[:1])[0].numpy()
    if not np.allclose(tensor(a[0]), same, rtol=1e-2):
        raise ValueError("the decoder in jax is not the one in torch")
    solve(a, b).block_until_ready()  # compiled once, which is no pair's cost
    started = time.perf_counter()
    points = solve(a, b).block_until_ready()
    return torch.tensor(points.tolist()), time.perf_counter() - started


def installed(name: str) -> bool:
    """Whether a peer is there to be measured."""
    return importlib.util.find_spec(name) is not None
