"""Right decoders of any width, depth, scale, dtype and kind, drawn at random."""

import itertools
import math

import numpy as np
import torch
from torch import nn

ACTIVATIONS = {
    **{
        name: getattr(nn, name)()
        for name in ("ReLU", "LeakyReLU", "Hardtanh", "Hardswish", "Softshrink", "ELU", "SELU")
    },
    **{name: getattr(nn, name)() for name in ("SiLU", "GELU", "Mish", "Tanh", "Sigmoid", "Softplus", "LogSigmoid")},
    "sin": torch.sin,
    "square": torch.square,
    "cube": lambda x: x**3,
    "softmax": lambda x: x.softmax(-1),
    "layer norm": lambda x: nn.functional.layer_norm(x, x.shape[-1:]),
    "sorted": lambda x: x.sort(-1)[0],
}
OUTPUTS = {
    "linear": lambda x: x,
    "sigmoid": torch.sigmoid,
    "softmax": lambda x: x.softmax(-1),
    "log softmax": lambda x: x.log_softmax(-1),
    "exp": lambda x: (-x.abs()).exp(),
    "normalised": lambda x: x / x.norm(dim=-1, keepdim=True).clamp_min(1e-12),
    "clamped": lambda x: x.clamp(0, 1),
    "bfloat16 inside": lambda x: x.bfloat16().to(x.dtype),
    "float16 inside": lambda x: x.half().to(x.dtype),
    "float32 inside": lambda x: x.float().to(x.dtype),
    "deviation": lambda x: (x.square() + 1e-6).sqrt(),
    "precision": lambda x: (x.square() + 1e-9).rsqrt(),
    "Fisher": lambda x: 2 * torch.atan(torch.tanh(x / 4)),
}


def random_decoder(seed):
    """A right decoder, a point ``(1, d)``, and what they are: any width, depth, scale, dtype and distance."""
    g, drawn = np.random.default_rng(seed), torch.Generator().manual_seed(seed)

    def between(low, high):
        return 10.0 ** g.uniform(math.log10(low), math.log10(high))

    dtype = (torch.float32, torch.float64)[g.integers(2)]
    d, D, width = (round(between(1, most)) for most in (64, 5000, 400))

    def normal(*shape):
        return torch.randn(*shape, generator=drawn, dtype=torch.float64).to(dtype)

    z = normal(1, d) * between(1e-3, 1e3) + g.choice([0.0, between(1e-2, 1e4)])
    weight, bias = between(1e-3, 1e3) ** g.integers(2), between(1e-3, 1e3)
    kind = g.choice(["layers", "residual", "autocast", "variance", "kernel", "waves"])
    activation, output = (str(g.choice(list(names))) for names in (ACTIVATIONS, OUTPUTS))
    if kind in ("layers", "residual", "autocast"):
        sizes = [d, *[width] * g.integers(6), D]
        layers = [(normal(a, b) * weight / math.sqrt(a), normal(b) * bias) for a, b in itertools.pairwise(sizes)]

        def inner(x):
            for W, b in layers[:-1]:
                y = ACTIVATIONS[activation](x @ W + b)
                x = x + y if kind == "residual" and x.shape == y.shape else y
            return x @ layers[-1][0] + layers[-1][1]
    elif kind == "waves":
        W, V = normal(d, width) * between(1e-2, 1e4), normal(2 * width, D) * weight / width

        def inner(x):
            return torch.cat([(x @ W).sin(), (x @ W).cos()], dim=-1) @ V
    else:
        centres, V = normal(width, d) * between(1e-2, 1e2), normal(width, D).abs() * weight
        narrow, floor = between(1e-4, 1e4), between(1e-12, 1)
        z = g.choice([0, 1]) * z + centres[:1]

        def inner(x):
            square = (x[:, None] - centres).square().sum(-1)
            if kind == "kernel":
                return (-narrow * (square + 1e-12).sqrt()).exp() @ V
            return ((-narrow * square).exp() @ V + floor).rsqrt()

    scale = 1.0 if "inside" in output or kind == "autocast" else between(1e-20, 1e20) ** g.integers(2)
    offset = scale * between(1e-3, 1e6) * g.integers(2)

    def decoder(x):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=kind == "autocast"):
            return offset + scale * OUTPUTS[output](inner(x).to(x.dtype))

    what = f"{seed}: {kind}, {activation}, {output}, {dtype}, d={d}, D={D}, weights {weight:.2g}"
    return decoder, z, what
