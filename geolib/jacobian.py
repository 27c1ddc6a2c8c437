"""Values and derivatives of any torch callable along tangent vectors."""

import functools
import itertools
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import jvp, vmap

Map = Callable[[Tensor], Tensor]

# A cotangent at a map's values to the cotangent at its arguments, and to the symmetric blocks (n, k, k) of its second
# derivatives along k tangents, contracted with that cotangent; None where they are zero.
Pull = Callable[[Tensor], tuple[Tensor, Tensor | None]]

_MODE_DEPENDENT = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd, nn.RReLU)


def modules(function: object, depth: int = 3) -> list[nn.Module]:
    """The modules that a callable visibly uses: itself, its instance, its partial arguments, its closure and globals,
    and those that the callables among these use."""
    if isinstance(function, nn.Module):
        return [function]
    if depth == 0 or not callable(function):
        return []
    parts = [getattr(function, "__self__", None), getattr(function, "__func__", None)]
    if isinstance(function, functools.partial):
        parts += [function.func, *function.args, *function.keywords.values()]
    for cell in getattr(function, "__closure__", None) or ():
        try:
            parts.append(cell.cell_contents)
        except ValueError:  # a cell not filled yet
            continue
    names = getattr(getattr(function, "__code__", None), "co_names", ())
    parts += [function.__globals__[name] for name in names if name in getattr(function, "__globals__", {})]
    return [module for part in parts for module in modules(part, depth - 1)]


def refuse_training_mode(name: str, function: Map | None) -> None:
    """Stop where a layer of ``function`` behaves differently in training and is in that mode."""
    for module in modules(function):
        for child in module.modules():
            if child.training and isinstance(child, _MODE_DEPENDENT):
                raise ValueError(
                    f"{name}: its {type(child).__name__} layer is in training mode, so it is not a fixed map of z; "
                    f"call .eval() first"
                )


def call(name: str, function: Map, z: Tensor) -> Tensor:
    """``function(z)`` for ``z (n, d)``, its type, rank and batch size checked."""
    out = function(z)
    check_values(name, out, z)
    return out


def check_values(name: str, out: object, z: Tensor) -> None:
    """Check the type, rank and batch size of a map's value at ``z (n, d)``."""
    if not isinstance(out, Tensor):
        raise ValueError(f"{name}: returned {type(out).__name__}, expected a tensor (n, D)")
    if out.ndim != 2 or out.shape[0] != z.shape[0]:
        raise ValueError(
            f"{name}: returned shape {tuple(out.shape)} for {z.shape[0]} points, expected ({z.shape[0]}, D); "
            f"flatten images and keep the batch size"
        )


def kink(layer: nn.Module) -> float | None:
    """The slope below zero of a layer that has a kink there and slope 1 above; None for any other layer."""
    if not isinstance(layer, (nn.ReLU, nn.LeakyReLU)) or _has_hooks(layer):
        return None
    if type(layer) is nn.ReLU:
        return 0.0
    return layer.negative_slope if type(layer) is nn.LeakyReLU else None


def kinked_chain(*functions: Map) -> tuple[list[nn.Module], list[nn.Module]] | None:
    """The layers of functions that follow one another: a chain of affine ones and of those with a ``kink``, as long as
    it can be, and what follows that is smooth. None where they are not of that form, as far as can be seen."""
    layers = [layer for function in functions for layer in _layers(function)]
    kinks = [i for i, layer in enumerate(layers) if kink(layer) is not None]
    n = kinks[-1] + 1 if kinks else 0
    while n < len(layers) and _is_affine(layers[n]):
        n += 1
    first, behind = layers[:n], layers[n:]
    if not all(_is_affine(layer) or kink(layer) is not None for layer in first):
        return None
    return (first, behind) if all(_is_smooth(layer) for layer in behind) else None


def _layers(function: Map) -> list[Map]:
    """Those of (nested) ``nn.Sequential``, or the function itself."""
    if type(function) is not nn.Sequential or _has_hooks(function):
        return [function]
    return list(itertools.chain.from_iterable(_layers(layer) for layer in function))


def _has_hooks(function: nn.Module) -> bool:
    return bool(function._forward_hooks or function._forward_pre_hooks)


def _is_affine(layer: Map) -> bool:
    if not isinstance(layer, nn.Module) or _has_hooks(layer):
        return False
    return type(layer) is nn.Linear or (type(layer) in _AFFINE and not layer.training)


def _is_smooth(layer: Map) -> bool:
    """Whether a layer is known to be: by its type, or as it brings its second derivatives."""
    if not isinstance(layer, nn.Module) or _has_hooks(layer):
        return False
    return _is_affine(layer) or type(layer) in _SMOOTH or hasattr(layer, "push_forward_twice")


class SmoothKink(nn.Module):
    """A leaky ReLU, rounded over ``width`` on either side of its kink."""

    def __init__(self, slope: float, width: float):
        super().__init__()
        self.slope, self.width = slope, width

    def forward(self, x: Tensor) -> Tensor:
        """The values at ``x (n, ...)``."""
        rounded = nn.functional.softplus(x, beta=1 / self.width, threshold=40.0)
        return self.slope * x + (1 - self.slope) * rounded

    def push_forward(self, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        """Those and their derivatives along ``tangents (k, n, ...)``."""
        return self(x), (self.slope + (1 - self.slope) * torch.sigmoid(x / self.width)) * tangents

    def push_forward_twice(self, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor, Pull]:
        """``push_forward``, and what takes a cotangent to that at x and to the blocks of the second derivatives."""
        share = torch.sigmoid(x / self.width)
        slope = self.slope + (1 - self.slope) * share
        second = (1 - self.slope) / self.width * share * (1 - share)
        return self(x), slope * tangents, _elementwise_pull(tangents, slope, second)


# Exact types, since a subclass may do anything. In evaluation mode all of the first kind are affine maps.
_AFFINE = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.Flatten, nn.Unflatten, nn.Identity),
)
_SMOOTH = (nn.Tanh, nn.Sigmoid, nn.Softplus, nn.SiLU, nn.GELU, nn.Mish)
_ELEMENTWISE = (*_SMOOTH, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU)
# Slopes that follow from the value. Forward mode has a fixed cost of 80 us a layer.
_SLOPES = {nn.Tanh: lambda value: 1 - value.square(), nn.Sigmoid: lambda value: value * (1 - value)}
_SECONDS = {
    nn.Tanh: lambda value, slope: -2 * value * slope,
    nn.Sigmoid: lambda value, slope: slope * (1 - 2 * value),
}


class _Differentiated(nn.Module):
    """A map that brings a way of its own to find its derivatives along tangents."""

    def __init__(self, function: Map):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """The values at ``x (n, ...)``."""
        return self.function(x)


class ReverseMode(_Differentiated):
    """A map for which torch's forward mode has no rule: its derivatives along tangents from reverse mode, one pass for
    all and another for each tangent."""

    def push_forward(self, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        """Those and their derivatives along ``tangents (k, n, ...)``."""
        recording = torch.is_grad_enabled() and (x.requires_grad or tangents.requires_grad)
        with torch.enable_grad():
            at = x if x.requires_grad else x.detach().requires_grad_()
            value = self.function(at.clone())  # the function may work in place
            # a forward derivative from two reverse ones: what multiplies the cotangent is linear in it
            cotangent = torch.zeros_like(value).requires_grad_()
            (slope,) = torch.autograd.grad(value, at, cotangent, create_graph=True)
            rows = [
                torch.autograd.grad(slope, cotangent, t, create_graph=recording, retain_graph=True)[0] for t in tangents
            ]
        if not recording:
            value = value.detach()
        return value, torch.stack(rows)


class RecordedInReverse(_Differentiated):
    """A map whose derivatives torch finds in forward mode, but cannot differentiate, or wrongly: that is done by
    differentiating twice in reverse mode."""

    def push_forward(self, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        """Those and their derivatives along ``tangents (k, n, ...)``."""
        return _RecordedInReverse.apply(self.function, x, tangents)

    def push_forward_twice(self, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor, Pull]:
        """Those, and what takes a cotangent to that at x and to the blocks of the second derivatives."""
        return push_forward_twice(self.function, x, tangents)


class _RecordedInReverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, function: Map, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        ctx.function = function
        ctx.save_for_backward(x, tangents)
        return push_forward(function, x, tangents)

    @staticmethod
    def backward(ctx, to_value: Tensor, to_derivatives: Tensor) -> tuple[None, Tensor, Tensor]:
        x, tangents = ctx.saved_tensors
        recording = torch.is_grad_enabled()  # what this returns is linear in the cotangents, and that is differentiated
        with torch.enable_grad():
            at = x if x.requires_grad else x.detach().requires_grad_()
            value = ctx.function(at.clone())  # the function may work in place
            total = torch.autograd.grad(value, at, to_value, create_graph=recording, retain_graph=True)[0]
            slopes = []
            for tangent, cotangent in zip(tangents, to_derivatives, strict=True):
                (slope,) = torch.autograd.grad(value, at, cotangent, create_graph=True)
                (bent,) = torch.autograd.grad((slope * tangent).sum(), at, create_graph=recording, retain_graph=True)
                slopes.append(slope if recording else slope.detach())
                total = total + bent
        return None, total, torch.stack(slopes)


# Whose derivative in forward mode torch 2.13 cannot differentiate, or gives a wrong one: of a layer norm it takes the
# mean and the deviation for constants.
_FINAL = ("NativeLayerNormBackward", "LinalgSolveExBackward", "GluBackward")


def forward_mode_is_final(recorded: Tensor) -> bool:
    """Whether forward mode cannot be differentiated for a step of what autograd recorded."""
    seen, found = set(), [recorded.grad_fn]
    while found:
        node = found.pop()
        if node is None or node in seen:
            continue
        if node.name().startswith(_FINAL):
            return True
        seen.add(node)
        found += [following for following, _ in node.next_functions]
    return False


def push_forward(function: Map, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
    """``function(x)`` and its derivatives along ``tangents``.

    Layers of an ``nn.Sequential`` are taken one by one: an affine layer maps tangents as it maps points, but for its
    bias, and an elementwise one scales them. A module may bring its own rule, a method ``push_forward(x, tangents)``.
    Everything else goes through torch's forward mode, which takes half as long again for a linear layer, as it
    multiplies by tangents of the weights that are zero.

    Args:
        function: any torch callable.
        x: ``(n, ...)``.
        tangents: ``(k, n, ...)``.

    Returns:
        values ``(n, ...)`` and derivatives ``(k, n, ...)``, differentiable themselves.
    """
    if isinstance(function, nn.Module) and not (function._forward_hooks or function._forward_pre_hooks):
        kind = type(function)
        if kind is nn.Sequential:
            for layer in function:
                x, tangents = push_forward(layer, x, tangents)
            return x, tangents
        if kind is nn.Linear:
            return function(x), tangents @ function.weight.mT
        if kind in _AFFINE and not function.training:
            moved = function(tangents.flatten(0, 1)) - function(torch.zeros_like(x[:1]))
            return function(x), moved.unflatten(0, tangents.shape[:2])
        if kind in _ELEMENTWISE and not getattr(function, "inplace", False):
            value, slope = _value_and_slope(function, x)
            return value, slope * tangents
        if hasattr(function, "push_forward"):
            return function.push_forward(x, tangents)
    _load_forward_rules()
    # a vmapped batch of tangents, so that the value is computed once for all of them; a fixed map may draw its weights
    value, derivatives = vmap(lambda tangent: jvp(function, (x,), (tangent,)), randomness="same")(tangents)
    return value[0], derivatives


def push_forward_twice(function: Map, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor, Pull]:
    r"""``push_forward``, and the second derivatives along the same tangents, each contracted with a cotangent.

    A chain of layers needs one reverse pass for the contraction, as the second derivatives of an elementwise layer
    are diagonal: with the tangents :math:`T_a` before it and the cotangent u behind it, its share is
    :math:`\sum u \, \varphi'' T_a T_b`. A module may bring its own rule, a method ``push_forward_twice(x, tangents)``.
    Any other callable takes one reverse pass per tangent.

    Args:
        function: any torch callable that reverse mode can differentiate twice.
        x: ``(n, ...)``.
        tangents: ``(k, n, ...)``.

    Returns:
        values ``(n, ...)``, derivatives ``(k, n, ...)``, and what takes a cotangent ``(n, ...)`` to the cotangent at x
        and the blocks ``(n, k, k)``. Values are not differentiable.
    """
    if isinstance(function, nn.Module) and not (function._forward_hooks or function._forward_pre_hooks):
        kind = type(function)
        if kind is nn.Sequential:
            pulls = []
            for layer in function:
                x, tangents, pull = push_forward_twice(layer, x, tangents)
                pulls.append(pull)
            return x, tangents, functools.partial(pull_through, pulls)
        if kind is nn.Linear:
            return *push_forward(function, x, tangents), lambda cotangent: (cotangent @ function.weight, None)
        if kind in _ELEMENTWISE and not getattr(function, "inplace", False):
            value, slope, second = _value_slope_and_second(function, x)
            return value, slope * tangents, _elementwise_pull(tangents, slope, second)
        if kind in _AFFINE and not function.training:
            return *push_forward(function, x, tangents), lambda cotangent: (_pulled_back(function, x, cotangent), None)
        if hasattr(function, "push_forward_twice"):
            return function.push_forward_twice(x, tangents)
    kept = x.detach().clone()  # the function may work in place
    return *push_forward(function, x, tangents), functools.partial(_pull_through_any, function, kept, tangents)


def _elementwise_pull(tangents: Tensor, slope: Tensor, second: Tensor) -> Pull:
    def pull(cotangent: Tensor) -> tuple[Tensor, Tensor | None]:
        weighted = (cotangent * second * tangents).flatten(2).transpose(0, 1)
        return cotangent * slope, weighted @ tangents.flatten(2).permute(1, 2, 0)

    return pull


def pull_through(pulls: list[Pull], cotangent: Tensor) -> tuple[Tensor, Tensor | None]:
    """The pulls of maps that follow one another, as one."""
    total = None
    for pull in reversed(pulls):
        cotangent, blocks = pull(cotangent)
        if blocks is not None:
            total = blocks if total is None else total + blocks
    return cotangent, total


def _pulled_back(function: Map, x: Tensor, cotangent: Tensor) -> Tensor:
    with torch.enable_grad():
        at = x.detach().requires_grad_()
        return torch.autograd.grad(function(at), at, cotangent)[0]


def _pull_through_any(function: Map, x: Tensor, tangents: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor | None]:
    with torch.enable_grad():
        at = x.requires_grad_()
        (slope,) = torch.autograd.grad(function(at.clone()), at, cotangent, create_graph=True)
        if not slope.requires_grad:
            return slope, None
        rows = [torch.autograd.grad(slope, at, t, retain_graph=True, allow_unused=True)[0] for t in tangents]
    if rows[0] is None:
        return slope.detach(), None
    blocks = torch.stack(rows).flatten(2).transpose(0, 1) @ tangents.flatten(2).permute(1, 2, 0)
    return slope.detach(), (blocks + blocks.mT) / 2


def _value_slope_and_second(function: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if type(function) in _SECONDS:
        value, slope = _value_and_slope(function, x)
        return value, slope, _SECONDS[type(function)](value, slope)
    with torch.enable_grad():  # in reverse mode: not every layer's forward derivative has one itself
        at = x.detach().requires_grad_()
        value = function(at)
        (slope,) = torch.autograd.grad(value.sum(), at, create_graph=True)
        second = torch.autograd.grad(slope.sum(), at, allow_unused=True)[0] if slope.requires_grad else None
    return value.detach(), slope.detach(), torch.zeros_like(x) if second is None else second


def _value_and_slope(function: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    if type(function) in _SLOPES:
        value = function(x)
        return value, _SLOPES[type(function)](value)
    _load_forward_rules()
    return jvp(function, (x,), (torch.ones_like(x),))


@functools.cache
def _load_forward_rules() -> None:
    """Let torch load its rules, which it compiles with what it warns of itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        jvp(torch.sin, (torch.zeros(1),), (torch.ones(1),))
