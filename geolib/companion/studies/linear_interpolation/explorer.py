"""Notebook 16: the geometry that the explorer shows, from settings of the variance to tables, curves and numbers."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from geolib import (
    PullbackMetric,
    RBFPrecision,
    checks,
    curve_length,
    fit_rbf_precision,
    geodesic,
    jacobian,
    relative_improvement,
)
from geolib.companion.models import generators
from geolib.companion.models.generators import Generator
from geolib.companion.models.grid import LatentGrid
from geolib.companion.studies import summaries
from geolib.companion.studies.linear_interpolation.worst_case import inwards
from geolib.evaluation import RelativeImprovement, stepped
from geolib.paths.result import Geodesic
from geolib.plane.tabulated import TabulatedMetric
from geolib.variance import Ensemble, fit_to, place_centers

VARIANCES = ("rbf", "network", "ensemble", "none")
"""the RBF variance, the decoder's own variance network, the disagreement of several decoders, or the mean alone"""
RESOLUTION = 100
"""cells of a table along each axis"""
GROUPS = 256
"""of neighbouring training images, whose means the weights of a refit see: a tenth of the work and less. On the digits,
log sum sigma then differs by 0.06 from a fit to all images, and by 0.15 from one with other centres"""
GROUPS_PER_CENTER = 4
_AT_ONCE = 256  # nodes, so that memory is reused while it is in the cache
_FINE = 257  # points along a curve whose length is compared
N_SAMPLES = 50
"""pairs of the small Algorithm 1"""
PART = 10
"""of them that are found at a time while a hand may move"""
STEPS = (0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
"""step sizes that notebook 04's slider offers, in latent units"""
# A pair within a steep wall would take the solver as long as all others together.
_SOLVER = {"rtol": 1e-3, "max_steps": 20}


@dataclass(frozen=True)
class Setting:
    """What the sliders set. Without the RBF variance, its three numbers say nothing."""

    variance: str = "rbf"
    """one of ``VARIANCES``"""
    curvature: float = 1.25
    n_centers: int = 64
    zeta: float = 1e-3

    def __post_init__(self):
        if self.variance not in VARIANCES:
            raise ValueError(f"variance: got {self.variance!r}, expected one of {', '.join(map(repr, VARIANCES))}")


@dataclass(frozen=True)
class Landscape:
    """One setting's metric, and its table."""

    setting: Setting
    metric: PullbackMetric
    table: TabulatedMetric
    log_sigma: Tensor | None
    """``(n + 1, n + 1)`` at the table's nodes, x first; None where there is no variance"""

    def clipped(self, z: Tensor) -> Tensor:
        """The table's tensors ``(..., 2, 2)``, and beyond its box those of the nearest point in it, as in the page."""
        return self.table(torch.clamp(z, self.table.lower, self.table.upper))

    def improvement(self, *, seed: int = 0) -> RelativeImprovement:
        """A small Algorithm 1 with the metric itself."""
        return small_algorithm_1(self.metric, 1.0, seed)

    def improvement_part(self, k: int, *, seed: int = 0) -> RelativeImprovement:
        """The ``k``-th ``PART`` of the pairs of ``improvement``, so that something else can be done in between."""
        draws = torch.randn(N_SAMPLES, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        start = draws[k * PART : (k + 1) * PART].to(self.table.lower)
        end = stepped(self.metric, start, 1.0)
        return RelativeImprovement(start, end, geodesic(self.metric, start, end, **_SOLVER))

    def curve(self, start: Tensor, end: Tensor) -> Geodesic:
        """The geodesics between points ``(..., 2)``, with the metric itself."""
        return geodesic(self.metric, start, end)


class Explored:
    """A generator whose variance is refitted again and again; what does not change is computed once.

    Args:
        g: a generator with two latent dimensions.
        first: the setting that ``g`` was fitted with.
        members: more decoders for the same latents; None where there are none.
        seed: of k-means.

    Raises:
        ValueError: for another number of latent dimensions.
    """

    def __init__(self, g: Generator, first: Setting, *, members: Ensemble | None = None, seed: int = 0):
        if g.train_latents.shape[-1] != 2:
            raise ValueError(f"g: got {g.train_latents.shape[-1]} latent dimensions, expected 2")
        self.g, self.first, self.members, self.seed = g, first, members, seed
        grid = LatentGrid.around(g.test_latents, resolution=RESOLUTION + 1)
        self.lower, self.upper = (torch.stack([grid.x[k], grid.y[k]]) for k in (0, -1))
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        self._nodes = torch.cartesian_prod(grid.x, grid.y)

    @classmethod
    def refitted(cls, g: Generator, first: Setting, *, seed: int = 0) -> "Explored":
        """A generator with the convex fit to all its images in place of its own RBF variance, whatever fitted that."""
        target = generators.variance_target(g.vae, g.data.train_images.to(g.train_latents.device), g.train_latents)
        numbers = {"n_centers": first.n_centers, "curvature": first.curvature, "zeta": first.zeta}
        rbf = fit_rbf_precision(g.train_latents, target, **numbers, seed=seed)
        return cls(dataclasses.replace(g, rbf=rbf), first, seed=seed)

    @property
    def variances(self) -> tuple[str, ...]:
        """Those of ``VARIANCES`` that there are."""
        return tuple(name for name in VARIANCES if name != "ensemble" or self.members is not None)

    @cached_property
    def _target(self) -> Tensor:
        z = self.g.train_latents
        return generators.variance_target(self.g.vae, self.g.data.train_images.to(z.device), z)

    def _groups(self, times: int) -> tuple[Tensor, Tensor]:
        """Mean latents ``(m, 2)`` of groups of neighbours, and the means of what is fitted there ``(m, D)``."""
        if times not in self._kept:
            groups = halved(self.g.train_latents, times)
            self._kept[times] = tuple(
                torch.stack([x[group].mean(0) for group in groups]) for x in (self.g.train_latents, self._target)
            )
        return self._kept[times]

    @cached_property
    def _mean_tensors(self) -> Tensor:
        return self._pushed(self.g.vae.mean)[0]

    def landscape(self, setting: Setting) -> Landscape:
        """The geometry of a setting.

        Raises:
            ValueError: for a setting that cannot be fitted, and for an ensemble where there is none.
        """
        mean, members = self.g.vae.mean, self.members
        if setting.variance not in self.variances:
            raise ValueError(f"variance: got {setting.variance!r}, expected one of {', '.join(self.variances)}")
        if setting.variance == "none":
            return Landscape(setting, PullbackMetric(mean), self._table(self._mean_tensors), None)
        if setting.variance == "ensemble":
            # the deviation is part of what the members give, and no summand of its own
            log_sigma = torch.cat([members.std(part).sum(-1) for part in self._nodes.split(_AT_ONCE)]).log()
            table = self._table(self._pushed(members)[0])
            return Landscape(setting, PullbackMetric(members), table, log_sigma.reshape(RESOLUTION + 1, -1))
        std = self.g.vae.std if setting.variance == "network" else self._rbf(setting)
        tensors, sums = self._pushed(std)
        log_sigma = sums.log().reshape(RESOLUTION + 1, -1)
        return Landscape(setting, PullbackMetric(mean, std), self._table(self._mean_tensors + tensors), log_sigma)

    def _rbf(self, setting: Setting) -> RBFPrecision:
        if setting == self.first:
            return self.g.rbf
        z = self.g.train_latents
        if checks.integer("n_centers", setting.n_centers, at_least=1) > len(z):
            raise ValueError(f"n_centers: got {setting.n_centers}, expected at most the number of latents, {len(z)}")
        for name in ("curvature", "zeta"):
            checks.positive(name, getattr(setting, name))
        centers = place_centers(z, setting.n_centers, setting.curvature, self.seed)
        n_groups = max(GROUPS, GROUPS_PER_CENTER * setting.n_centers)
        return fit_to(*self._groups(math.ceil(math.log2(n_groups))), *centers, setting.zeta)

    def _pushed(self, function: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        return pushed(function, self._nodes)

    def _table(self, tensors: Tensor) -> TabulatedMetric:
        side = RESOLUTION + 1
        return TabulatedMetric(tensors.reshape(side, side, 2, 2), self.lower, self.upper)


@torch.no_grad()
def pushed(function: Callable[[Tensor], Tensor], nodes: Tensor) -> tuple[Tensor, Tensor]:
    """J^T J ``(m, 2, 2)`` of a map at all nodes ``(m, 2)``, and the sums of its values ``(m,)``.

    The metric of mean and deviation is the sum of both tensors.
    """
    basis = torch.eye(2, dtype=nodes.dtype, device=nodes.device).unsqueeze(1)
    tensors, sums = [], []
    for part in nodes.split(_AT_ONCE):
        values, J = jacobian.push_forward(function, part, basis.expand(-1, len(part), -1))
        J = J.transpose(0, 1)
        tensors.append(J @ J.mT)
        sums.append(values.sum(-1))
    return torch.cat(tensors), torch.cat(sums)


@dataclass(frozen=True)
class StepSizes:
    """Algorithm 1 at any step size, from the same points: what the slider of notebook 04 moves."""

    g: Generator
    sizes: tuple[float, ...]
    """in latent units, ascending"""
    first: float
    """the one to begin with"""
    seed: int
    samples: RelativeImprovement
    """at that one"""

    def improvement(self, size: float) -> RelativeImprovement:
        """Algorithm 1 with the metric itself."""
        return small_algorithm_1(self.g.metric, size, self.seed)

    @cached_property
    def table(self) -> TabulatedMetric:
        """The metric on a square that holds the data, the points, and what the longest step reaches."""
        start = self.samples.start
        reached = start + max(self.sizes) * inwards(self.g, start, seed=self.seed)["v_max"]
        covered = torch.cat([self.g.test_latents, start, reached])
        grid = LatentGrid.around(covered, resolution=RESOLUTION + 1, margin=0.05)
        lower, upper = (torch.stack([grid.x[k], grid.y[k]]) for k in (0, -1))
        nodes = torch.cartesian_prod(grid.x, grid.y)
        tensors = pushed(self.g.vae.mean, nodes)[0] + pushed(self.g.rbf, nodes)[0]
        return TabulatedMetric(tensors.reshape(RESOLUTION + 1, RESOLUTION + 1, 2, 2), lower, upper)


def step_sizes(g: Generator, *, first: float, seed: int) -> StepSizes:
    """Algorithm 1 on few pairs, to begin with at one step size, in latent units."""
    return StepSizes(g, tuple(sorted({*STEPS, first})), first, seed, small_algorithm_1(g.metric, first, seed))


def small_algorithm_1(metric: PullbackMetric, step_size: float, seed: int) -> RelativeImprovement:
    """Algorithm 1 on few pairs, to a tolerance of 1e-3 in length and within 20 steps per pair."""
    return relative_improvement(metric, n_samples=N_SAMPLES, step_size=step_size, seed=seed, **_SOLVER)


def halved(points: Tensor, times: int) -> list[Tensor]:
    """Indices of neighbours among ``points (n, 2)``, in groups of nearly the same size.

    The points are halved along the longer side of what they cover, and their halves again, ``times`` times or until
    groups have one or two points.
    """
    groups = [torch.arange(len(points), device=points.device)]
    for _ in range(min(times, int(math.log2(len(points))))):
        halves = []
        for group in groups:
            own = points[group]
            order = own[:, (own.amax(0) - own.amin(0)).argmax()].argsort()
            halves += group[order].tensor_split(2)
        groups = halves
    return groups


@dataclass(frozen=True)
class Found:
    """What the explorer shows first, and how far its table's curves are from those of the metric."""

    explored: Explored
    landscape: Landscape
    first: Tensor
    """``(n,)``, indices of test images"""
    second: Tensor
    """``(n,)``"""
    exact: Geodesic
    """the curves between these images' latents, ``(n,)``"""
    samples: RelativeImprovement

    @property
    def shown(self) -> int:
        """The pair that the explorer opens with: the one whose line can be shortened most."""
        return int(self.exact.improvement.argmax())

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """Its latents ``(2,)``."""
        latents = self.explored.g.test_latents
        return latents[self.first[self.shown]], latents[self.second[self.shown]]

    @cached_property
    def differences(self) -> Tensor:
        """How much longer these curves are on the table than under the metric, relative ``(n,)``."""
        points = self.exact.curve(
            torch.linspace(0, 1, _FINE, dtype=self.exact.length.dtype, device=self.exact.length.device)
        )
        on_table, exact = (curve_length(metric, points) for metric in (self.landscape.clipped, self.landscape.metric))
        return (on_table / exact - 1).double()

    @property
    def how_near(self) -> str:
        """How near the table's curves are to those of the metric, in words."""
        size = 100 * self.differences.abs()
        return (
            f"Along the curves between {len(size)} pairs of test images, lengths on the table differ from those of the "
            f"metric by "
            f"{summaries.median(size):.2f} % in the median and {float(size.max()):.1f} % at most"
        )

    @property
    def what_is_gained(self) -> str:
        """How much shorter the curve is, for the pair shown and on average, in words."""
        half = 100 * self.samples.half_width
        margin = "" if math.isnan(half) else f" ± {half:.2f}"
        return (
            f"The curve in the figure is {100 * float(self.exact.improvement[self.shown]):.1f} % shorter than the "
            f"straight line. Algorithm 1 gives a mean of {100 * self.samples.mean:.2f}{margin} % over {N_SAMPLES} pairs"
        )


def measure(g: Generator, first: Setting, *, n_pairs: int, seed: int, members: Ensemble | None = None) -> Found:
    """What the explorer opens with, and how near its tables are.

    Args:
        g: a generator with two latent dimensions.
        first: the setting that ``g`` was fitted with.
        n_pairs: pairs of test images, those of notebook 05 where the seed is the same.
        seed: of the pairs and of Algorithm 1.
        members: more decoders for the same latents; None where there are none.
    """
    explored = Explored(g, first, members=members, seed=seed)
    landscape = explored.landscape(first)
    pairs = generators.test_pairs(g.data, n_pairs, seed=seed)
    exact = landscape.curve(*(g.test_latents[chosen] for chosen in pairs))
    return Found(explored, landscape, *pairs, exact, landscape.improvement(seed=seed))
