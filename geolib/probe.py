"""What a callable must be to serve as a generator: tried once, before work is spent on it."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from geolib import checks

Map = Callable[[Tensor], Tensor]

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
    if not isinstance(out, Tensor):
        raise ValueError(f"{name}: returned {type(out).__name__}, expected a tensor (n, D)")
    if out.ndim != 2 or out.shape[0] != z.shape[0]:
        raise ValueError(
            f"{name}: returned shape {tuple(out.shape)} for {z.shape[0]} points, expected ({z.shape[0]}, D); "
            f"flatten images and keep the batch size"
        )
    return out


@torch.no_grad()
def try_map(name: str, function: Map, z: Tensor) -> Tensor:
    """``function(z)`` for one point ``z (1, d)``, after trying what would go wrong later.

    Raises:
        ValueError: where it fails, is not finite at z, is random, mixes the rows of a batch, or does not depend on z.
        TypeError: where it returns another dtype or device.
    """
    kind = f"points of shape {tuple(z.shape)}, {z.dtype}, {z.device}"
    two = torch.cat([z, z + 1e-2 * (1 + z.abs())])  # equal points would hide a map that mixes its rows
    try:
        function(z)
        with torch.enable_grad():
            recorded = function(two.clone().requires_grad_())
        with torch.autograd.forward_ad.dual_level():
            dual = function(torch.autograd.forward_ad.make_dual(two, torch.ones_like(two)))
            tangent = torch.autograd.forward_ad.unpack_dual(dual).tangent if isinstance(dual, Tensor) else None
    except (RuntimeError, IndexError, ValueError) as error:
        raise ValueError(f"{name}: failed on {kind}: {error}") from error
    both, again, alone = call(name, function, two), call(name, function, two), call(name, function, z)
    value = both[:1]
    if value.dtype != z.dtype or value.device != z.device:
        raise TypeError(f"{name}: returned {value.dtype} on {value.device} for {kind}; expected the same kind")
    # only z is the caller's: the point beside it may be off the map's domain
    checks.finite(name, alone, at=z)
    if not torch.equal(both.nan_to_num(), again.nan_to_num()):
        raise ValueError(f"{name}: two calls with the same z differ; a fixed map is expected (dropout? sampling?)")
    tolerance = 1e3 * torch.finfo(z.dtype).eps
    if not torch.allclose(value, alone, rtol=tolerance, atol=tolerance * float(alone.abs().max())):
        raise ValueError(f"{name}: a point's value depends on the rest of its batch; independent rows are expected")
    if tangent is None or not recorded.requires_grad:
        raise ValueError(f"{name}: does not depend on z as far as torch sees; is it detached, or under no_grad?")
    return alone
