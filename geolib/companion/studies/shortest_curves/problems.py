"""The six problems of notebook 06: exact, small, real in two dimensions, in sixteen, and two that are overfitted."""

import copy
import math

import torch
from torch import Tensor, nn

from geolib import PullbackMetric
from geolib.companion.models import generators
from geolib.companion.models.convolutional import TrainedDecoder
from geolib.companion.models.generators import Generator
from geolib.companion.studies.shortest_curves.solvers import Counted, Problem


class Sphere(nn.Module):
    """Colatitude and longitude ``(n, 2)`` to the unit sphere ``(n, 3)``."""

    def forward(self, z: Tensor) -> Tensor:
        theta, phi = z.unbind(-1)
        return torch.stack([theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos()], dim=-1)


def _problem(name: str, metric: PullbackMetric, start: Tensor, end: Tensor, latents: Tensor) -> Problem:
    counted = PullbackMetric(Counted(metric.mean), metric.std)
    mean, std = (m if m is None else copy.deepcopy(m).double() for m in (metric.mean, metric.std))
    return Problem(name, counted, PullbackMetric(mean, std), start, end, latents)


def sphere(n_pairs: int, *, seed: int) -> Problem:
    """Pairs with longitudes up to 2.5 apart, away from the poles of the chart; float64."""
    generator = torch.Generator().manual_seed(seed)

    def draw(n: int) -> Tensor:
        theta = math.pi / 2 + 0.9 * (2 * torch.rand(n, generator=generator, dtype=torch.float64) - 1)
        return torch.stack([theta, 2.5 * torch.rand(n, generator=generator, dtype=torch.float64)], dim=-1)

    return _problem("sphere", PullbackMetric(Sphere()), draw(n_pairs), draw(n_pairs), draw(1000))


def two_moons(g: Generator, n_pairs: int, *, seed: int) -> Problem:
    """Pairs of encoded test points of the two moons, in float64: see notebook 07."""
    order = torch.randperm(len(g.test_latents), generator=torch.Generator().manual_seed(seed))
    start, end = g.test_latents[order[:n_pairs]], g.test_latents[order[n_pairs : 2 * n_pairs]]
    double = generators.in_double(g)
    return _problem("two moons", double.metric, start.double(), end.double(), double.train_latents)


def digits(name: str, g: Generator, n_pairs: int, *, seed: int) -> Problem:
    """Random pairs of test images in a VAE of digits with RBF variance; float32."""
    first, second = generators.test_pairs(g.data, n_pairs, seed=seed)
    return _problem(name, g.metric, g.test_latents[first], g.test_latents[second], g.train_latents)


def convolutional(trained: TrainedDecoder, n_pairs: int, *, seed: int) -> Problem:
    """Pairs of test images under a convolutional decoder without a variance; float32. The graph has only the first 500
    latents, as an edge costs a thousand times what it costs in the plane."""
    first, second = generators.test_pairs(trained.data, n_pairs, seed=seed)
    latents = trained.test_latents
    metric = PullbackMetric(trained.decoder)
    return _problem("convolutions, 16-d", metric, latents[first], latents[second], trained.train_latents[:500])


def six(
    models: dict[str, Generator], decoder: TrainedDecoder, n_pairs: int, n_conv_pairs: int, *, seed: int
) -> list[Problem]:
    """All problems.

    Args:
        models: the generators of the recipes ``"moons"``, ``"digits"``, ``"few_digits"`` and ``"few_digits_small"``.
        decoder: of the recipe ``"convolutional"``.
        n_pairs: pairs per problem.
        n_conv_pairs: pairs for the convolutional decoder, whose evaluations take the longest.
        seed: of the pairs.
    """
    return [
        sphere(n_pairs, seed=seed),
        two_moons(models["moons"], n_pairs, seed=seed),
        digits("digits", models["digits"], n_pairs, seed=seed),
        convolutional(decoder, n_conv_pairs, seed=seed),
        digits("few digits", models["few_digits"], n_pairs, seed=seed),
        digits("few digits, VAE2", models["few_digits_small"], n_pairs, seed=seed),
    ]
