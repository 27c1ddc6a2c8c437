"""PullbackMetric against exact metrics, finite differences and the random metric of App. E; formulas on tensors."""

import math
import warnings

import pytest
import torch
from problems import SPACES, circle, conv_decoder, deviation, linear_map, mlp, seeded, sphere_point
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.functional import jacobian
from torch.func import jacrev, vmap

from geolib import (
    FlatMetricWarning,
    PullbackMetric,
    condition_number,
    extremal_directions,
    geodesic,
    magnification_factor,
)
from geolib.metric import _CHUNK_BYTES_CPU

pytestmark = pytest.mark.smoke

DTYPE = torch.float64
D, K = 7, 5

# the four equations, with fewer and more features than outputs
METRICS = {
    "Eq. 1": lambda **o: PullbackMetric(mlp(), **o),
    "Eq. 1, convolutions": lambda **o: PullbackMetric(conv_decoder(), **o),
    "Eq. 2": lambda **o: PullbackMetric(mlp(), deviation(), **o),
    "Eq. 3, K < D": lambda **o: PullbackMetric(mlp(), features=mlp(D, K, 2), **o),
    "Eq. 3, K > D": lambda **o: PullbackMetric(mlp(), features=mlp(D, 11, 2), **o),
    "Eq. 4, K < D": lambda **o: PullbackMetric(mlp(), deviation(), mlp(D, K, 2), **o),
    "Eq. 4, K > D": lambda **o: PullbackMetric(mlp(), deviation(), mlp(D, 11, 2), **o),
}
IMMERSED = [name for name in METRICS if "Eq. 4" not in name]
every_equation = pytest.mark.parametrize("name", METRICS)
every_immersion = pytest.mark.parametrize("name", IMMERSED)


def points(n, generator, d=2):
    return torch.randn(n, d, generator=generator, dtype=DTYPE)


def rowwise_jacobian(function, z):
    """``(n, D, d)``, one reverse-mode pass a row and output: slow, and nothing that geolib uses."""
    return torch.stack([jacobian(lambda x: function(x[None])[0], row) for row in z])


def rowwise(metric, row):
    """The immersion of one point, from the maps as they were given."""
    x = metric.mean(row[None])
    if metric.std is not None:
        x = torch.cat([x, metric.std(row[None])], dim=-1)
    return (x if metric.features is None else metric.features(x))[0]


# Exact metrics


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_metric_of_a_space_is_exact(space, generator):
    z, _ = space.sample(9, generator, DTYPE)
    torch.testing.assert_close(space.metric(z), space.tensor(z), rtol=1e-13, atol=1e-13)


def test_linear_decoder_gives_A_transpose_A_and_not_its_mirror():
    # J J^T of the first two outputs has a determinant and a shape too
    A = torch.tensor([[1.0, 2.0], [3.0, 4.0], [0.0, 1.0]], dtype=DTYPE)
    M = PullbackMetric(lambda z: z @ A.T)(torch.zeros(2, dtype=DTYPE))
    torch.testing.assert_close(M, torch.tensor([[10.0, 14.0], [14.0, 21.0]], dtype=DTYPE))


def test_standard_deviation_adds_its_own_metric(generator):
    A, B = linear_map(3, 6, 5), linear_map(3, 6, 2, seed=1)
    M = PullbackMetric(lambda z: z @ A.T, lambda z: 20 + z @ B.T)(points(4, generator, 3))
    torch.testing.assert_close(M, (A.T @ A + B.T @ B).expand(4, 3, 3))


def test_linear_features_are_exact_in_eq_4(generator):
    A, B, F = linear_map(2, 6, 5), linear_map(2, 6, 2, seed=1), linear_map(6, 9, 3, seed=2)
    feature_metric = F.T @ F
    expected = A.T @ feature_metric @ A + B.T @ feature_metric.diag().diag() @ B
    M = PullbackMetric(lambda z: z @ A.T, lambda z: z @ B.T, lambda x: x @ F.T)(points(3, generator))
    torch.testing.assert_close(M, expected.expand(3, 2, 2))


# Against other derivatives


@every_immersion
def test_metric_agrees_with_central_differences_of_the_immersion(name, generator):
    metric, z, h = METRICS[name](), points(5, generator), 1e-5
    columns = [(metric.immersion(z + h * e) - metric.immersion(z - h * e)) / (2 * h) for e in torch.eye(2, dtype=DTYPE)]
    J = torch.stack(columns, dim=-1)
    torch.testing.assert_close(metric(z), J.mT @ J, rtol=1e-7, atol=1e-7)


def test_immersion_stacks_mean_and_deviation_or_applies_features(generator):
    mean, std, features, z = mlp(), deviation(), mlp(D, K, 2), points(4, generator)
    torch.testing.assert_close(PullbackMetric(mean).immersion(z), mean(z))
    torch.testing.assert_close(PullbackMetric(mean, std).immersion(z), torch.cat([mean(z), std(z)], dim=-1))
    torch.testing.assert_close(PullbackMetric(mean, features=features).immersion(z), features(mean(z)))


@pytest.mark.parametrize("n_features", [1, K, D, 11])
def test_features_multiply_jacobians(n_features, generator):
    mean, std, features, z = mlp(), deviation(), mlp(D, n_features, 2), points(3, generator)
    J_mean, J_std = rowwise_jacobian(mean, z), rowwise_jacobian(std, z)
    J_features = rowwise_jacobian(features, mean(z))
    eq3 = (J_features @ J_mean).mT @ (J_features @ J_mean)
    torch.testing.assert_close(PullbackMetric(mean, features=features)(z), eq3, rtol=1e-11, atol=1e-11)
    diagonal = torch.diag_embed((J_features.mT @ J_features).diagonal(dim1=-2, dim2=-1))
    eq4 = eq3 + J_std.mT @ diagonal @ J_std
    torch.testing.assert_close(PullbackMetric(mean, std, features)(z), eq4, rtol=1e-11, atol=1e-11)


# n_features None: Eq. 2
@pytest.mark.parametrize("n_features", [None, 3, 11])
def test_expected_metric_is_the_mean_of_the_random_metric(n_features, generator):
    """App. E: f(z) = h(mu(z) + sigma(z) eps); h is linear here, where the mean is exact."""
    mean, std, z = mlp(), deviation(), points(1, generator)
    F = torch.eye(D, dtype=DTYPE) if n_features is None else linear_map(min(D, n_features), max(D, n_features), 3)
    F = F if F.shape[1] == D else F.T
    eps = torch.randn(4000, D, generator=generator, dtype=DTYPE)
    J = vmap(lambda e: jacrev(lambda x: F @ (mean(x) + std(x) * e))(z[0]))(eps)
    random = J.mT @ J
    expected, error = random.mean(0), random.std(0) / math.sqrt(len(random))

    features = None if n_features is None else lambda x: x @ F.T
    M = PullbackMetric(mean, std, features)(z)[0]
    assert ((M - expected).abs() < 4 * error).all()
    # and the samples are many enough to tell the metric without sigma, and with all of M_F instead of its diagonal
    without = PullbackMetric(mean, features=features)(z)[0]
    assert ((without - expected).abs() > 8 * error).any()
    if n_features is not None:
        J_std = rowwise_jacobian(std, z)[0]
        assert ((without + J_std.T @ F.T @ F @ J_std - expected).abs() > 8 * error).any()


# Shapes, chunks, kinds


@every_equation
@pytest.mark.parametrize("chunk_size", [1, 7, None])
def test_chunks_and_batches_change_nothing(name, chunk_size, generator):
    z = points(16, generator)
    chunked, whole = METRICS[name](chunk_size=chunk_size), METRICS[name](chunk_size=16)
    torch.testing.assert_close(chunked(z), whole(z), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(chunked(z), torch.cat([whole(row[None]) for row in z]), rtol=1e-12, atol=1e-12)
    if name in IMMERSED:
        torch.testing.assert_close(chunked.immersion(z), whole.immersion(z), rtol=1e-12, atol=1e-12)


@every_equation
@pytest.mark.parametrize("shape", [(), (1,), (2,), (1, 1), (3, 2), (2, 1, 3)], ids=str)
def test_any_leading_shape(name, shape, generator):
    metric = METRICS[name]()
    z = torch.randn(*shape, 2, generator=generator, dtype=DTYPE)
    flat = z.reshape(-1, 2)
    rows = torch.stack([METRICS[name]()(torch.stack([row, row + 1]))[0] for row in flat])
    torch.testing.assert_close(metric(z), rows.reshape(*shape, 2, 2), rtol=1e-12, atol=1e-12)
    if name in IMMERSED:
        assert metric.immersion(z).shape[:-1] == shape


def test_a_view_that_is_not_contiguous(generator):
    z = points(6, generator)[::2].flip(-1)
    metric = METRICS["Eq. 2"]()
    torch.testing.assert_close(metric(z), metric(z.clone()), rtol=1e-13, atol=1e-13)


@every_equation
def test_metric_is_symmetric_and_not_negative(name, generator):
    M = METRICS[name]()(points(20, generator))
    torch.testing.assert_close(M, M.mT, rtol=1e-12, atol=1e-12)
    assert (torch.linalg.eigvalsh(M) > -1e-12).all()


def test_float32_is_close_to_float64(generator):
    z = points(30, generator)
    double = PullbackMetric(mlp(), deviation(), mlp(D, K, 2))(z)
    single = PullbackMetric(
        mlp(dtype=torch.float32), deviation(dtype=torch.float32), mlp(D, K, 2, dtype=torch.float32)
    )(z.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("what", ["metric", "immersion"])
def test_memory_is_flat_in_the_number_of_points(what):
    class Wide(nn.Module):
        """784 outputs, and a note of every batch."""

        def __init__(self):
            super().__init__()
            self.seen = []

        def forward(self, z):
            self.seen.append(z.shape[0])
            return z.sum(-1, keepdim=True).sin() * torch.ones(784)

    largest = []
    for n in (3000, 12000):
        decoder = Wide()
        metric = PullbackMetric(decoder)
        (metric if what == "metric" else metric.immersion)(torch.zeros(n, 2))
        largest.append(max(decoder.seen))
        assert sum(decoder.seen) < n + 20  # every point once, and the few that are tried first
    assert largest[0] == largest[1]
    # the Jacobian in float32, with the value itself as one more column
    assert largest[0] * 784 * 3 * 4 <= _CHUNK_BYTES_CPU


@pytest.mark.parametrize("more_features", [False, True])
def test_feature_diagonal_loses_nothing_between_blocks(more_features):
    D = 300  # with 64 points more than one block of tangents or cotangents
    mean = seeded(lambda: nn.Sequential(nn.Linear(2, D), nn.Tanh()), seed=0)
    z = torch.randn(64, 2, generator=torch.Generator().manual_seed(0), dtype=DTYPE)

    def features(x):
        return torch.cat([x.sin(), x.cos()], dim=-1) if more_features else x.sin()

    M = PullbackMetric(mean, mean, features, chunk_size=64)(z)
    J = rowwise_jacobian(mean, z[:1])[0]
    weight = mean(z[:1])[0].cos().square()
    if more_features:
        weight = torch.ones_like(weight)
    torch.testing.assert_close(M[0], 2 * J.T @ (weight[:, None] * J))


# Gradients


@every_equation
def test_metric_is_differentiable_in_z(name, generator):
    metric = METRICS[name]()
    assert gradcheck(metric, points(2, generator).requires_grad_())


@every_immersion
def test_immersion_is_differentiable_in_z(name, generator):
    assert gradcheck(METRICS[name]().immersion, points(2, generator).requires_grad_())


@every_equation
def test_parameters_record_no_graph(name, generator):
    metric, z = METRICS[name](), points(3, generator)
    assert any(p.requires_grad for p in metric.mean.parameters())
    assert metric(z).grad_fn is None
    if name in IMMERSED:
        assert metric.immersion(z).grad_fn is None
    with torch.no_grad():
        assert metric(z.requires_grad_()).grad_fn is None


def test_gradients_do_not_depend_on_chunks(generator):
    z = points(8, generator).requires_grad_()
    slopes = [torch.autograd.grad(METRICS["Eq. 4, K < D"](chunk_size=c)(z).sum(), z)[0] for c in (1, 3, None)]
    for slope in slopes[1:]:
        torch.testing.assert_close(slope, slopes[0], rtol=1e-11, atol=1e-11)


# What a metric tells about itself


@pytest.mark.parametrize("chunk_size", [None, 4])
@every_immersion
def test_tangents_and_second_derivatives_are_those_of_the_immersion(name, chunk_size, generator):
    metric, z = METRICS[name](chunk_size=chunk_size), points(7, generator)
    whole = METRICS[name]()
    J = rowwise_jacobian(whole.images, z)
    parts, bent = list(metric.tangents(z)), list(metric.tangents_and_bending(z))
    assert len(parts) == len(bent) == (2 if metric.std is not None else 1)
    for found in (parts, bent):
        torch.testing.assert_close(torch.cat([part[0] for part in found], dim=-1), whole.images(z))
        torch.testing.assert_close(torch.cat([part[1] for part in found], dim=-1), J.permute(2, 0, 1))
    torch.testing.assert_close(metric.unchecked(z), J.mT @ J)
    u = torch.randn(J.shape[:2], generator=generator, dtype=DTYPE)
    slope = vmap(jacrev(lambda x, v: (rowwise(whole, x) * v).sum()))
    expected = torch.stack(
        [jacobian(lambda x, v=v: slope(x[None], v[None])[0], row) for row, v in zip(z, u, strict=True)]
    )
    widths = [part[0].shape[-1] for part in bent]
    blocks = sum(part[2](v) for part, v in zip(bent, u.split(widths, dim=-1), strict=True))
    torch.testing.assert_close(blocks, expected)


def test_an_affine_map_has_no_second_derivatives(generator):
    A = linear_map(2, 5, 5)
    (part,) = PullbackMetric(nn.Linear(2, 5, dtype=DTYPE).requires_grad_(False)).tangents_and_bending(
        points(4, generator)
    )
    assert torch.equal(part[2](torch.ones(4, 5, dtype=DTYPE)), torch.zeros(4, 2, 2, dtype=DTYPE))
    (part,) = PullbackMetric(lambda z: z @ A.T).tangents_and_bending(points(4, generator))
    assert torch.equal(part[2](torch.ones(4, 5, dtype=DTYPE)), torch.zeros(4, 2, 2, dtype=DTYPE))


def test_bad_points_and_tensors_are_named():
    metric = PullbackMetric(mlp())
    for call in (metric, metric.immersion):
        with pytest.raises(ValueError, match=r"^z: got no points \(shape \(0, 2\)\), expected at least one$"):
            call(torch.zeros(0, 2, dtype=DTYPE))
        with pytest.raises(TypeError, match=r"^z: got list"):
            call([[0.0, 0.0]])
    assert PullbackMetric(mlp(1, 4, 2))(torch.zeros(1, dtype=DTYPE)).shape == (1, 1)  # one number is a point
    for formula in (condition_number, magnification_factor, extremal_directions):
        with pytest.raises(TypeError, match=r"^M: got list"):
            formula([[1.0]])
        with pytest.raises(ValueError, match=r"^M: got shape \(2,\)"):
            formula(torch.ones(2, dtype=DTYPE))
        assert formula(torch.ones(1, 1, dtype=DTYPE)) is not None
    with pytest.raises(TypeError, match=r"^metric: with std and features together \(Eq\. 4\)"):
        METRICS["Eq. 4, K < D"]().immersion(torch.zeros(2, dtype=DTYPE))


def test_what_is_not_finite_is_named(generator):
    metric = PullbackMetric(lambda z: torch.cat([z, z.sqrt()], dim=-1))
    z = torch.tensor([[1.0, 2.0], [3.0, 0.0]], dtype=DTYPE)
    with pytest.raises(ValueError, match=r"^metric: .*at z = \[3, 0\]"):
        metric(z)
    with pytest.raises(ValueError, match=r"^immersion: .*at z = \[-1, 0\]"):
        metric.immersion(torch.tensor([[1.0, 2.0], [-1.0, 0.0]], dtype=DTYPE))


def test_eq_4_has_no_immersion(generator):
    metric = METRICS["Eq. 4, K < D"]()
    assert not metric.has_immersion
    with pytest.raises(TypeError, match=r"Eq\. 4"):
        metric.immersion(points(2, generator))


def test_latent_dim_is_read_off_the_modules():
    class Declares(nn.Module):
        latent_dim = 9

    assert PullbackMetric(mlp(3)).latent_dim == 3
    decoder = mlp(4)
    assert PullbackMetric(lambda z: decoder(z).sigmoid()).latent_dim == 4
    assert PullbackMetric(mlp(3), Declares()).latent_dim == 9
    for hidden in (lambda z: z * 1.0, nn.Conv1d(1, 2, 3)):
        with pytest.raises(TypeError, match="latent_dim"):
            _ = PullbackMetric(hidden).latent_dim


def test_kind_is_that_of_the_modules():
    assert PullbackMetric(mlp()).kind == (DTYPE, torch.device("cpu"))
    assert PullbackMetric(lambda z: z * 1.0, mlp(dtype=torch.float32)).kind[0] == torch.float32
    assert circle().metric.kind == (None, None)


# Formulas on tensors


def rotated(values, generator):
    """A symmetric matrix with these eigenvalues, and its eigenvectors as columns."""
    Q, _ = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=DTYPE))
    return Q @ torch.tensor(values, dtype=DTYPE).diag() @ Q.T, Q


@pytest.mark.parametrize("values", [(4.0,), (1.0, 9.0), (0.25, 2.0, 50.0), tuple(range(1, 17))], ids=len)
def test_formulas_know_the_eigenvalues(values, generator):
    M, Q = rotated([float(v) for v in values], generator)
    torch.testing.assert_close(condition_number(M), torch.tensor(values[-1] / values[0], dtype=DTYPE))
    torch.testing.assert_close(magnification_factor(M), torch.tensor(math.prod(values) ** 0.5, dtype=DTYPE))
    v_min, v_max = extremal_directions(M)
    for v, q in ((v_min, Q[:, 0]), (v_max, Q[:, -1])):
        torch.testing.assert_close((v @ q).abs(), torch.ones((), dtype=DTYPE))  # up to sign
        torch.testing.assert_close(v.norm(), torch.ones((), dtype=DTYPE))
        assert v[v.abs().argmax()] > 0


def test_formulas_are_batched(generator):
    M = torch.stack([rotated([1.0, float(k)], generator)[0] for k in range(2, 8)]).reshape(2, 3, 2, 2)
    expected = torch.arange(2.0, 8.0, dtype=DTYPE).reshape(2, 3)
    torch.testing.assert_close(condition_number(M), expected)
    torch.testing.assert_close(magnification_factor(M), expected.sqrt())
    v_min, v_max = extremal_directions(M)
    assert v_min.shape == v_max.shape == (2, 3, 2)
    torch.testing.assert_close(torch.einsum("...ij,...j->...i", M, v_max), expected[..., None] * v_max)
    torch.testing.assert_close(torch.einsum("...ij,...j->...i", M, v_min), v_min)


def test_magnification_is_the_area_of_a_sphere_s_chart():
    theta = torch.linspace(0.3, 2.8, 9, dtype=DTYPE)
    z = torch.stack([theta, theta], dim=-1)
    torch.testing.assert_close(magnification_factor(PullbackMetric(sphere_point)(z)), theta.sin())
    torch.testing.assert_close(condition_number(PullbackMetric(sphere_point)(z)), theta.sin() ** -2)


@pytest.mark.parametrize("dtype", [torch.float32, DTYPE])
def test_singular_metrics_have_their_own_answers(dtype):
    v = torch.tensor([1.0, 3.0, -2.0], dtype=dtype)
    for M in (torch.zeros(3, 3, dtype=dtype), torch.diag(torch.tensor([0.0, 1.0, 2.0], dtype=dtype))):
        assert condition_number(M) == torch.inf
        assert magnification_factor(M) == 0
    rank_one = torch.outer(v, v)  # whose other eigenvalues may round to either side of zero
    assert condition_number(rank_one) > 1e5
    assert magnification_factor(rank_one) < 1e-3
    torch.testing.assert_close(extremal_directions(rank_one)[1], -v / v.norm() * -1)
    negative = torch.diag(torch.tensor([-1e-8, 1.0], dtype=dtype))
    assert condition_number(negative) == torch.inf
    assert magnification_factor(negative) == 0


@pytest.mark.parametrize("formula", [condition_number, magnification_factor, extremal_directions])
def test_formulas_refuse_what_is_no_metric(formula):
    with pytest.raises(ValueError, match=r"\(2, 3\), expected \(\.\.\., d, d\)"):
        formula(torch.ones(2, 3))
    with pytest.raises(ValueError, match="not finite"):
        formula(torch.full((2, 2), torch.nan))
    with pytest.raises(TypeError, match="int64"):
        formula(torch.ones(2, 2, dtype=torch.long))


@pytest.mark.parametrize("n_features", [3, 12])
def test_eq_4_has_two_derivatives_for_fewer_and_more_features_than_outputs(n_features, generator):
    A, B = torch.randn(2, 2, 5, generator=generator, dtype=torch.float64)
    C = torch.randn(5, n_features, generator=generator, dtype=torch.float64)
    metric = PullbackMetric(lambda z: (z @ A).sin(), lambda z: (z @ B).exp(), lambda x: (x @ C).tanh())
    z = torch.tensor([[0.3, -0.2], [0.1, 0.4]], dtype=torch.float64, requires_grad=True)
    assert gradcheck(metric, (z,))
    assert gradgradcheck(metric, (z,))


# As many outputs as latents


def flow(z):
    """A map of the plane with an inverse."""
    return torch.cat([z[:, :1], z[:, 1:] + z[:, :1] ** 2], dim=-1)


def test_a_flat_metric_is_told_once(generator):
    z = points(4, generator)
    metric = PullbackMetric(flow)
    with pytest.warns(FlatMetricWarning, match="mean: has 2 outputs for 2 latents") as told:
        metric(z)
        metric.immersion(z)
        metric(z.float())
    assert len(told) == 1
    with pytest.warns(FlatMetricWarning):
        PullbackMetric(flow)(z)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", FlatMetricWarning)
        PullbackMetric(flow)(z)


@pytest.mark.parametrize(
    "metric",
    [
        PullbackMetric(mlp()),
        PullbackMetric(mlp(D=1)),
        PullbackMetric(flow, deviation(D=2)),
        PullbackMetric(flow, features=mlp(2, 3)),
    ],
    ids=["D > d", "D < d", "std", "features"],
)
def test_other_metrics_are_not_called_flat(metric, generator):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metric(points(4, generator))


def test_geodesics_of_a_flat_metric_decode_to_straight_lines(generator):
    start, end = points(10, generator).chunk(2)
    g = geodesic(PullbackMetric(flow), start, end, rtol=1e-6)
    images = flow(g.points.flatten(0, 1)).reshape(g.points.shape)
    t = torch.linspace(0, 1, images.shape[1], dtype=DTYPE)[:, None]
    torch.testing.assert_close(images, torch.lerp(flow(start)[:, None], flow(end)[:, None], t), rtol=0, atol=1e-3)
    torch.testing.assert_close(g.length, g.lower_bound, rtol=1e-5, atol=0)


def test_the_latent_dimension_of_a_decoder_that_is_a_method():
    """The first layer of its model is the encoder's."""

    class VAE(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3))
            self.decoder = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 12))

        def decode(self, z):
            return self.decoder(z)

    vae = VAE().eval()
    assert PullbackMetric(vae.decode).latent_dim == 3
    assert PullbackMetric(lambda z: 2 * vae.decode(z)).latent_dim == 3
    assert PullbackMetric(vae.decoder).latent_dim == 3
    with pytest.raises(TypeError, match="latent dimension cannot be read off"):
        _ = PullbackMetric(lambda z: z.sin()).latent_dim
