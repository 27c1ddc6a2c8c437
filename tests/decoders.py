"""A gallery of decoders of two latents, a line each, with what is expected of geolib for them."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from problems import seeded
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from geolib import Status

Map = Callable[[Tensor], Tensor]
Layer = Callable[[int], nn.Module]
Build = Callable[[int, torch.dtype], Map]


@dataclass(frozen=True)
class Decoder:
    """A decoder, and what becomes of it."""

    build: Build
    """width, dtype -> the decoder in eval mode; its weights are the same for every dtype, but for rounding"""
    warns: str = ""
    """a part of the warning that its first use gives"""
    warns_in: tuple[torch.dtype, ...] = (torch.float32, torch.float64)
    refused: str = ""
    """a pattern of the sentence that refuses it"""
    statuses: tuple[Status, ...] = (Status.CONVERGED,)
    """what may become of its geodesics; the first becomes of one at least"""
    half: torch.dtype | None = None
    """what it computes in inside, for points in float32"""


# Layers


class Applied(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Map):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Fourier(nn.Module):
    """Sines and cosines of random projections."""

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("frequencies", torch.randn(2, width))

    def forward(self, z: Tensor) -> Tensor:
        phase = z @ self.frequencies
        return torch.cat([phase.sin(), phase.cos()], dim=-1)


class Coupling(nn.Module):
    """A step of a normalising flow of four dimensions: two are scaled and shifted by the other two, and change place
    with them."""

    def __init__(self, width: int):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 4))

    def forward(self, x: Tensor) -> Tensor:
        kept, moved = x.chunk(2, dim=-1)
        scale, shift = self.net(kept).chunk(2, dim=-1)
        return torch.cat([moved * scale.tanh().exp() + shift, kept], dim=-1)


class Tokens(nn.Module):
    """Four tokens ``(n, 4, width)`` per point."""

    def __init__(self, width: int):
        super().__init__()
        self.embed, self.place = nn.Linear(2, 4 * width), nn.Parameter(torch.randn(4, width))

    def forward(self, z: Tensor) -> Tensor:
        return self.embed(z).unflatten(-1, (4, -1)) + self.place


class Attention(nn.Module):
    """Attention of tokens to each other."""

    def __init__(self, width: int):
        super().__init__()
        self.inner = nn.MultiheadAttention(width, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x)[0]


class Recurrent(nn.Module):
    """The last of four states of a recurrent net, whose input is the point at every step."""

    def __init__(self, kind: type[nn.Module], width: int):
        super().__init__()
        self.inner = kind(2, width, batch_first=True)

    def forward(self, z: Tensor) -> Tensor:
        return self.inner(z[:, None].repeat(1, 4, 1))[0][:, -1]


class FixedPoint(torch.autograd.Function):
    """The solution y of ``y = tanh(x + W y)``, differentiated by the implicit function theorem."""

    @staticmethod
    def forward(ctx, x: Tensor, W: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        for _ in range(60):
            y = (x + y @ W.mT).tanh()
        ctx.save_for_backward(y, W)
        return y

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> tuple[Tensor, None]:
        y, W = ctx.saved_tensors
        slope = 1 - y.square()
        system = torch.eye(len(W)).to(W) - slope[:, :, None] * W
        return slope * torch.linalg.solve(system.mT, cotangent), None


class Implicit(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("weights", 0.3 * torch.randn(width, width) / math.sqrt(width))

    def forward(self, x: Tensor) -> Tensor:
        return FixedPoint.apply(x, self.weights)


class Swish(torch.autograd.Function):
    """x sigmoid(x), with a backward pass alone."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        share = x.sigmoid()
        return cotangent * share * (1 + x * (1 - share))


class Solution(nn.Module):
    """The solution of a linear system that depends on the point."""

    def __init__(self, width: int):
        super().__init__()
        self.matrix, self.right = nn.Linear(2, 16), nn.Linear(2, 4)

    def forward(self, z: Tensor) -> Tensor:
        matrix = self.matrix(z).tanh().unflatten(-1, (4, 4)) + 4 * torch.eye(4).to(z)
        return torch.linalg.solve(matrix, self.right(z))


class Kernel(nn.Module):
    """Radial basis functions of squared distances to centres."""

    def __init__(self, width: int, square: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.square = square
        self.register_buffer("centres", torch.randn(width, 2))

    def forward(self, z: Tensor) -> Tensor:
        return (-0.5 * self.square(z, self.centres)).exp()


def bent(width: int) -> nn.Module:
    """A first layer with weights so large that straight lines are no geodesics."""
    layer = nn.Linear(2, width)
    nn.init.normal_(layer.weight, std=1.2)
    return layer


def inner(width: int) -> nn.Module:
    return nn.Linear(width, width)


def last(width: int) -> nn.Module:
    return nn.Linear(width, 4 * width)


def flat(_: int) -> nn.Module:
    return nn.Flatten()


def encoder(width: int) -> nn.Module:
    return nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True)


def trained_batch_norm(width: int) -> nn.Module:
    """With statistics that are not the identity's."""
    norm = nn.BatchNorm2d(width)
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    return norm


# Decoders of layers, and what may be done to a decoder


def chain(*layers: Layer) -> Build:
    """Layers one after the other, each made from the width."""
    return lambda width, dtype: seeded(lambda: nn.Sequential(*(layer(width) for layer in layers)), 0, dtype)


def mlp(activation: type[nn.Module]) -> Build:
    return chain(bent, lambda _: activation(), inner, lambda _: activation(), last)


def images(norm: Layer) -> Build:
    """Of 8 by 8 pixels, by a transposed convolution."""
    return chain(
        lambda width: nn.Linear(2, 16 * width),
        lambda width: nn.Unflatten(1, (width, 4, 4)),
        norm,
        lambda _: nn.SiLU(),
        lambda width: nn.ConvTranspose2d(width, 1, 4, stride=2, padding=1),
        lambda _: nn.Sigmoid(),
        flat,
    )


def changed(build: Build, change: Callable[[nn.Module], Map]) -> Build:
    return lambda width, dtype: change(build(width, dtype))


def points_like(net: nn.Module) -> Tensor:
    return torch.zeros(3, 2, dtype=next(net.parameters()).dtype)


def scripted(net: nn.Module) -> Map:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch advises against it
        return torch.jit.script(net)


def traced(net: nn.Module) -> Map:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(net, points_like(net))


def compiled(net: nn.Module) -> Map:
    """To machine code, once for any number of points."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch's compiler warns of itself when it is loaded
        found = torch.compile(net, dynamic=True)
        found(points_like(net))
    return found


def by_formula(net: nn.Module) -> Map:
    """With attention by its formula, which torch can differentiate twice."""

    def decode(z: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return net(z)

    return decode


def under_autocast(net: nn.Module) -> Map:
    def decode(z: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=z.dtype == torch.float32):
            return net(z).to(z.dtype)

    return decode


def in_half(net: nn.Module) -> Map:
    """All in float16, but for points in float64."""
    if next(net.parameters()).dtype == torch.float64:
        return net
    net = net.half()
    return lambda z: net(z.half()).to(z.dtype)


@dataclass
class Output:
    """What some libraries' models return instead of a tensor."""

    sample: Tensor


def with_output(net: nn.Module) -> Map:
    def model(z: Tensor) -> Output:
        return Output(sample=net(z))

    return lambda z: model(z).sample


def with_frozen_stage(net: nn.Sequential) -> Map:
    net[:3].requires_grad_(False)
    return net


REVERSE = "mean: torch's forward mode has no rule"
SLOW = "There is a performance drop"  # torch's own
KINKED = (Status.CONVERGED, Status.NOT_GEODESIC)
ROUNDED = (Status.UNRESOLVED, Status.CONVERGED)  # a precision of 0.4 % is too little for a certificate

GALLERY = {
    "tanh": Decoder(mlp(nn.Tanh)),
    "ReLU": Decoder(mlp(nn.ReLU), statuses=KINKED),
    "leaky ReLU": Decoder(mlp(nn.LeakyReLU), statuses=KINKED),
    "ELU": Decoder(mlp(nn.ELU)),
    "SELU": Decoder(mlp(nn.SELU), statuses=KINKED),
    "GELU": Decoder(mlp(nn.GELU)),
    "SiLU": Decoder(mlp(nn.SiLU)),
    "Mish": Decoder(mlp(nn.Mish)),
    "softplus": Decoder(mlp(nn.Softplus)),
    "sigmoid": Decoder(mlp(nn.Sigmoid)),
    "GLU": Decoder(chain(lambda width: nn.Linear(2, 2 * width), lambda _: nn.GLU(), last), warns=SLOW),
    "layer norm": Decoder(chain(bent, nn.LayerNorm, lambda _: nn.Tanh(), last)),
    "residual": Decoder(chain(bent, Residual, Residual, last)),
    "convolution, batch norm": Decoder(images(trained_batch_norm)),
    "convolution, group norm": Decoder(images(lambda width: nn.GroupNorm(2, width))),
    "Fourier features": Decoder(chain(Fourier, lambda width: nn.Linear(2 * width, 4 * width))),
    "normalising flow": Decoder(chain(lambda _: nn.ZeroPad1d((0, 2)), Coupling, Coupling, Coupling)),
    "radial basis functions": Decoder(
        chain(lambda width: Kernel(width, lambda a, b: (a[:, None] - b).square().sum(-1)), last)
    ),
    "the same by cdist": Decoder(
        chain(lambda width: Kernel(width, lambda a, b: torch.cdist(a, b).square()), last),
        refused=r"cdist.*; write \(a\[:, None\] - b\)\.square\(\)\.sum\(-1\)",
    ),
    "linalg.solve": Decoder(chain(Solution, lambda width: nn.Linear(4, 4 * width))),
    "multi-head attention": Decoder(chain(Tokens, Attention, flat), warns=REVERSE),
    "transformer encoder": Decoder(
        chain(Tokens, encoder, flat), refused=r"call it under .*sdpa_kernel\(SDPBackend\.MATH\)"
    ),
    "transformer encoder under MATH": Decoder(changed(chain(Tokens, encoder, flat), by_formula), warns=REVERSE),
    "GRU": Decoder(chain(lambda width: Recurrent(nn.GRU, width), last)),
    # in float32 torch takes another implementation of it
    "LSTM": Decoder(chain(lambda width: Recurrent(nn.LSTM, width), last), warns=REVERSE, warns_in=(torch.float32,)),
    "implicit layer": Decoder(chain(bent, Implicit, last), warns=REVERSE),
    "Function without forward rule": Decoder(chain(bent, lambda _: Applied(Swish.apply), last), warns=REVERSE),
    "scripted": Decoder(changed(mlp(nn.Tanh), scripted)),
    "traced": Decoder(changed(mlp(nn.Tanh), traced)),
    "compiled": Decoder(changed(mlp(nn.Tanh), compiled)),
    "compiled, no machine code": Decoder(changed(mlp(nn.Tanh), lambda net: torch.compile(net, backend="eager"))),
    "output object": Decoder(changed(mlp(nn.Tanh), with_output)),
    "frozen stage": Decoder(changed(mlp(nn.Tanh), with_frozen_stage)),
    "bfloat16 inside": Decoder(changed(mlp(nn.Tanh), under_autocast), statuses=ROUNDED, half=torch.bfloat16),
    "float16 inside": Decoder(changed(mlp(nn.Tanh), in_half), half=torch.float16),
}
