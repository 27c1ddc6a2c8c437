"""How property tests draw: settings for ``make test`` and ``make soak``, and tensors as people bring them."""

import math

import hypothesis
import hypothesis.strategies as st
import torch
from hypothesis import HealthCheck, Phase
from project import SOAK

# The same examples in every ``make test``, as one that fails now and then helps nobody; new ones in ``make soak``.
hypothesis.settings.register_profile(
    "geolib",
    max_examples=2000 if SOAK else 15,
    derandomize=not SOAK,
    database=None,
    phases=(Phase.generate, Phase.shrink),
    deadline=None,  # the machine may be busy; what matters is counted in seconds of CPU
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("geolib")


def mostly(usual: list, seldom: list) -> st.SearchStrategy:
    """One of what is usual; once in fifteen times one of what is not, which stands in the middle, as hypothesis likes
    the ends. A call takes many arguments, and would mostly be refused for one of them."""
    usual = usual * math.ceil(7 * len(seldom) / len(usual))
    return st.sampled_from([*usual, *seldom, *usual])


FLOATS = [torch.float32, torch.float64]
DTYPES = mostly(FLOATS, [torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64])
SCALES = st.sampled_from([1.0] * 6 + [1e-20, 1e-10, 1e-6, 1e-3, 1e3, 1e6, 1e10, 1e20] + [1.0] * 6)
BATCHES = mostly([(3,), (), (1,), (2, 1)], [(0,), (1, 0)])
FLAWS = mostly([None, None], [math.nan, math.inf, -math.inf])
LAYOUTS = st.sampled_from(["contiguous"] * 3 + ["strided", "transposed", "expanded", "asks for a gradient"])
# what a broken file may hold in the place of something else
WORDS = st.sampled_from(
    [b"nan", b"1e999", b"-1", b"9" * 5000, b"null", b"[" * 2000, b"{}", b"\n", b",", b"&a [*a]", b"\xff"]
)


@st.composite
def tensors(draw: st.DrawFn, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> torch.Tensor:
    """A tensor of this shape: normal numbers times a scale, beside the origin or far from it, mostly finite."""
    dtype = draw(DTYPES) if dtype is None else dtype
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    scale, offset = draw(SCALES), draw(mostly([0.0], [1.0, 1e4]))
    x = scale * torch.randn(shape, generator=generator, dtype=torch.float64) + offset
    if (flaw := draw(FLAWS)) is not None and x.numel():
        x.view(-1)[draw(st.integers(0, x.numel() - 1))] = flaw
    return laid_out(x.to(dtype), draw(LAYOUTS))


def laid_out(x: torch.Tensor, layout: str) -> torch.Tensor:
    """The same numbers at other places in memory (``expanded``: the first row for all)."""
    if layout == "strided" and x.ndim:
        return torch.stack([x, torch.zeros_like(x)], dim=-1).flatten(-2)[..., ::2]
    if layout == "transposed" and x.ndim > 1:
        return x.mT.contiguous().mT
    if layout == "expanded" and x.ndim > 1 and len(x):
        return x[:1].expand(x.shape)
    if layout == "asks for a gradient" and x.is_floating_point():
        return x.requires_grad_()
    return x


@st.composite
def spoilt(draw: st.DrawFn, contents: bytes) -> bytes:
    """A file with one thing wrong, or several: cut short, bits flipped, something put in or left out."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(contents) - 1)))
        way = draw(st.sampled_from(["flipped", "put in", "left out", "cut", "repeated"]))
        if way == "flipped":
            bits = 1 << draw(st.integers(0, 7))
            contents = contents[:at] + bytes(byte ^ bits for byte in contents[at : at + 1]) + contents[at + 1 :]
        elif way == "put in":
            contents = contents[:at] + draw(st.binary(min_size=1, max_size=9) | WORDS) + contents[at:]
        elif way == "left out":
            contents = contents[:at] + contents[at + draw(st.integers(1, 20)) :]
        elif way == "cut":
            contents = contents[:at]
        else:
            contents = contents[:at] + contents[at : at + 20] * draw(st.integers(2, 500)) + contents[at:]
    return contents
