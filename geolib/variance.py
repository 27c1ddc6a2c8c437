"""Variance away from the data: a precision that is a positive sum of radial basis functions, ensembles of decoders."""

import functools
import math
import warnings
from collections.abc import Iterable

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn

from geolib import checks, jacobian
from geolib.jacobian import Map, Pull


class RBFPrecision(nn.Module):
    r"""Standard deviation :math:`\sigma(z) = \beta(z)^{-1/2}` with the precision

    .. math:: \beta(z) = W v(z) + \zeta, \qquad v_k(z) = \exp(-\lambda_k \|z - c_k\|^2).

    Args:
        centers: ``c (K, d)``.
        bandwidths: ``lambda (K,)``, positive.
        weights: ``W (K, D)``, non-negative.
        zeta: the precision far from all centres, where sigma tends to :math:`\zeta^{-1/2}`.

    Raises:
        TypeError, ValueError: for arguments of the wrong type, shape or range; for points of another dtype, device or
            latent dimension.

    Source:
        Arvanitidis et al. 2018; Danielou et al. 2024, Sec. 2.3.
    """

    def __init__(self, centers: Tensor, bandwidths: Tensor, weights: Tensor, zeta: float):
        checks.latent_points("centers", centers, min_points=1)
        if centers.ndim != 2:
            raise ValueError(f"centers: got shape {tuple(centers.shape)}, expected (K, d)")
        for name, x, more in (("bandwidths", bandwidths, 0), ("weights", weights, 1)):
            checks.latent_points(name, x)
            checks.same_kind(name, x, "centers", centers)
            if x.ndim != 1 + more or len(x) != len(centers):
                raise ValueError(f"{name}: got shape {tuple(x.shape)}, expected ({len(centers)},{' D' * more})")
            if bool((x < 0).any()):
                raise ValueError(f"{name}: {int((x < 0).sum())} of {x.numel()} entries are negative")
        checks.positive("zeta", zeta)
        super().__init__()
        self.register_buffer("centers", centers)
        self.register_buffer("bandwidths", bandwidths)
        self.register_buffer("weights", weights)
        self.register_buffer("zeta", torch.as_tensor(zeta, dtype=centers.dtype, device=centers.device))

    @property
    def latent_dim(self) -> int:
        """The latent dimension d."""
        return self.centers.shape[-1]

    def precision(self, z: Tensor) -> Tensor:
        """The precision ``beta (..., D)`` at ``z (..., d)``."""
        checks.same_kind("z", z, "the centers", self.centers)
        if z.ndim == 0 or z.shape[-1] != self.latent_dim:
            raise ValueError(f"z: got shape {tuple(z.shape)}, expected (..., {self.latent_dim})")
        return _activations(z, self.centers, self.bandwidths) @ self.weights + self.zeta

    def forward(self, z: Tensor) -> Tensor:
        """The standard deviation ``sigma (..., D)`` at ``z (..., d)``."""
        return self.precision(z).rsqrt()

    def push_forward(self, z: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        """``sigma (n, D)`` at ``z (n, d)`` and its derivatives ``(k, n, D)`` along ``tangents (k, n, d)``."""
        std, derivatives, _, _, _ = self._pushed(z, tangents)
        return std, derivatives

    def push_forward_twice(self, z: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor, Pull]:
        """``push_forward``, and what takes a cotangent ``(n, D)`` to that at z and to the blocks ``(n, k, k)`` of the
        second derivatives along the same tangents."""
        std, derivatives, gap, v, along = self._pushed(z, tangents)

        def pull(cotangent: Tensor) -> tuple[Tensor, Tensor]:
            # d^2 sigma = 3 / sigma (d sigma)^2 - sigma^3 / 2 d^2 beta
            squared = (3 * cotangent / std * derivatives).transpose(0, 1) @ derivatives.permute(1, 2, 0)
            # d^2 v = 4 lambda^2 v <z - c, dz>^2 - 2 lambda v |dz|^2
            weight = ((cotangent * std**3) @ self.weights.mT) * self.bandwidths * v
            bent = (2 * self.bandwidths * weight * along).transpose(0, 1) @ along.permute(1, 2, 0)
            apart = torch.einsum("and,bnd->nab", tangents, tangents)
            blocks = squared - bent + weight.sum(-1)[:, None, None] * apart
            return (weight * gap).sum(-1).mT, blocks

        return std, derivatives, pull

    def _pushed(self, z: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """``push_forward`` and what it is made of: ``z - c (d, n, K)``, ``v (n, K)``, ``<z - c, dz> (k, n, K)``."""
        # one coordinate at a time, because sums over a short last dimension are slow
        gap = z.mT.unsqueeze(-1) - self.centers.mT.contiguous().unsqueeze(1)
        v = _without_subnormals(torch.exp(-self.bandwidths * gap.square().sum(0)))
        std = torch.addmm(self.zeta, v, self.weights).rsqrt()
        # d v = -2 lambda v <z - c, dz>, and d sigma = -sigma^3 / 2 d beta
        along = sum(t.unsqueeze(-1) * g for t, g in zip(tangents.unbind(-1), gap, strict=True))
        return std, (self.bandwidths * v * along) @ self.weights * std**3, gap, v, along


def _activations(z: Tensor, centers: Tensor, bandwidths: Tensor) -> Tensor:
    """The basis functions v ``(..., K)`` at ``z``. Expanding |z - c|^2 would suffer from cancellation in float32."""
    return _without_subnormals(torch.exp(-bandwidths * (z.unsqueeze(-2) - centers).square().sum(-1)))


def _without_subnormals(v: Tensor) -> Tensor:
    """0 where ``v`` in [0, 1] is so small that its products are subnormal numbers.

    These take processors a hundred times as long, and add nothing to a sum with zeta.
    """
    info = torch.finfo(v.dtype)
    return torch.where(v < info.tiny / info.eps, 0.0, v)


def fit_rbf_precision(
    latents: Tensor,
    variance_target: Tensor,
    *,
    n_centers: int = 64,
    curvature: float = 1.25,
    zeta: float = 1e-3,
    seed: int = 0,
) -> RBFPrecision:
    r"""Fit a variance that matches a target at the data and grows to :math:`1/\zeta` away from it.

    The centres come from k-means. The bandwidths follow from the mean distance to the centre in each cluster
    :math:`C_k`,

    .. math:: \lambda_k = \tfrac12 \Big( \tfrac{a}{|C_k|} \sum_{z \in C_k} \|z - c_k\| \Big)^{-2},

    and the non-negative weights maximise the Gaussian likelihood of the target variances t,
    :math:`\min_{W \ge 0} \sum_i \beta(z_i) t_i - \log \beta(z_i)`. That problem is convex, and its minimum is
    :math:`\beta = 1/t` wherever the basis allows it, so t may be a decoder's variance or squared residuals.

    Args:
        latents: encoded data ``(n, d)``.
        variance_target: variances (not deviations) at the latents, ``(n, D)``, positive.
        n_centers: K, at most n. Clusters that stay empty (repeated latents) are left out.
        curvature: a; larger values give a smoother variance.
        zeta: precision far from the data.
        seed: seed of k-means.

    Returns:
        a module ``z (..., d) -> sigma (..., D)`` with the latents' dtype and device.

    Raises:
        TypeError, ValueError: for arguments of the wrong type, shape or range; for latents that are all the same point,
            or whose squared spread or its inverse is beyond the range of their dtype; for targets whose inverse is.

    Note:
        A cluster whose points coincide gets the median radius of the other clusters. The fit of the weights stops when
        an update lowers the mean objective by less than 1e-4 nats per target, or after 200 updates, with a warning.
        k-means takes at most 300 iterations.

    Source:
        Arvanitidis et al. 2018; Danielou et al. 2024, Sec. 2.3, who fit W by projected gradient descent instead.
    """
    checks.latent_points("latents", latents, min_points=2)
    if latents.ndim != 2:
        raise ValueError(f"latents: got shape {tuple(latents.shape)}, expected (n, d)")
    checks.latent_points("variance_target", variance_target)
    checks.same_kind("variance_target", variance_target, "latents", latents)
    if variance_target.ndim != 2 or len(variance_target) != len(latents):
        raise ValueError(f"variance_target: got shape {tuple(variance_target.shape)}, expected ({len(latents)}, D)")
    if not bool((variance_target > 0).all()):
        count = int((variance_target <= 0).sum())
        raise ValueError(f"variance_target: {count} of {variance_target.numel()} entries are not positive; add a floor")
    if checks.integer("n_centers", n_centers, at_least=1) > len(latents):
        raise ValueError(f"n_centers: got {n_centers}, expected at most the number of latents, {len(latents)}")
    checks.positive("curvature", curvature)
    checks.positive("zeta", zeta)

    centers, bandwidths = place_centers(latents, n_centers, curvature, checks.seed(seed))
    return fit_to(latents, variance_target, centers, bandwidths, zeta)


@torch.no_grad()
def place_centers(latents: Tensor, n_centers: int, curvature: float, seed: int) -> tuple[Tensor, Tensor]:
    """The centres ``(K, d)`` and bandwidths ``(K,)`` of ``fit_rbf_precision``."""
    exact = latents.double()  # as they may lie many times their spread from the origin
    centers, labels = _cluster(latents, n_centers, seed)
    bandwidths = _bandwidths(exact, centers, labels, curvature).to(latents)
    if not bool((torch.isfinite(bandwidths) & (bandwidths >= torch.finfo(latents.dtype).tiny)).all()):
        spread = float(exact.std(dim=0).max())
        raise ValueError(
            f"latents: their spread, {spread:.3g}, is too {'small' if spread < 1 else 'large'} for bandwidths in "
            f"{latents.dtype}; rescale them"
        )
    return centers.to(latents), bandwidths


@torch.no_grad()
def fit_to(latents: Tensor, variance_target: Tensor, centers: Tensor, bandwidths: Tensor, zeta: float) -> RBFPrecision:
    """The weights of ``fit_rbf_precision``, given where the centres are and how far they reach."""
    v = _activations(latents, centers, bandwidths)
    if not bool(v.any()):
        raise ValueError("curvature: so small that no basis function reaches any of the latents; raise it")
    weights = _fit_weights(v, variance_target, zeta)
    if not bool(torch.isfinite(weights).all()):
        low, high = (float(x) for x in variance_target.aminmax())
        raise ValueError(
            f"variance_target: the precision that fits values from {low:.3g} to {high:.3g} is beyond the range of "
            f"{weights.dtype}; rescale them, or put a floor under them"
        )
    return RBFPrecision(centers, bandwidths, weights, zeta)


def _cluster(latents: Tensor, n_centers: int, seed: int) -> tuple[Tensor, Tensor]:
    """Cluster centres ``(K, d)`` by k-means, in float64, and each latent's cluster ``(n,)``."""
    points = latents.detach().cpu().numpy().astype(np.float64)
    with warnings.catch_warnings():
        # k-means warns of fewer distinct points than clusters; empty clusters are dropped below
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels = KMeans(n_centers, n_init=1, random_state=seed).fit(points).labels_
    used, labels = np.unique(labels, return_inverse=True)
    centers = np.stack([points[labels == k].mean(axis=0) for k in range(len(used))])
    return torch.from_numpy(centers).to(latents.device), torch.from_numpy(labels).to(latents.device)


def _bandwidths(latents: Tensor, centers: Tensor, labels: Tensor, curvature: float) -> Tensor:
    """lambda ``(K,)`` from the mean radii of the clusters."""
    distance = (latents - centers[labels]).norm(dim=-1)
    total = torch.zeros_like(centers[:, 0]).index_add_(0, labels, distance)
    radius = total / torch.bincount(labels, minlength=len(centers))
    # a radius below the rounding errors of the coordinates is that of a single point, repeated or not
    has_radius = radius > 1e2 * torch.finfo(latents.dtype).eps * latents.abs().max()
    if bool(has_radius.any()):
        typical = radius[has_radius].median()
    elif len(centers) > 1:  # one centre per point: half the distance to the nearest other centre
        typical = torch.cdist(centers, centers).fill_diagonal_(torch.inf).min(dim=-1).values.median() / 2
    else:
        raise ValueError("latents: all points are the same, expected points with some spread")
    return 0.5 * (curvature * torch.where(has_radius, radius, typical)) ** -2


def _fit_weights(v: Tensor, target: Tensor, zeta: float, *, max_updates: int = 200, tolerance: float = 1e-4) -> Tensor:
    """The weights W >= 0 that minimise sum(beta t - log beta), beta = v W + zeta, by multiplicative updates.

    The update W * sqrt((v^T 1/beta) / (v^T t)) keeps the weights non-negative without a projection or a step size, and
    never raises the objective (majorisation; Fevotte & Idier 2011).
    """
    pull = (v.T @ target).clamp_min(torch.finfo(v.dtype).tiny)
    # begin with the optimal precision of each cluster if only its own basis function were active
    weights = v.sum(0, keepdim=True).T / pull / v.sum(-1).mean()
    previous = torch.inf
    for update in range(max_updates):
        inverse = (v @ weights).add_(zeta).reciprocal_()
        weights *= (v.T @ inverse).div_(pull).sqrt_()
        if update % 10 == 9:
            beta = (v @ weights).add_(zeta)
            objective = float((beta * target - beta.log_()).mean())
            if previous - objective < 10 * tolerance:
                break
            previous = objective
    else:
        if tolerance > 0:  # else all updates were asked for
            warnings.warn(
                f"fit_rbf_precision: the weights were still improving after {max_updates} updates; take fewer centres, "
                f"or put a floor under variance_target",
                stacklevel=5,
            )
    return weights


class Ensemble(nn.Module):
    """The members of an ensemble side by side, scaled: what ``ensemble`` returns."""

    def __init__(self, decoders: Iterable[Map]):
        super().__init__()
        self.decoders = list(decoders)
        # so that they are moved, copied and found with this module
        self.modules_of_decoders = nn.ModuleList(module for f in self.decoders for module in jacobian.modules(f))

    def forward(self, z: Tensor) -> Tensor:
        """The stacked immersion ``(n, K D)`` at ``z (n, d)``."""
        return torch.cat(self.members(z), dim=-1) / math.sqrt(len(self.decoders))

    def members(self, z: Tensor) -> list[Tensor]:
        """Every member's image ``(n, D)`` of ``z (n, d)``."""
        images = [jacobian.call(f"decoders[{k}]", f, z) for k, f in enumerate(self.decoders)]
        for k, image in enumerate(images):
            if image.shape != images[0].shape:
                got, expected = image.shape[-1], images[0].shape[-1]
                raise ValueError(f"decoders[{k}]: returned {got} outputs, expected {expected} like decoders[0]")
        return images

    def mean(self, z: Tensor) -> Tensor:
        """The members' mean ``(..., D)`` at ``z (..., d)``."""
        return self._stacked(z).mean(0)

    def std(self, z: Tensor) -> Tensor:
        """The members' standard deviation ``(..., D)`` at ``z (..., d)``; where it is 0, so is its derivative.

        The root of the mean square over the K members, not K - 1.
        """
        x = self._stacked(z)
        variance = (x - x.mean(0)).square().mean(0)
        positive = variance > 0
        return torch.where(positive, torch.where(positive, variance, 1.0).sqrt(), 0.0)

    def _stacked(self, z: Tensor) -> Tensor:
        images = torch.stack(self.members(z.reshape(-1, z.shape[-1])))
        return images.reshape(len(images), *z.shape[:-1], images.shape[-1])

    def push_forward(self, z: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        """``forward`` at ``z (n, d)`` and its derivatives ``(k, n, K D)`` along ``tangents (k, n, d)``."""
        values, derivatives = zip(*(jacobian.push_forward(f, z, tangents) for f in self.decoders), strict=True)
        scale = math.sqrt(len(self.decoders))
        return torch.cat(values, dim=-1) / scale, torch.cat(derivatives, dim=-1) / scale

    def push_forward_twice(self, z: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor, Pull]:
        """``push_forward``, and what takes a cotangent ``(n, K D)`` to that at z and to the blocks ``(n, k, k)`` of the
        second derivatives along the same tangents."""
        parts = [jacobian.push_forward_twice(f, z, tangents) for f in self.decoders]
        values, derivatives, pulls = zip(*parts, strict=True)
        scale = math.sqrt(len(self.decoders))

        def pull(cotangent: Tensor) -> tuple[Tensor, Tensor | None]:
            shares = (cotangent / scale).chunk(len(pulls), dim=-1)
            pulled, blocks = zip(*(p(share) for p, share in zip(pulls, shares, strict=True)), strict=True)
            bent = [block for block in blocks if block is not None]
            return functools.reduce(torch.add, pulled), functools.reduce(torch.add, bent) if bent else None

        return torch.cat(values, dim=-1) / scale, torch.cat(derivatives, dim=-1) / scale, pull


def ensemble(decoders: list[Map] | tuple[Map, ...] | nn.ModuleList) -> Ensemble:
    r"""The stacked immersion of K decoders of one latent space, whose pull-back metric is their expected metric.

    .. math:: F(z) = K^{-1/2} (f_1(z), \ldots, f_K(z)), \qquad
        J_F^T J_F = \frac1K \sum_k J_k^T J_k = J_m^T J_m + \frac1K \sum_k J_{f_k - m}^T J_{f_k - m},

    with the members' mean m. It is the expectation :math:`E[J^T J]` over a member drawn at random, exact and without
    draws, so ``PullbackMetric(ensemble(decoders))`` serves wherever a metric is asked for, at K times the cost of one.

    Three squared distances between the images of neighbours z and z' should not be confused:

    * One member decodes both, :math:`E_k |f_k(z) - f_k(z')|^2`. This is the metric of ``ensemble``. It grows where the
      members' deviations from their mean *change* with z, as they do where no data hold the members together, and so
      shortest curves avoid such regions. A disagreement that is the same everywhere adds nothing.
    * Only the size of the deviations counts, not their direction: :math:`|m(z) - m(z')|^2 + |s(z) - s(z')|^2` with the
      members' standard deviation s. This is Eq. 2, ``PullbackMetric(e.mean, e.std)`` for ``e = ensemble(decoders)``.
      Its metric is never larger than the first, and the same for two members. It takes torch's own forward mode.
    * Two members drawn independently decode one each: :math:`E_{k,l} |f_k(z) - f_l(z')|^2 = |m(z) - m(z')|^2 + |s(z)|^2
      + |s(z')|^2`. This is not 0 for z = z', so it belongs to no metric: summed over the segments of a curve it grows
      with their number.

    Args:
        decoders: K >= 1 maps ``z (n, d) -> (n, D)``, as ``PullbackMetric`` takes them, with the same d and D.

    Returns:
        a module ``z (n, d) -> (n, K D)``. Its ``mean(z)`` and ``std(z)`` are the members' mean and standard deviation
        ``(..., D)``, its ``decoders`` the members.

    Raises:
        TypeError: where ``decoders`` is not a sequence of callables. A module that is called itself, such as
            ``nn.Sequential``, is one decoder and no sequence.
        ValueError: for no decoders; on evaluation, where members differ in D, and as ``PullbackMetric``.

    Note:
        A feature map belongs into the members, ``lambda z: features(decoder(z))``, and not behind the stack. Curves
        across the kinks of ReLU members are not found as polygons, as ``geodesic`` does for one decoder: prefer smooth
        activations. ``std`` has kinks where all members agree in an output, which for two members is common.

    Source:
        Syrota, Moreno-Munoz & Hauberg 2024, who define this metric. The published energy draws a member per node.
    """
    if not isinstance(decoders, (list, tuple, nn.ModuleList)):
        raise TypeError(f"decoders: got {type(decoders).__name__}, expected a list of decoders")
    if len(decoders) == 0:
        raise ValueError("decoders: got none, expected at least one")
    for k, decoder in enumerate(decoders):
        if not callable(decoder):
            raise TypeError(f"decoders[{k}]: got {type(decoder).__name__}, expected a callable of a tensor")
    return Ensemble(decoders)
