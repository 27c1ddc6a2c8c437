"""Relative improvement of geodesics over straight lines (Algorithm 1), and the comparison of two models."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

from geolib import checks
from geolib.geodesics import geodesic
from geolib.metric import extremal_directions
from geolib.paths.lost import finite_points, pairs_off_the_domain
from geolib.paths.result import Geodesic, joined
from geolib.riemannian import Metric, as_metric


@dataclass(frozen=True)
class RelativeImprovement:
    """The samples of Algorithm 1: pairs of points and the geodesics between them."""

    start: Tensor
    """``(n, d)``, drawn from the standard normal prior"""
    end: Tensor
    """``(n, d)``, one step along the maximal eigenvector"""
    geodesic: Geodesic
    """the curves, batch shape ``(n,)``"""

    @property
    def improvement(self) -> Tensor:
        """Relative improvement per pair ``(n,)``: 0.1 is a curve 10 % shorter than the straight line; NaN where the
        metric is not finite on the line."""
        return self.geodesic.improvement

    @property
    def mean(self) -> float:
        """The expected worst-case relative improvement: the mean over ``n_pairs``, of which ``n_converged`` have a
        geodesic to the tolerance; ``bounds`` says what the others may change. NaN for no pairs."""
        return float(self._known.mean())

    @property
    def n_pairs(self) -> int:
        """How many pairs the mean rests on: those whose line and curve have a length."""
        return len(self._known)

    @property
    def n_converged(self) -> int:
        """How many pairs have a curve that converged."""
        return int(self.geodesic.converged.sum())

    @property
    def bounds(self) -> tuple[float, float]:
        """What the mean over all pairs lies between, whatever the curves are that did not converge.

        The shortest curve of such a pair is no longer than the one found, and no shorter than ``lower_bound`` (0
        without an immersion). Where the metric is not finite on the line, anything from 0 to 1 may be. Curves that
        converged count as they are, as local minima.
        """
        found = self.improvement.double()
        line, bound = self.geodesic.line_length.double(), self.geodesic.lower_bound.double()
        most = torch.where(line > 0, 1 - bound / line, 0.0).maximum(found)
        high = torch.where(self.geodesic.converged, found, most)
        return float(found.nan_to_num(0.0).mean()), float(high.nan_to_num(1.0).mean())

    def report(self) -> str:
        """One line on the mean, and one for each status that occurs."""
        low, high = self.bounds
        n = len(self.improvement)
        return (
            f"mean {self.mean:.4g} over {self.n_pairs} of {n} pairs, of which {self.n_converged} converged; {low:.4g} "
            f"to {high:.4g} over all, whatever the others have\n{self.geodesic.report()}"
        )

    @property
    def std(self) -> float:
        """The sample standard deviation over ``n_pairs``; NaN for one."""
        return float(self._known.std()) if self.n_pairs > 1 else math.nan

    @property
    def half_width(self) -> float:
        """Half the width of ``interval``; NaN for one pair."""
        n = self.n_pairs
        return float(stats.t.ppf(0.975, n - 1)) * self.std / math.sqrt(n) if n > 1 else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the mean (Student's t), over draws of the pairs but not over trained models."""
        return self.mean - self.half_width, self.mean + self.half_width

    @property
    def _known(self) -> Tensor:
        improvement = self.improvement.double()
        return improvement[~improvement.isnan()]


def relative_improvement(
    metric: Metric,
    *,
    n_samples: int = 1000,
    until: float | None = None,
    max_samples: int = 100_000,
    step_size: float = 1.0,
    seed: int = 0,
    latent_dim: int | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    **options: object,
) -> RelativeImprovement:
    r"""Expected worst-case relative improvement over straight lines (Algorithm 1).

    Starts :math:`x_A` are drawn from the standard normal prior, ends are :math:`x_B = x_A + \alpha v_{max}` along the
    eigenvector of the metric's largest eigenvalue at :math:`x_A`. The sign of the eigenvector is chosen so that it
    points towards the origin, which keeps the ends where the generator was trained (the paper's footnote 1).

    Args:
        metric: a ``PullbackMetric``, or any callable ``z (..., d) -> M (..., d, d)``.
        n_samples: number of pairs; with ``until``, of those drawn before the interval is first looked at.
        until: draw more pairs until half the width of the mean's interval is at most this, as a fraction: 0.001 is a
            tenth of a percentage point. How many that takes grows with the square of ``std / until``.
        max_samples: with ``until``, the most pairs that are drawn. Where the interval is still wider then, a warning
            says so.
        step_size: alpha, in latent units.
        seed: seed of the random numbers, which are drawn on the CPU in float64, the same for every dtype and device.
        latent_dim: d; by default that of the ``PullbackMetric``.
        dtype, device: of the computation; by default those of the metric's parameters, else torch's defaults.
        **options: passed to ``geodesic``.

    Returns:
        a ``RelativeImprovement`` with the pairs, their geodesics and the statistics of the improvement. Pairs that are
        drawn where the metric is not finite, such as outside a table, are ``NOT_FINITE``; the end is the start where
        there is no eigenvector.

    Raises:
        TypeError, ValueError: as ``geodesic``; where the metric is finite at none of the pairs; where the latent
            dimension is not known; for ``until`` with one sample, which has no interval.

    Note:
        With ``until`` the pairs begin with those of the same ``n_samples`` and ``seed`` without it. An interval at
        which sampling stopped holds the mean slightly less often than one of a number of pairs chosen beforehand.

    Source:
        Michelis & Becker 2021, Sec. 2.3 and Algorithm 1.
    """
    metric = as_metric(metric)
    n_samples = checks.integer("n_samples", n_samples, at_least=1)
    max_samples = checks.integer("max_samples", max_samples, at_least=1)
    checks.positive("step_size", step_size)
    if until is not None:
        checks.positive("until", until)
        if n_samples == 1:
            raise ValueError("n_samples: got 1, expected at least 2 with until, as one sample has no interval")
    if latent_dim is None:
        latent_dim = metric.latent_dim
    latent_dim = checks.integer("latent_dim", latent_dim, at_least=1)
    own_dtype, own_device = metric.dtype_and_device
    generator = torch.Generator().manual_seed(checks.seed(seed))
    kind = {"device": device or own_device, "dtype": dtype or own_dtype or torch.get_default_dtype()}

    def sampled(n: int) -> RelativeImprovement:
        start = torch.randn(n, latent_dim, generator=generator, dtype=torch.float64).to(**kind)
        try:
            end = stepped(metric, start, step_size)
            return RelativeImprovement(start, end, geodesic(metric, start, end, **options))
        except checks.NotFiniteError:
            end = start.clone()
            rows = finite_points(metric, start).nonzero()[:, 0]
            if len(rows):
                end[rows] = stepped(metric, start[rows], step_size)
                rows = rows[finite_points(metric, end[rows])]
            if not len(rows):
                raise
        others = (~torch.isin(torch.arange(n, device=rows.device), rows)).nonzero()[:, 0]
        curves = geodesic(metric, start[rows], end[rows], **options)
        parts = [curves, pairs_off_the_domain(start[others], end[others], curves.points.shape[-2] - 1)]
        return RelativeImprovement(start, end, joined(parts, torch.cat([rows, others]), torch.Size([n])))

    found = sampled(n_samples)
    while until is not None and found.half_width > until:
        n_left = max_samples - len(found.improvement)
        if n_left <= 0:
            warnings.warn(
                f"until: half the interval's width is {found.half_width:.3g} after {len(found.improvement)} pairs, not "
                f"{until:.3g}; raise max_samples or until",
                stacklevel=2,
            )
            break
        found = together([found, sampled(min(_n_more(found, until), n_left))])
    return found


def stepped(metric: Metric, start: Tensor, step_size: float) -> Tensor:
    """One step from ``start (n, d)`` along the maximal eigenvector, towards the origin."""
    with torch.no_grad():
        _, v_max = extremal_directions(metric(start))
    outward = (start * v_max).sum(-1, keepdim=True) > 0
    return start + step_size * torch.where(outward, -v_max, v_max)


def _n_more(found: RelativeImprovement, until: float) -> int:
    """How many pairs to add: about as many as the interval needs, but no more than three times those there are, as a
    standard deviation of few pairs is uncertain, and no fewer than an eighth of them."""
    n = found.n_pairs
    needed = min(n * (found.half_width / until) ** 2, 4.0 * n)
    return max(math.ceil(needed) - n, math.ceil(n / 8))


def together(parts: Sequence[RelativeImprovement]) -> RelativeImprovement:
    """All pairs of several runs of Algorithm 1."""
    start, end = (torch.cat([getattr(part, name) for part in parts]) for name in ("start", "end"))
    n = len(start)
    curves = joined([part.geodesic for part in parts], torch.arange(n, device=start.device), torch.Size([n]))
    return RelativeImprovement(start, end, curves)


@dataclass(frozen=True)
class ModelComparison:
    """The same pairs of data in the latent spaces of two models."""

    a: Geodesic
    """curves in the first model's latent space, batch shape ``(n,)``"""
    b: Geodesic
    """curves in the second model's latent space, batch shape ``(n,)``"""
    threshold: float
    """largest difference of the relative improvements of a comparable pair"""

    @property
    def difference(self) -> Tensor:
        """Absolute difference of the two relative improvements ``(n,)``."""
        return (self.a.improvement.cpu().double() - self.b.improvement.cpu().double()).abs()

    @property
    def comparable(self) -> Tensor:
        """Which pairs have comparable straight lines ``(n,)``: their improvements differ by at most the threshold. None
        whose line is not finite in one of the models."""
        return self.difference <= self.threshold

    @property
    def best(self) -> int:
        """Index of the pair whose improvements differ least."""
        return int(self.difference.nan_to_num(math.inf).argmin())


def compare_models(
    model_a: tuple[Metric, Tensor, Tensor],
    model_b: tuple[Metric, Tensor, Tensor],
    *,
    threshold: float = 0.02,
    **options: object,
) -> ModelComparison:
    """Find pairs whose straight lines can be compared between two models: those with similar relative improvements.

    Args:
        model_a: a tuple of metric, starts ``(n, d_a)`` and ends ``(n, d_a)``: the pairs encoded by the first model.
        model_b: the same for the second model, whose latent dimension may differ.
        threshold: largest difference of the relative improvements of a comparable pair, as a fraction.
        **options: passed to ``geodesic``.

    Returns:
        a ``ModelComparison`` with the geodesics of both models.

    Raises:
        TypeError, ValueError: as ``geodesic``; where the models' numbers of pairs differ.

    Source:
        Michelis & Becker 2021, Sec. 3 and App. D.
    """
    checks.positive("threshold", threshold)
    for name, model in (("model_a", model_a), ("model_b", model_b)):
        if not isinstance(model, tuple) or len(model) != 3:
            raise TypeError(f"{name}: expected a tuple (metric, start, end)")
        for part, z in zip(("start", "end"), model[1:], strict=True):
            checks.latent_points(f"{name}'s {part}", z)
            if z.ndim != 2:
                raise ValueError(f"{name}'s {part}: got shape {tuple(z.shape)}, expected (n, d)")
    counts = [len(z) for model in (model_a, model_b) for z in model[1:]]
    if len(set(counts)) != 1:
        raise ValueError(f"model_a, model_b: got {counts} starts and ends, expected the same pairs in both models")
    return ModelComparison(geodesic(*model_a, **options), geodesic(*model_b, **options), float(threshold))
