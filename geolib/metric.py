"""The pull-back metric of a generator, and formulas on metric tensors."""

import functools
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.func import vjp, vmap

from geolib import checks, jacobian
from geolib.trials.maps import try_map

Map = Callable[[Tensor], Tensor]

# A chunk's Jacobian should stay in the cache: the same work took four times longer in one piece of 10,000 points.
_CHUNK_BYTES_CPU = 16 * 2**20
_CHUNK_BYTES_GPU = 512 * 2**20


class FlatMetricWarning(UserWarning):
    """A decoder has as many outputs as latents (d = D), and neither ``std`` nor ``features``: its metric is flat.

    The pull-back is then the Euclidean metric in other coordinates, wherever the decoder can be inverted, as a
    normalising flow can everywhere: shortest curves decode to straight lines in data space. Said once per metric.
    """


class PullbackMetric:
    r"""The Riemannian metric that a generator induces on its latent space.

    Deterministic generator (``std=None``), Eq. 1: :math:`M = J_\mu^T J_\mu`.
    Stochastic generator :math:`\mu(z) + \sigma(z) \epsilon`, Eq. 2: :math:`M = J_\mu^T J_\mu + J_\sigma^T J_\sigma`,
    the expectation over :math:`\epsilon` of the random metric.
    With a feature map :math:`f` on top, Eq. 3: :math:`M = J_\mu^T M_F J_\mu`, :math:`M_F = J_f^T J_f`; and with
    ``std`` too, Eq. 4: :math:`M = J_\mu^T M_F J_\mu + J_\sigma^T \mathrm{diag}(M_F) J_\sigma`.

    Args:
        mean: the generator's mean, ``z (n, d) -> (n, D)``; any torch callable that treats its rows independently.
        std: its standard deviation (not variance), ``z (n, d) -> (n, D)``.
        features: a feature map ``x (n, D) -> (n, K)``.
        chunk_size: points evaluated at once; by default as many as keep a chunk's Jacobian in the cache. It changes
            speed and memory, and results only by rounding.

    Raises:
        TypeError: where an argument is not callable.
        ValueError: on evaluation, where a module is in training mode and would not be a fixed map, where an output has
            another batch size or rank, is not finite, does not depend on ``z``, mixes the rows of a batch, or passes a
            gradient that is not that of its values (a stage that is detached or under ``no_grad``). All this is tried
            once, at one point and two beside it.

    Note:
        Jacobians are exact: forward mode, or reverse mode with a warning where torch has no forward rule for a part of
        a map, which takes several times as long. In float32 a metric with a condition number beyond about 1e6 keeps no
        digit of its smallest eigenvalue. In Eq. 4 the features' Jacobian is taken at the mean, as the paper does; for a
        feature map that is not linear this is an approximation of the expectation.

        A decoder of probabilities p of independent Bernoulli pixels has a metric of its own, the Fisher-Rao metric
        :math:`\sum_k \nabla p_k \nabla p_k^T / (p_k (1 - p_k))`. It is the pull-back of
        :math:`p \mapsto 2 \arcsin \sqrt p`, so ``features`` serves; by logits a, as p rounds to 0 or 1, where the
        derivative by p is infinite: ``PullbackMetric(logits, features=lambda a: 2 * torch.atan(torch.tanh(a / 4)))``,
        where ``logits`` is the decoder without its last sigmoid (of an ``nn.Sequential``, ``decoder[:-1]``).

    Warns:
        FlatMetricWarning: where ``mean`` has as many outputs as latents and there is neither ``std`` nor ``features``.

    Source:
        Michelis & Becker 2021, Eqs. 1-4 and App. E; Eq. 2 is from Arvanitidis et al. 2018.
    """

    def __init__(
        self, mean: Map, std: Map | None = None, features: Map | None = None, *, chunk_size: int | None = None
    ):
        for name, function in (("mean", mean), ("std", std), ("features", features)):
            if not callable(function) and not (function is None and name != "mean"):
                raise TypeError(f"{name}: got {type(function).__name__}, expected a callable of a tensor")
        self.mean = mean
        self.std = std
        self.features = features
        self._chunk_size = None if chunk_size is None else checks.integer("chunk_size", chunk_size, at_least=1)
        self._output_dim: dict[tuple[int, torch.dtype, torch.device], int] = {}
        # known once the maps were tried
        self._n_features = 0
        self._in_reverse: set[str] = set()
        self._recorded_in_reverse: set[str] = set()

    @property
    def has_immersion(self) -> bool:
        """Whether the metric is the pull-back of one map (all but Eq. 4)."""
        return self.std is None or self.features is None

    @property
    def latent_dim(self) -> int:
        """The latent dimension ``d``: what ``std`` or ``mean`` declares as ``latent_dim``, else the width of the first
        linear layer of ``mean``, or of the model whose method it is, whose width ``mean`` takes.

        Raises:
            TypeError: where neither tells.
        """
        for function in (self.std, self.mean):
            if isinstance(getattr(function, "latent_dim", None), int):
                return function.latent_dim
        layers = [
            m for module in jacobian.modules(self.mean) for m in module.modules() if list(m.parameters(recurse=False))
        ]
        if isinstance(self.mean, nn.Module):
            if layers and isinstance(layers[0], nn.Linear):
                return layers[0].in_features
        else:  # of a method of a model, such as its decoder, the first layer may be another's
            for layer in layers:
                if isinstance(layer, nn.Linear) and self._takes(layer.in_features):
                    return layer.in_features
        raise TypeError("mean: its latent dimension cannot be read off; pass latent_dim")

    def _takes(self, d: int) -> bool:
        jacobian.refuse_training_mode("mean", self.mean)
        dtype, device = self.kind
        try:
            with torch.no_grad():
                jacobian.call("mean", self.mean, torch.zeros(2, d, dtype=dtype, device=device))
        except (RuntimeError, ValueError, IndexError):
            return False
        return True

    @property
    def kind(self) -> tuple[torch.dtype | None, torch.device | None]:
        """Dtype and device of the first parameter or buffer of ``mean``, ``std`` or ``features``; None without any."""
        for function in (self.mean, self.std, self.features):
            for module in jacobian.modules(function):
                for tensor in (*module.parameters(), *module.buffers()):
                    if tensor.is_floating_point():
                        return tensor.dtype, tensor.device
        return None, None

    def __call__(self, z: Tensor) -> Tensor:
        """The metric tensor at ``z``.

        Args:
            z: latent points ``(..., d)``.

        Returns:
            ``(..., d, d)``, symmetric; differentiable with respect to ``z`` where ``z`` requires a gradient.
        """
        _check_points(z)
        return self.tensor(z)

    def tensor(self, z: Tensor) -> Tensor:
        """The metric tensor at points ``z (..., d)`` that need no check; its value is checked."""
        return self._in_chunks("metric", self._metric, z)

    def immersion(self, z: Tensor) -> Tensor:
        """The map whose pull-back the metric is: ``mean``, ``(mean, std)`` stacked, or ``features(mean)``.

        Args:
            z: latent points ``(..., d)``.

        Returns:
            ``(..., D')`` with ``D'`` = D, 2 D or K; differentiable where ``z`` requires a gradient.

        Raises:
            TypeError: for Eq. 4 (``std`` and ``features`` together), which is an expectation and has no such map.
        """
        if not self.has_immersion:
            raise TypeError("metric: with std and features together (Eq. 4) it is not the pull-back of one map")
        _check_points(z)
        return self.images(z)

    def images(self, z: Tensor) -> Tensor:
        """The immersion at points ``z (..., d)`` that need no check; its value is checked."""
        return self._in_chunks("immersion", self._immersion, z)

    def tangents(self, z: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The immersion and its derivatives, in parts that stacked are the whole: ``mean``, then ``std``.

        Args:
            z: latent points ``(n, d)``.

        Yields:
            values ``(n, D)`` and tangent vectors ``(d, n, D)``. They are not checked: a solver's trial point may lie
            where the generator is not finite.
        """
        if self.features is not None:
            yield self._in_parts(lambda part: self._through_features(*self._jacobian("mean", part)), z)
            return
        for name in ("mean",) if self.std is None else ("mean", "std"):
            yield self._in_parts(functools.partial(self._jacobian, name), z)

    def tangents_and_bending(self, z: Tensor) -> Iterator[tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]]:
        r"""``tangents``, and with each part what takes cotangents u ``(n, D)`` to the blocks ``(n, d, d)`` of the
        second derivatives :math:`\langle u, \partial_a \partial_b f \rangle`.

        Args:
            z: latent points ``(n, d)``.
        """
        names = ("mean",) if self.std is None or self.features is not None else ("mean", "std")
        size = self.chunk_size(z)
        for name in names:
            values, derivatives, pulls = zip(*(self._bending(name, part) for part in z.split(size)), strict=True)
            if len(pulls) == 1:
                yield values[0], derivatives[0], pulls[0]
            else:
                yield (
                    torch.cat(values),
                    torch.cat(derivatives, dim=1),
                    lambda u, pulls=pulls: torch.cat([p(v) for p, v in zip(pulls, u.split(size), strict=True)]),
                )

    def _bending(self, name: str, z: Tensor) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
        n, d = z.shape
        x, tangents, pull = jacobian.push_forward_twice(self._differentiable(name), z, _basis(z))
        pulls = [pull]
        if self.features is not None:
            x, tangents, pull = jacobian.push_forward_twice(self._differentiable("features"), x, tangents)
            pulls.append(pull)

        def blocks(cotangent: Tensor) -> Tensor:
            found = jacobian.pull_through(pulls, cotangent)[1]
            return z.new_zeros(n, d, d) if found is None else found

        return x, tangents, blocks

    def unchecked(self, z: Tensor) -> Tensor:
        """The metric tensor at ``z (n, d)``, finite or not: ``(n, d, d)``."""
        parts = [self._metric(part) for part in z.split(self.chunk_size(z))]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _in_parts(self, function: Callable[[Tensor], tuple[Tensor, Tensor]], z: Tensor) -> tuple[Tensor, Tensor]:
        parts = [function(part) for part in z.split(self.chunk_size(z))]
        if len(parts) == 1:
            return parts[0]
        values, derivatives = zip(*parts, strict=True)
        return torch.cat(values), torch.cat(derivatives, dim=1)

    def chunk_size(self, z: Tensor) -> int:
        """How many points like those of ``z`` ``(..., d)`` are evaluated at once."""
        for name in ("mean", "std", "features"):
            jacobian.refuse_training_mode(name, getattr(self, name))
        kind = (z.shape[-1], z.dtype, z.device)
        if kind not in self._output_dim:
            first = not self._output_dim
            self._output_dim[kind] = self._try(z.detach().reshape(-1, z.shape[-1])[:1])
            if first and self.std is None and self.features is None and self._output_dim[kind] == z.shape[-1]:
                warnings.warn(
                    f"mean: has {z.shape[-1]} outputs for {z.shape[-1]} latents, so its metric is flat where it can be "
                    f"inverted: geodesics decode to straight lines; give std or features to measure something else",
                    FlatMetricWarning,
                    stacklevel=2,
                )
        if self._chunk_size is not None:
            return self._chunk_size
        per_point = self._output_dim[kind] * (z.shape[-1] + 1) * z.element_size()
        budget = _CHUNK_BYTES_CPU if z.device.type == "cpu" else _CHUNK_BYTES_GPU
        return min(max(budget // per_point, 32), 2**16)

    def _in_chunks(self, name: str, function: Map, z: Tensor) -> Tensor:
        flat = z.reshape(-1, z.shape[-1])
        # Only z is differentiated; without this a decoder's parameters would record a graph on every call.
        with torch.set_grad_enabled(torch.is_grad_enabled() and z.requires_grad):
            parts = []
            for chunk in flat.split(self.chunk_size(z)):
                value = function(chunk)
                checks.finite(name, value, at=chunk)
                parts.append(value)
            out = torch.cat(parts) if len(parts) > 1 else parts[0]
        return out.reshape(*z.shape[:-1], *out.shape[1:])

    def _immersion(self, z: Tensor) -> Tensor:
        x = self._call("mean", z)
        if self.std is not None:
            return torch.cat([x, self._call("std", z)], dim=-1)
        return x if self.features is None else self._call("features", x)

    def _metric(self, z: Tensor) -> Tensor:
        if self.features is None:
            M = _gram(self._jacobian("mean", z)[1])
            return M if self.std is None else M + _gram(self._jacobian("std", z)[1])
        x, J_mean = self._jacobian("mean", z)
        M = _gram(self._through_features(x, J_mean)[1])
        if self.std is None:
            return M
        _, J_std = self._jacobian("std", z)
        return M + torch.einsum("anD,nD,bnD->nab", J_std, self._diagonal_of_feature_metric(x), J_std)

    def _jacobian(self, name: str, z: Tensor) -> tuple[Tensor, Tensor]:
        return self._push_forward(name, z, _basis(z))

    def _push_forward(self, name: str, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        return jacobian.push_forward(self._differentiable(name), x, tangents)

    def _differentiable(self, name: str) -> Map:
        """The map of that name; its value's shape is checked where nothing is lost by it."""
        function = getattr(self, name)
        if name in self._in_reverse:
            return jacobian.ReverseMode(function)
        if name in self._recorded_in_reverse:
            return jacobian.RecordedInReverse(function)
        return function if isinstance(function, nn.Module) else functools.partial(self._call, name)

    def _through_features(self, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        return self._push_forward("features", x, tangents)

    def _diagonal_of_feature_metric(self, x: Tensor) -> Tensor:
        """diag(J_f^T J_f) at ``x (n, D)``: ``(n, D)``, in min(D, K) passes."""
        n, D = x.shape
        K = self._n_features
        # a block of tangents or cotangents at a time, so that memory stays flat in D and K
        block = max(1, 2**22 // max(1, n * max(D, K)))
        if K <= D:
            _, pull_back = vjp(functools.partial(self._call, "features"), x)
            eye = torch.eye(K, dtype=x.dtype, device=x.device).unsqueeze(1).expand(K, n, K)
            rows = (vmap(lambda v: pull_back(v)[0])(part) for part in eye.split(block))
            return sum(row.square().sum(0) for row in rows)
        eye = torch.eye(D, dtype=x.dtype, device=x.device).unsqueeze(1).expand(D, n, D)
        # Written into one tensor: a small one kept from each block lay between the large ones that are freed, and the
        # memory in use grew to that of the whole Jacobian.
        diagonal = x.new_empty(D, n)
        for first in range(0, D, block):
            part = self._push_forward("features", x, eye[first : first + block])[1]
            diagonal[first : first + block] = part.square().sum(-1)
        return diagonal.transpose(0, 1)

    def _call(self, name: str, z: Tensor) -> Tensor:
        return jacobian.call(name, getattr(self, name), z)

    def _try(self, z: Tensor) -> int:
        """Try every map beside ``z (1, d)`` before work is spent. Returns the number of outputs of all together."""
        x = self._tried("mean", z)
        dims = x.shape[-1]
        if self.std is not None:
            std_dims = self._tried("std", z).shape[-1]
            if std_dims != dims:
                raise ValueError(f"std: returned {std_dims} outputs, expected {dims} like mean")
            dims += std_dims
        if self.features is not None:
            self._n_features = self._tried("features", x).shape[-1]
            dims += self._n_features
        return dims

    def _tried(self, name: str, z: Tensor) -> Tensor:
        value, forward, twice = try_map(name, getattr(self, name), z)
        if not twice:
            self._recorded_in_reverse.add(name)
        if not forward and name not in self._in_reverse:
            self._in_reverse.add(name)
            warnings.warn(
                f"{name}: torch's forward mode has no rule for a part of it, so its derivatives come from reverse "
                f"mode, which takes several times as long",
                stacklevel=2,
            )
        return value


def _check_points(z: Tensor) -> None:
    checks.latent_points("z", z)
    if z.numel() == 0:
        raise ValueError(f"z: got no points (shape {tuple(z.shape)}), expected at least one")


def _basis(z: Tensor) -> Tensor:
    """The unit tangents ``(d, n, d)`` at ``z (n, d)``."""
    n, d = z.shape
    return torch.eye(d, dtype=z.dtype, device=z.device).unsqueeze(1).expand(d, n, d)


def _gram(J: Tensor) -> Tensor:
    """J^T J from the columns of J: ``(d, n, D) -> (n, d, d)``."""
    return torch.einsum("anD,bnD->nab", J, J)


def _check_tensors(M: Tensor) -> None:
    checks.latent_points("M", M, min_points=1)
    if M.shape[-1] != M.shape[-2]:
        raise ValueError(f"M: got shape {tuple(M.shape)}, expected (..., d, d)")


def _eigenvalues(M: Tensor) -> Tensor:
    _check_tensors(M)
    return torch.linalg.eigvalsh(M)


def condition_number(M: Tensor) -> Tensor:
    r"""Largest over smallest eigenvalue of the metric, :math:`\lambda_{max} / \lambda_{min}`.

    Args:
        M: metric tensors ``(..., d, d)``.

    Returns:
        ``(...)``, at least 1; ``inf`` where the smallest eigenvalue is not positive in this precision. The condition
        number of the Jacobian (Ramirez 2020) is its square root.

    Source:
        Michelis & Becker 2021, Fig. 1.
    """
    eigenvalues = _eigenvalues(M)
    smallest, largest = eigenvalues[..., 0], eigenvalues[..., -1]
    return torch.where(smallest > 0, largest / smallest, torch.inf)


def magnification_factor(M: Tensor) -> Tensor:
    r"""Volume that a unit of latent volume has in the output space, :math:`\sqrt{\det M}`.

    Args:
        M: metric tensors ``(..., d, d)``.

    Returns:
        ``(...)``, zero where the metric is singular.

    Source:
        Michelis & Becker 2021, Fig. 2; Chen et al. 2018.
    """
    # by eigenvalues: a determinant by LU can round a singular metric to a negative number
    return _eigenvalues(M).clamp_min(0).sqrt().prod(dim=-1)


def extremal_directions(M: Tensor) -> tuple[Tensor, Tensor]:
    """Unit eigenvectors of the smallest and the largest eigenvalue, in which the output changes least and most.

    Args:
        M: metric tensors ``(..., d, d)``.

    Returns:
        ``v_min, v_max``, each ``(..., d)``. An eigenvector has no sign: its largest component is made positive here.
        Where two eigenvalues agree the directions are arbitrary.

    Source:
        Michelis & Becker 2021, Sec. 2.3.
    """
    _check_tensors(M)
    vectors = torch.linalg.eigh(M).eigenvectors
    largest = vectors.abs().argmax(dim=-2, keepdim=True)
    vectors = vectors * torch.where(vectors.gather(-2, largest) < 0, -1.0, 1.0)
    return vectors[..., 0], vectors[..., -1]


def smoothed(M: Tensor, strength: float) -> Tensor:
    r"""Metric tensors whose small singular values s are pressed down to :math:`s^3 / (s^2 + \lambda)`.

    Those far above the root of lambda stay as they are: what remains is a metric of lower rank, in which curves may
    take any way along directions that change the output little. Computed as :math:`M^3 (M^2 + \lambda I)^{-1}`,
    which has derivatives where singular values meet too. As a metric for any solver:
    ``lambda z: smoothed(metric(z), strength)``.

    Args:
        M: metric tensors ``(..., d, d)``.
        strength: lambda, in units of M squared.

    Returns:
        ``(..., d, d)``, symmetric positive semidefinite, never larger than M.

    Source:
        Chen et al. 2018, "Smoothing the metric tensor": :math:`\hat G = U \, \mathrm{diag}(s^3 / (s^2 + \lambda)) \,
        V^T`. The decomposition is taken to be that of the metric G, which is what they replace, and not that of the
        Jacobian, whose singular values are the roots.
    """
    _check_tensors(M)
    checks.positive("strength", strength)
    square = M @ M
    share = torch.linalg.solve(square + strength * torch.eye(M.shape[-1], dtype=M.dtype, device=M.device), square)
    out = M @ share  # the three matrices commute
    return (out + out.mT) / 2
