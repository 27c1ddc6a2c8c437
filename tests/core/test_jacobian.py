"""push_forward: every rule gives what torch's own forward mode gives, for every kind of layer."""

import subprocess
import sys

import pytest
import torch
from problems import conv_decoder, mlp, seeded
from torch import nn
from torch.func import jacrev, jvp, vmap

from geolib import PullbackMetric, RBFPrecision, expmap, fit_rbf_precision, geodesic
from geolib.jacobian import push_forward, push_forward_twice

pytestmark = pytest.mark.smoke

DTYPE = torch.float64


def by_torch(function, x, tangents):
    value, derivatives = vmap(lambda tangent: jvp(function, (x,), (tangent,)))(tangents)
    return value[0], derivatives


def with_statistics(norm):
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


class Own(nn.Linear):
    """A subclass does what it likes."""

    def forward(self, x):
        return super().forward(x).square()


ELEMENTWISE = (
    *(nn.Tanh, nn.Sigmoid, nn.Softplus, nn.SiLU, nn.GELU, nn.Mish),
    *(nn.ReLU, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU),
)
LAYERS = {
    **{layer.__name__: (layer, (3,)) for layer in ELEMENTWISE},
    "ReLU in place": (lambda: nn.ReLU(inplace=True), (3,)),
    "Linear": (lambda: nn.Linear(3, 5), (3,)),
    "Linear without bias": (lambda: nn.Linear(3, 5, bias=False), (3,)),
    "a subclass of Linear": (lambda: Own(3, 5), (3,)),
    "Conv1d": (lambda: nn.Conv1d(2, 3, 3, padding=1), (2, 6)),
    "Conv2d, reflected": (lambda: nn.Conv2d(2, 4, 3, stride=2, padding=1, padding_mode="reflect"), (2, 6, 6)),
    "Conv3d, dilated": (lambda: nn.Conv3d(2, 2, 2, dilation=2, groups=2), (2, 4, 4, 4)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(2, 3, 4, stride=2), (2, 5)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(2, 3, 4, stride=2, padding=1, output_padding=1), (2, 5, 5)),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(2, 1, 2, bias=False), (2, 3, 3, 3)),
    "BatchNorm1d": (lambda: with_statistics(nn.BatchNorm1d(4)), (4,)),
    "BatchNorm2d": (lambda: with_statistics(nn.BatchNorm2d(2)), (2, 3, 3)),
    "BatchNorm3d": (lambda: with_statistics(nn.BatchNorm3d(2)), (2, 2, 3, 3)),
    "Flatten": (nn.Flatten, (2, 3, 3)),
    "Unflatten": (lambda: nn.Unflatten(1, (2, 3)), (6,)),
    "Identity": (nn.Identity, (3,)),
    "Softmax": (lambda: nn.Softmax(dim=-1), (4,)),
    "LayerNorm": (lambda: nn.LayerNorm(4), (4,)),
    "RBFPrecision": (lambda: RBFPrecision(torch.randn(5, 2), torch.rand(5) + 0.1, torch.rand(5, 3), 0.1), (2,)),
    "a sequence in a sequence": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Tanh(), nn.Linear(4, 2))),
        (3,),
    ),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_second_derivatives(layer, generator):
    """By torch's own Hessian of the values weighed by a cotangent, one row at a time."""
    build, shape = LAYERS[layer]
    module = seeded(build, 0, DTYPE)
    x = torch.randn(4, *shape, generator=generator, dtype=DTYPE)
    tangents = torch.randn(3, 4, *shape, generator=generator, dtype=DTYPE)
    value, derivatives, pull = push_forward_twice(module, x.clone(), tangents)
    for found, expected in zip((value, derivatives), push_forward(module, x.clone(), tangents), strict=True):
        torch.testing.assert_close(found, expected)
    cotangent = torch.randn(value.shape, generator=generator, dtype=DTYPE)
    slope, blocks = pull(cotangent)
    blocks = torch.zeros(4, 3, 3, dtype=DTYPE) if blocks is None else blocks
    plain = nn.ReLU() if layer == "ReLU in place" else module
    for i in range(4):

        def weighed(row, i=i):
            return (plain(torch.cat([x[:i], row[None], x[i + 1 :]])) * cotangent).sum()

        torch.testing.assert_close(slope[i], torch.autograd.functional.jacobian(weighed, x[i]))
        hessian = torch.autograd.functional.hessian(weighed, x[i]).reshape(x[i].numel(), -1)
        rows = tangents[:, i].flatten(1)
        torch.testing.assert_close(blocks[i], rows @ hessian @ rows.T, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, DTYPE])
@pytest.mark.parametrize("layer", LAYERS)
def test_layers(layer, dtype, generator):
    build, shape = LAYERS[layer]
    module = seeded(build, 0, dtype)
    x = torch.randn(7, *shape, generator=generator, dtype=DTYPE).to(dtype)
    tangents = torch.randn(3, 7, *shape, generator=generator, dtype=DTYPE).to(dtype)
    value, derivatives = push_forward(module, x.clone(), tangents)
    plain = seeded(lambda: nn.Sequential(nn.ReLU()), 0) if layer == "ReLU in place" else module
    expected, slopes = by_torch(plain, x, tangents)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-11
    torch.testing.assert_close(value, expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(derivatives, slopes, rtol=tolerance, atol=tolerance)


def test_any_callable_goes_through(generator):
    x = torch.randn(5, 2, generator=generator, dtype=DTYPE)
    tangents = torch.randn(2, 5, 2, generator=generator, dtype=DTYPE)
    net = mlp()
    for function in (lambda z: net(z).sin(), net.forward, conv_decoder()):
        for found, expected in zip(push_forward(function, x, tangents), by_torch(function, x, tangents), strict=True):
            torch.testing.assert_close(found, expected)


def test_a_hook_is_not_passed_over(generator):
    net = mlp()
    x, tangents = torch.randn(5, 2, generator=generator, dtype=DTYPE), torch.ones(1, 5, 2, dtype=DTYPE)
    before = push_forward(net, x, tangents)
    for module in (net, net[0], net[1]):
        handle = module.register_forward_hook(lambda _, __, output: 3 * output)
        for found, expected in zip(push_forward(net, x, tangents), by_torch(net, x, tangents), strict=True):
            torch.testing.assert_close(found, expected)
        handle.remove()
    torch.testing.assert_close(push_forward(net, x, tangents)[1], before[1])


def test_a_module_may_bring_its_own_rule(generator):
    class Doubled(nn.Module):
        def forward(self, x):
            return 2 * x

        def push_forward(self, x, tangents):
            self.asked = True
            return 2 * x, 2 * tangents

    module = Doubled()
    x, tangents = torch.randn(4, 2, generator=generator), torch.randn(3, 4, 2, generator=generator)
    _, derivatives = push_forward(nn.Sequential(nn.Identity(), module), x, tangents)
    assert module.asked
    assert torch.equal(derivatives, 2 * tangents)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_rbf_precision_brings_its_own(d, generator):
    latents = torch.randn(60, d, generator=generator, dtype=DTYPE)
    rbf = fit_rbf_precision(latents, torch.rand(60, 4, generator=generator, dtype=DTYPE) + 0.1, n_centers=5)
    x, tangents = latents[:9], torch.randn(3, 9, d, generator=generator, dtype=DTYPE)
    for found, expected in zip(rbf.push_forward(x, tangents), by_torch(rbf, x, tangents), strict=True):
        torch.testing.assert_close(found, expected)


def test_derivatives_are_differentiable(generator):
    net = mlp()
    metric = PullbackMetric(net)
    z = torch.randn(3, 2, generator=generator, dtype=DTYPE)

    def by_hand(point):
        J = jacrev(lambda x: net(x[None])[0])(point)
        return (J.T @ J).sum()

    moving = z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(metric(moving).sum(), moving)
    torch.testing.assert_close(slope, torch.stack([jacrev(by_hand)(point) for point in z]))


def test_tangents_are_the_columns_of_the_jacobian(generator):
    z = torch.randn(6, 2, generator=generator, dtype=DTYPE)
    mean, std, features = mlp(), mlp(seed=4), mlp(7, 5, 2)
    for metric in (PullbackMetric(mean), PullbackMetric(mean, std), PullbackMetric(mean, features=features)):
        for chunk_size in (1, 4, None):
            chunked = PullbackMetric(metric.mean, metric.std, metric.features, chunk_size=chunk_size)
            values, tangents = zip(*chunked.tangents(z), strict=True)
            torch.testing.assert_close(torch.cat(values, dim=-1), metric.immersion(z))
            J = torch.cat(tangents, dim=-1)
            torch.testing.assert_close(torch.einsum("anD,bnD->nab", J, J), metric(z))


@pytest.mark.slow
@pytest.mark.parametrize(
    "function", ["nn.Sequential(nn.Linear(2, 4), nn.GELU())", "lambda z: torch.cat([z, z.sin()], -1)"]
)
def test_torch_s_own_warnings_do_not_reach_the_user(function):
    """At the first Jacobian of a process torch compiles some rules."""
    code = f"import geolib, torch; from torch import nn; geolib.PullbackMetric({function})(torch.zeros(1, 2))"
    done = subprocess.run(
        [sys.executable, "-W", "error::FutureWarning", "-W", "error::DeprecationWarning", "-c", code],
        capture_output=True,
        check=False,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


NORM = seeded(lambda: nn.LayerNorm(6), 0)


def norm_by_formula(x):
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + NORM.eps).sqrt()


def solved(x):
    A = torch.diag_embed(x.exp()) + 0.1 * x[:, :, None] * x[:, None]
    return torch.linalg.solve(A, torch.ones_like(x))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("layer", [NORM, solved, nn.GLU()], ids=["layer norm", "solve", "glu"])
def test_gradients_of_a_metric_whose_forward_derivative_torch_cannot_differentiate(layer, generator):
    """torch takes a norm's mean and deviation for constants there: the gradient used to be 70 % off."""
    first = seeded(lambda: nn.Linear(2, 6), 1)
    metric = PullbackMetric(lambda z: layer(first(z)))
    z = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    at = z.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(metric(at).sum(), at)
    h = 1e-5
    steps = torch.eye(2, dtype=torch.float64)[:, None] * h
    expected = (metric(z + steps) - metric(z - steps)).sum((-1, -2)).T / (2 * h)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-8)


def test_geodesics_through_a_layer_norm_are_those_through_its_formula(generator):
    first = seeded(lambda: nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 6)), 1)
    last = seeded(lambda: nn.Linear(6, 5), 3)
    layered, by_formula = (
        PullbackMetric(lambda z, norm=norm: last(norm(first(z)))) for norm in (NORM, norm_by_formula)
    )
    z = torch.randn(2, 2, generator=generator, dtype=torch.float64)
    v = 0.1 * torch.randn(2, 2, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(expmap(layered, z, v), expmap(by_formula, z, v))
    for method in ("spline", "bvp"):
        lengths = [geodesic(metric, z, z + v, method=method).length for metric in (layered, by_formula)]
        torch.testing.assert_close(*lengths, rtol=1e-8, atol=0)
