"""What is tried before work is spent: gradients, rows, symmetry and definiteness, and no false alarms."""

import math
import os
import warnings

import numpy as np
import pytest
import torch
import torch.utils.checkpoint
from problems import SPACES, half_plane, mlp, seeded, wall_metric
from random_decoders import random_decoder
from torch import nn

from geolib import METHODS, PullbackMetric, expmap, geodesic, geodesic_index, geodesic_residual, logmap, tabulate
from geolib.trials.maps import try_map
from geolib.trials.tensors import try_tensors

pytestmark = pytest.mark.smoke

N_RANDOM_DECODERS = 100_000 if os.environ.get("GEOLIB_SOAK") == "1" else 150
DTYPE = torch.float64
A, B = torch.tensor([[-3.0, 0.5], [3.0, 0.5]], dtype=DTYPE)
plane = half_plane().metric


def tensors_by_numpy(z):
    return torch.from_numpy(np.eye(2) / z.detach().numpy()[..., 1, None, None] ** 2)


def half_detached(z):
    return torch.eye(2, dtype=z.dtype) / (z[..., 1] * z[..., 1].detach())[..., None, None]


NO_GRADIENT = {
    "no_grad": torch.no_grad()(plane),
    "detached": lambda z: plane(z.detach()),
    "half detached": half_detached,
    "numpy": tensors_by_numpy,
    "numpy of what asks for a gradient": lambda z: tensors_by_numpy(z) if not z.requires_grad else z.numpy(),
}


@pytest.mark.parametrize("what", NO_GRADIENT)
def test_a_metric_that_changes_without_a_gradient_is_refused(what):
    """It used to be taken for flat: 12.0 long where 4.98 is true."""
    metric = NO_GRADIENT[what]
    line = torch.lerp(A, B, torch.linspace(0, 1, 9, dtype=DTYPE)[:, None])
    for call in (
        lambda: geodesic(metric, A, B, init="line"),
        lambda: geodesic(metric, A, B),
        lambda: expmap(metric, A, B - A),
        lambda: logmap(metric, A, B),
        lambda: geodesic_residual(metric, line),
        lambda: geodesic_index(metric, line),
    ):
        with pytest.raises(ValueError, match=r"metric: (its value changes .* no_grad|failed on points that ask)"):
            call()


class FrozenStage(nn.Module):
    """Two stages, of which the first passes no gradient in reverse mode."""

    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, z):
        with torch.no_grad():
            hidden = self.first(z)
        return self.second(hidden) + 0.1 * z.sum(-1, keepdim=True)


@pytest.mark.parametrize("method", METHODS)
def test_a_frozen_stage_is_refused(method):
    """Forward mode sees through no_grad, reverse mode does not."""
    metric = PullbackMetric(seeded(lambda: FrozenStage(mlp(2, 5), mlp(5, 7)), 0))
    with pytest.raises(ValueError, match=r"^mean: its gradient in z is not that of its values.*no_grad"):
        geodesic(metric, A, B, method=method, latents=torch.stack([A, B]))
    for call in (expmap, logmap):
        with pytest.raises(ValueError, match=r"^mean: its gradient"):
            call(metric, A, B)


def test_a_stage_whose_parameters_need_no_gradient_is_fine():
    net = seeded(lambda: nn.Sequential(mlp(2, 5).requires_grad_(False), mlp(5, 7)), 0)
    assert torch.isfinite(PullbackMetric(net)(A)).all()


def test_a_map_that_is_all_but_flat_is_fine():
    """Far from the centres of a variance its derivatives are so small that their squares are 0."""
    sizes = torch.linspace(0.3, 1.7, 99, dtype=DTYPE)
    for floor in (0.0, 1.0):
        for away in (14.0, 15.0, 16.0, 17.0, 18.0, 30.0):
            try_map("std", lambda z: floor + sizes * (-(z + away).square().sum(-1, keepdim=True)).exp(), A[None])  # noqa: B023


def test_saturated_probabilities_are_fine():
    """Their derivatives in float32 are rounding errors, and not the same ones in forward and in reverse mode."""
    for seed in range(40):
        drawn = torch.Generator().manual_seed(seed)
        slopes, offsets = torch.randn(2, 4, generator=drawn) * 3, torch.randn(4, generator=drawn) * 12
        try_map("features", lambda z: (z @ slopes + offsets).softmax(-1), torch.randn(1, 2, generator=drawn))  # noqa: B023


def test_a_gradient_of_which_half_is_detached_is_refused():
    net = mlp()
    with pytest.raises(ValueError, match=r"^mean: its gradient in z is not that of its values"):
        PullbackMetric(lambda z: net(z * z.detach()))(A)


def recurrent(d, *, batch_first):
    gru = seeded(lambda: nn.GRU(d, 5, batch_first=batch_first), 0)
    return (lambda z: gru(z[:, None])[0][:, 0]) if batch_first else (lambda z: gru(z)[0])


MIXED = {
    "cumulated": lambda z: torch.cat([z, z.cumsum(0)], dim=-1),
    "cumulated from behind": lambda z: torch.cat([z, z.flip(0).cumsum(0).flip(0)], dim=-1),
    "the batch as a sequence": recurrent(2, batch_first=False),
    "the row before": lambda z: z + torch.cat([torch.zeros_like(z[:1]), z[:-1]]),
    "only where several": lambda z: z + (z[:1] if len(z) > 2 else 0),
}


@pytest.mark.parametrize("what", MIXED)
def test_rows_mixed_at_any_place_are_refused(what):
    with pytest.raises(ValueError, match=r"^mean: a point's value depends on the rest of its batch"):
        PullbackMetric(MIXED[what])(A)


def test_a_recurrent_net_over_each_row_is_fine():
    assert torch.isfinite(PullbackMetric(recurrent(2, batch_first=True))(A)).all()


def scaled(metric, factor):
    return lambda z: metric(z) * factor(z)


WRONG_TENSORS = {
    "indefinite": (
        lambda z: torch.diag_embed(torch.stack([torch.ones_like(z[..., 0]), (3 * z[..., 0]).sin()], dim=-1)),
        r"metric: has a negative eigenvalue at 1 of 3 points, -0\.412 first at z = \[-3, 0\.5\]",
    ),
    "negative": (lambda z: -plane(z), "metric: has a negative eigenvalue at 3 of 3"),
    "not symmetric": (
        lambda z: plane(z) + torch.tensor([[0, 0.3], [0, 0]], dtype=z.dtype),
        "metric: not symmetric at 3 of 3 points",
    ),
    "noisy": (
        scaled(plane, lambda z: 1 + 0.01 * torch.randn(z.shape[:-1], dtype=z.dtype)[..., None, None]),
        "metric: two calls with the same z differ",
    ),
    "mixed by the mean": (
        scaled(plane, lambda z: 1 + z.square().mean()),
        "metric: a point's value depends on the rest of its batch",
    ),
    "mixed causally": (
        scaled(plane, lambda z: 1 + z.cumsum(0).square()[..., :1, None]),
        "metric: a point's value depends on the rest of its batch",
    ),
    "infinite at the end": (
        scaled(plane, lambda z: torch.where(z[..., 0] > 2, torch.inf, 1.0)[..., None, None]),
        r"metric: not finite at 1 of 2 points, first at z = \[3, 0\.5\]",
    ),
}


@pytest.mark.parametrize("what", WRONG_TENSORS)
def test_what_is_no_metric_is_refused(what):
    metric, sentence = WRONG_TENSORS[what]
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=sentence):
        geodesic(metric, A, B)


# No false alarms

ACTIVATIONS = (
    *(nn.ReLU, nn.LeakyReLU, nn.ReLU6, nn.PReLU, nn.Hardtanh, nn.Hardswish, nn.Softshrink),
    *(nn.ELU, nn.SiLU, nn.GELU, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Softsign),
)


@pytest.mark.parametrize("dtype", [torch.float32, DTYPE])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_kinks_saturation_and_rounding_raise_no_alarm(activation, dtype):
    for seed in range(4):
        for bias in (True, False):
            for d, width, n_outputs in ((2, 16, 3), (10, 128, 300)):
                net = seeded(
                    lambda d=d, width=width, n_outputs=n_outputs, bias=bias: nn.Sequential(
                        nn.Linear(d, width, bias=bias),
                        activation(),
                        nn.Linear(width, width, bias=bias),
                        activation(),
                        nn.Linear(width, n_outputs, bias=bias),
                    ),
                    seed,
                    dtype,
                ).requires_grad_(False)
                for parameter in net.parameters():
                    parameter.mul_(4.0**seed)
                # at the origin all kinks of a net without biases meet
                for z in (torch.zeros(1, d, dtype=dtype), torch.linspace(-2, 2, d, dtype=dtype)[None]):
                    assert torch.equal(try_map("mean", net, z)[0], net(z))


def in_half_precision(z):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return WIDE(z).to(z.dtype)


def waves(frequency, dtype):
    W = frequency * torch.randn(2, 40, generator=torch.Generator().manual_seed(0), dtype=DTYPE).to(dtype)
    return lambda z: torch.cat([(z @ W).sin(), (z @ W).cos()], dim=-1)


WIDE = mlp(2, 300, dtype=torch.float32)
HARMLESS = {
    "half precision inside": in_half_precision,
    "a large offset": lambda z: WIDE(z) + 1e4,
    "tiny": lambda z: WIDE(z) * 1e-20,
    "waves": waves(10.0, torch.float32),
    "waves that no step resolves": waves(1e5, torch.float32),
    "outside of its domain beside the point": lambda z: (z - 0.5 + 1e-4).sqrt(),
}


@pytest.mark.parametrize("what", HARMLESS)
def test_rounding_and_narrow_features_raise_no_alarm(what):
    try_map("mean", HARMLESS[what], torch.full((1, 2), 0.5))


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore:mean. torch's forward mode", "ignore:There is a performance drop")
def test_random_decoders_raise_no_alarm():
    """Of any width, depth, scale and kind. Where values overflow, saying so is right."""
    outcomes = [outcome_of_a_trial(seed) for seed in range(N_RANDOM_DECODERS)]
    assert [what for what in outcomes if what not in ("fine", "overflows")] == []
    assert outcomes.count("fine") > 0.9 * N_RANDOM_DECODERS


def outcome_of_a_trial(seed):
    decoder, z, what = random_decoder(seed)
    try:
        value = try_map("mean", decoder, z)[0]
    except ValueError as error:
        return "overflows" if not torch.isfinite(decoder(z)).all() else f"{what}: {error}"
    assert torch.equal(value, decoder(z)), what
    return "fine"


def test_a_layer_of_a_random_decoder_that_is_detached_is_refused():
    """However the layer is cut off."""
    refused = []
    for seed in range(24):
        g = torch.Generator().manual_seed(seed)
        dtype = (torch.float32, DTYPE)[seed % 2]
        first, last = (torch.randn(*shape, generator=g, dtype=DTYPE).to(dtype) for shape in ((3, 40), (40, 90)))
        cut = CUTS[seed % len(CUTS)]
        try:
            try_map("mean", lambda z: cut((z @ first).tanh()) @ last + 0.3 * z.sum(-1, keepdim=True), first[:, :1].mT)  # noqa: B023
        except ValueError as error:
            assert "its gradient in z is not that of its values" in str(error)
            refused.append(seed)
    assert len(refused) == 24


class Doubled(torch.autograd.Function):
    """The identity, with twice its gradient."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, slope):
        return 2 * slope


CUTS = (
    torch.detach,
    lambda x: 0.7 * x + 0.3 * x.detach(),
    lambda x: torch.from_numpy(x.detach().numpy()),
    Doubled.apply,
)


@pytest.mark.parametrize("where", ["last place", "number of rows"])
def test_rows_that_depend_on_their_place_are_refused(where):
    net = mlp()
    place = {
        "last place": lambda x: x + 0.01 * torch.arange(len(x))[:, None],
        "number of rows": lambda x: x * (1 + 0.01 * len(x)),
    }
    with pytest.raises(ValueError, match=r"^mean: a point's value depends on the rest of its batch"):
        PullbackMetric(lambda z: place[where](net(z)))(A)


def test_a_metric_by_an_inverse_is_as_symmetric_as_rounding_leaves_it():
    scatter = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)) * torch.logspace(0, 2, 5)
    covariance = scatter.mT @ scatter
    z = torch.randn(3, 5)
    inverse = torch.linalg.inv(covariance)
    assert not torch.equal(inverse, inverse.mT)
    try_tensors(lambda z: inverse.expand(*z.shape, 5), z)
    with pytest.raises(ValueError, match=r"not symmetric at 3 of 3 points, by up to 0\.001.*\(M \+ M\.mT\) / 2 helps"):
        try_tensors(lambda z: (torch.eye(5) + 0.001 * torch.ones(5, 5).triu(1)).expand(*z.shape, 5), z)


def test_metrics_of_all_spaces_raise_no_alarm(generator):
    for space in SPACES:
        for dtype in (torch.float32, DTYPE):
            z, _ = space.sample(5, generator, dtype)
            try_tensors(space.metric, z)
    try_tensors(wall_metric(), A[None])
    grid = tabulate(plane, torch.tensor([-4.0, 0.1], dtype=DTYPE), torch.tensor([4.0, 2.0], dtype=DTYPE), resolution=50)
    for z in (A[None], B[None], torch.tensor([[0.0, 1.0]], dtype=DTYPE)):
        try_tensors(grid, z)
    try_tensors(lambda z: torch.diag_embed(torch.ones_like(z)), A[None])  # which does not depend on z


def test_the_trial_is_small():
    """Rows that are evaluated before work begins."""
    seen = []
    net = mlp()

    def counted(z):
        seen.append(len(z))
        return net(z)

    metric = PullbackMetric(counted)
    metric(A)
    n = sum(seen)
    assert n <= 20 + 2
    metric(A)
    assert math.isclose(sum(seen), n + 1)  # once per map


# Without a rule in forward mode


class Sine(torch.autograd.Function):
    """With a backward pass alone, as many implicit layers have."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, slope):
        return slope * ctx.saved_tensors[0].cos()


def sampled_image(z):
    image = torch.linspace(0, 3, 3 * 8 * 8, dtype=z.dtype).sin().reshape(1, 3, 8, 8).expand(len(z), -1, -1, -1)
    image = nn.functional.interpolate(image, scale_factor=4, mode="bicubic")
    return torch.cat([nn.functional.grid_sample(image, z[:, None, None].tanh(), align_corners=False).flatten(1), z], -1)


def branches(z):
    return net_of_five(z) * (1.0 if bool((z < 1e9).all()) else 2.0)


net_of_five = mlp(2, 5)
BACKWARD_ONLY = {
    "autograd.Function": lambda z: Sine.apply(net_of_five(z)),
    "grid_sample": sampled_image,
    "a branch on a value": branches,
    "checkpoint": lambda z: torch.utils.checkpoint.checkpoint(net_of_five, z, use_reentrant=False),
}


@pytest.mark.parametrize("what", BACKWARD_ONLY)
def test_reverse_mode_takes_over_where_forward_mode_has_no_rule(what, generator):
    function = BACKWARD_ONLY[what]
    metric = PullbackMetric(function)
    z = 0.5 * torch.randn(4, 2, generator=generator, dtype=DTYPE)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        M = metric(z)
        metric(z + 0.1)
    assert len(said) <= 1  # said once
    assert all("mean: torch's forward mode has no rule" in str(w.message) for w in said)
    h = 1e-5
    J = torch.stack([(function(z + h * e) - function(z - h * e)) / (2 * h) for e in torch.eye(2, dtype=DTYPE)], dim=-1)
    torch.testing.assert_close(M, J.mT @ J, rtol=1e-5, atol=1e-7)


@pytest.mark.filterwarnings("ignore:mean. torch's forward mode")
def test_geodesics_in_reverse_mode_are_those_in_forward_mode(generator):
    forward, backward = (
        PullbackMetric(lambda z: net_of_five(z).sin()),
        PullbackMetric(BACKWARD_ONLY["autograd.Function"]),
    )
    start, end = 0.5 * torch.randn(2, 3, 2, generator=generator, dtype=DTYPE)
    for method in ("newton", "spline", "bvp"):
        g, expected = (geodesic(metric, start, end, method=method) for metric in (backward, forward))
        torch.testing.assert_close(g.length, expected.length, rtol=1e-6, atol=0)
        assert torch.equal(g.status, expected.status)
    v = 0.1 * (end - start)
    torch.testing.assert_close(expmap(backward, start, v), expmap(forward, start, v), rtol=1e-6, atol=1e-6)
    moving = start.clone().requires_grad_()
    slopes = [torch.autograd.grad(metric(moving).sum(), moving)[0] for metric in (backward, forward)]
    torch.testing.assert_close(*slopes)


@pytest.mark.filterwarnings("ignore:mean. torch's forward mode")
def test_attention_is_refused_with_its_remedy_or_works(generator):
    layer = seeded(lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), 0)

    def attend(z):
        return layer(z[:, None].repeat(1, 3, 4) + torch.arange(3, dtype=z.dtype)[:, None])[:, 0]

    def by_formula(z):
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            return attend(z)

    z = torch.randn(3, 2, generator=generator, dtype=DTYPE)
    expected = PullbackMetric(by_formula)(z)
    try:
        torch.testing.assert_close(PullbackMetric(attend)(z), expected)
    except ValueError as error:
        assert "call it under torch.nn.attention.sdpa_kernel(SDPBackend.MATH)" in str(error)
    assert torch.linalg.matrix_rank(expected).eq(2).all()
    assert geodesic(PullbackMetric(by_formula), z[0], z[1]).length > 0
