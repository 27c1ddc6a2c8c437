"""Values and derivatives along tangent vectors of a callable, by the cheapest rule that holds for it."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import jvp, vmap

Map = Callable[[Tensor], Tensor]

# Exact types, since a subclass may do anything. In evaluation mode all of the first kind are affine maps.
_AFFINE = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.Flatten, nn.Unflatten, nn.Identity),
)
_ELEMENTWISE = (
    *(nn.Tanh, nn.Sigmoid, nn.Softplus, nn.SiLU, nn.GELU, nn.Mish),
    *(nn.ReLU, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU),
)
# Slopes that follow from the value. Forward mode has a fixed cost of 80 us a layer.
_SLOPES = {nn.Tanh: lambda value: 1 - value.square(), nn.Sigmoid: lambda value: value * (1 - value)}


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
    # a vmapped batch of tangents, so that the value is computed once for all of them
    value, derivatives = vmap(lambda tangent: jvp(function, (x,), (tangent,)))(tangents)
    return value[0], derivatives


def _value_and_slope(function: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    if type(function) in _SLOPES:
        value = function(x)
        return value, _SLOPES[type(function)](value)
    return jvp(function, (x,), (torch.ones_like(x),))
