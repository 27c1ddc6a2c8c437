"""RBFPrecision and its fit: bandwidths, the optimum of the likelihood, values far from the data, degenerate data.

Ensembles: the expected metric, the members' deviation, derivatives, cost.
"""

import copy
import functools
import itertools
import math

import numpy as np
import pytest
import torch
from problems import conv_decoder, mlp
from scipy.optimize import minimize
from torch import nn
from torch.autograd import gradcheck

from geolib import PullbackMetric, RBFPrecision, ensemble, fit_rbf_precision, geodesic
from geolib.jacobian import push_forward, push_forward_twice
from geolib.variance import _activations, _fit_weights

pytestmark = pytest.mark.smoke

DTYPE = torch.float64


def clusters(generator, n_clusters=4, n=30, spread=0.1, distance=20.0, dtype=DTYPE):
    """Well-separated clusters: points ``(n_clusters * n, 2)`` and the cluster of each."""
    angle = 2 * math.pi * torch.arange(n_clusters, dtype=DTYPE) / n_clusters
    centers = distance * torch.stack([angle.cos(), angle.sin()], dim=-1)
    labels = torch.arange(n_clusters).repeat_interleave(n)
    return (centers[labels] + spread * torch.randn(len(labels), 2, generator=generator, dtype=DTYPE)).to(dtype), labels


def blob(generator, n=300, D=6, dtype=DTYPE):
    """A normal cloud, and variances that change smoothly over it."""
    z = torch.randn(n, 2, generator=generator, dtype=DTYPE)
    t = 0.02 * (z @ torch.randn(2, D, generator=generator, dtype=DTYPE) / 3).exp()
    return z.to(dtype), t.to(dtype)


def likelihood(rbf, z, t):
    """The objective of the fit: mean of beta t - log beta."""
    beta = rbf.precision(z)
    return (beta * t - beta.log()).mean()


# The formula


def test_module_is_the_formula(generator):
    c, lam = torch.randn(3, 2, generator=generator, dtype=DTYPE), torch.tensor([0.5, 1.0, 3.0], dtype=DTYPE)
    W, zeta = torch.rand(3, 4, generator=generator, dtype=DTYPE), 0.01
    rbf = RBFPrecision(c, lam, W, zeta)
    z = torch.randn(2, 5, 2, generator=generator, dtype=DTYPE)
    for i in range(2):
        for j in range(5):
            v = [math.exp(-float(lam[k]) * float((z[i, j] - c[k]).square().sum())) for k in range(3)]
            beta = [sum(v[k] * float(W[k, p]) for k in range(3)) + zeta for p in range(4)]
            torch.testing.assert_close(rbf.precision(z)[i, j], torch.tensor(beta, dtype=DTYPE))
            torch.testing.assert_close(rbf(z)[i, j], torch.tensor([b**-0.5 for b in beta], dtype=DTYPE))
    assert rbf.latent_dim == 2


def test_a_module_of_wrong_parts_is_refused():
    c, lam, W = torch.zeros(4, 2), torch.ones(4), torch.ones(4, 3)
    for name, parts in (
        ("centers", (c[0], lam, W, 1.0)),
        ("bandwidths", (c, lam[1:], W, 1.0)),
        ("bandwidths", (c, -lam, W, 1.0)),
        ("bandwidths", (c, lam * torch.nan, W, 1.0)),
        ("weights", (c, lam, W.mT, 1.0)),
        ("weights", (c, lam, W.double(), 1.0)),
        ("zeta", (c, lam, W, 0.0)),
    ):
        with pytest.raises((ValueError, TypeError), match=f"{name}: "):
            RBFPrecision(*parts)
    for z in (torch.zeros(5, 1), torch.zeros(5, 3), torch.zeros(5, 2, dtype=torch.float64)):  # one would be broadcast
        with pytest.raises((ValueError, TypeError), match="z: got"):
            RBFPrecision(c, lam, W, 1.0)(z)


@pytest.mark.filterwarnings("ignore:fit_rbf_precision. the weights were still improving")
def test_what_no_weights_fit_is_refused(generator):
    """They used to be NaN."""
    z, t = blob(generator)
    with pytest.raises(ValueError, match="curvature: so small that no basis function reaches"):
        fit_rbf_precision(z, t, n_centers=5, curvature=1e-20)
    with pytest.raises(ValueError, match="variance_target: the precision that fits values from"):
        fit_rbf_precision(z, t * 1e-310, n_centers=5)


def test_module_carries_its_state_and_no_parameters(generator):
    z, t = blob(generator)
    rbf = fit_rbf_precision(z, t, n_centers=5)
    assert list(rbf.parameters()) == []
    other = RBFPrecision(*(torch.zeros_like(x) for x in (rbf.centers, rbf.bandwidths, rbf.weights)), 1.0)
    other.load_state_dict(rbf.state_dict())
    torch.testing.assert_close(other(z), rbf(z))
    assert rbf.float()(z.float()).dtype == torch.float32


@pytest.mark.parametrize("curvature", [0.5, 1.25, 3.0])
def test_bandwidths_are_the_paper_s(curvature, generator):
    z, _ = clusters(generator)
    rbf = fit_rbf_precision(z, torch.ones_like(z), n_centers=4, curvature=curvature)
    points, centers = z.numpy(), rbf.centers.numpy()
    nearest = np.argmin(((points[:, None] - centers) ** 2).sum(-1), axis=1)
    for k in range(4):
        own = points[nearest == k]
        np.testing.assert_allclose(centers[k], own.mean(axis=0))
        radius = sum(np.sqrt(((p - centers[k]) ** 2).sum()) for p in own) / len(own)
        np.testing.assert_allclose(rbf.bandwidths[k], 0.5 / (curvature * radius) ** 2)


# The optimum


def test_constant_targets_of_separate_clusters_are_recovered(generator):
    z, labels = clusters(generator)
    t = torch.tensor([[0.01, 4.0], [0.5, 0.02], [3.0, 1.0], [0.1, 0.3]], dtype=DTYPE)[labels]
    rbf = fit_rbf_precision(z, t, n_centers=4, curvature=20)  # basis functions that are flat over their own cluster
    torch.testing.assert_close(rbf.precision(z), 1 / t, rtol=2e-2, atol=0)
    # flat or not, the optimum has mean(beta t) = 1 over each cluster
    rbf = fit_rbf_precision(z, t, n_centers=4, zeta=1e-6)
    for k in range(4):
        own = labels == k
        torch.testing.assert_close(
            (rbf.precision(z[own]) * t[own]).mean(0), torch.ones(2, dtype=DTYPE), rtol=1e-2, atol=0
        )


def test_random_targets_are_recovered_by_their_mean(generator):
    """Squared residuals instead of a variance: 1/beta is their mean, neither their median nor 1/mean(1/t)."""
    z, _ = clusters(generator, n_clusters=2, n=2000)
    t = 0.3 * torch.randn(len(z), 3, generator=generator, dtype=DTYPE).square() + 1e-12
    rbf = fit_rbf_precision(z, t, n_centers=2, curvature=20)
    torch.testing.assert_close(rbf(z).square(), torch.full_like(t, 0.3), rtol=0.1, atol=0)


def test_weights_reach_the_optimum_that_scipy_finds(generator):
    z, t = blob(generator, n=80, D=1)
    rbf = fit_rbf_precision(z, t, n_centers=6)
    v = _activations(z, rbf.centers, rbf.bandwidths)

    def objective(w):
        w = torch.tensor(w, dtype=DTYPE, requires_grad=True)
        beta = v @ w + 1e-3
        value = (beta * t[:, 0] - beta.log()).mean()
        value.backward()
        return value.item(), w.grad.numpy()

    best = minimize(objective, np.ones(6), jac=True, bounds=[(0, None)] * 6, options={"maxiter": 2000, "ftol": 1e-14})
    assert float(likelihood(rbf, z, t)) == pytest.approx(best.fun, abs=3e-3)
    # it must be clearly better than one variance for all
    assert float(likelihood(rbf, z, t)) < float(1 + t.mean().log()) - 0.01


def test_deviation_at_the_data_is_that_of_the_target(generator):
    z, t = blob(generator)
    rbf = fit_rbf_precision(z, t, n_centers=30)
    ratio = rbf(z).square() / t
    assert 0.8 < float(ratio.median()) < 1.25
    torch.testing.assert_close((rbf.precision(z) * t).mean(0), torch.ones(6, dtype=DTYPE), rtol=0.05, atol=0)
    # no common factor may improve the likelihood
    beta = rbf.precision(z)
    at = {s: float((s * beta * t - (s * beta).log()).mean()) for s in (0.8, 1.0, 1.25)}
    assert at[1.0] < min(at[0.8], at[1.25])


@pytest.mark.parametrize("n_centers", [1, 8, 64])
def test_updates_never_raise_the_objective(n_centers, generator):
    z, t = blob(generator, D=3)
    rbf = fit_rbf_precision(z, t, n_centers=n_centers)
    v = _activations(z, rbf.centers, rbf.bandwidths)
    values = []
    for n in range(25):
        beta = v @ _fit_weights(v, t, 1e-3, max_updates=n, tolerance=0) + 1e-3
        values.append((beta * t - beta.log()).mean(0))  # each output is a problem of its own
    fall = -torch.stack(values).diff(dim=0)
    assert (fall >= -1e-13).all()
    assert fall[0].min() > 0


def test_a_fit_says_when_its_updates_are_spent(generator):
    v, t = torch.rand(2, 40, 10, generator=generator, dtype=DTYPE) + 0.01
    with pytest.warns(UserWarning, match="fit_rbf_precision: the weights were still improving after 10 updates"):
        few = _fit_weights(v, 1e-3 * t, 1e-3, max_updates=10)
    assert torch.equal(few, _fit_weights(v, 1e-3 * t, 1e-3, max_updates=10, tolerance=0))


@pytest.mark.parametrize("dtype", [torch.float32, DTYPE])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_weights_are_not_negative_and_finite(dtype, scale, generator):
    z, t = blob(generator, dtype=dtype)
    rbf = fit_rbf_precision(z, t * scale, n_centers=40)
    assert rbf.weights.dtype == dtype
    assert (rbf.weights >= 0).all()
    assert torch.isfinite(rbf.weights).all()
    assert torch.isfinite(rbf(z)).all()


# Away from the data


@pytest.mark.parametrize("dtype", [torch.float32, DTYPE])
@pytest.mark.parametrize("n_centers", [1, 16, 64])
@pytest.mark.parametrize("zeta", [1e-3, 0.5])
def test_deviation_far_from_the_data_is_that_of_zeta(dtype, n_centers, zeta, generator):
    z, t = blob(generator, dtype=dtype)
    rbf = fit_rbf_precision(z, t, n_centers=n_centers, zeta=zeta)
    angle = torch.linspace(0, 6, 50, dtype=dtype)
    far = torch.stack([angle.cos(), angle.sin()], dim=-1) * (10 + float(z.norm(dim=-1).max()))
    torch.testing.assert_close(rbf(far), torch.full_like(rbf(far), zeta**-0.5), rtol=0.01, atol=0)
    # the deviation never exceeds that, and grows on the way there
    out = rbf(far[:1] * torch.linspace(0, 1, 40, dtype=dtype)[:, None])
    assert (out <= zeta**-0.5 * (1 + 1e-6)).all()
    assert (out[-1] > out[0]).all()


@pytest.mark.parametrize("dtype", [torch.float32, DTYPE])
def test_no_subnormal_number_is_multiplied_on_the_way_far(dtype):
    """They take a hundred times as long; what is left out for them is below the rounding of any sum with zeta."""
    info = torch.finfo(dtype)
    lam = torch.tensor([1.0], dtype=dtype)
    z = torch.linspace(0, 3 * (-math.log(info.tiny)) ** 0.5, 2000, dtype=dtype)[:, None]
    v = _activations(z, torch.zeros(1, 1, dtype=dtype), lam)
    assert bool(((v == 0) | (v >= info.tiny / info.eps)).all())
    rbf = RBFPrecision(torch.zeros(1, 1, dtype=dtype), lam, torch.full((1, 1), 1e4, dtype=dtype), 1e-6)
    beta = 1e4 * torch.exp(-z.double().square()) + 1e-6
    torch.testing.assert_close(rbf(z).double(), beta.rsqrt(), rtol=2e2 * info.eps, atol=0)
    values, derivatives = push_forward(rbf, z, torch.ones(1, len(z), 1, dtype=dtype))
    expected = 1e4 * z.double() * torch.exp(-z.double().square()) * beta**-1.5
    torch.testing.assert_close(derivatives[0].double(), expected, rtol=2e2 * info.eps, atol=float(info.tiny**0.4))
    assert bool((derivatives[0][-1] == 0) & (values[-1] == values[-2]))


def test_metric_with_sigma_is_finite_near_and_far(generator):
    z, t = blob(generator, D=7)
    metric = PullbackMetric(mlp(), fit_rbf_precision(z, t, n_centers=20))
    M = metric(torch.cat([z[:20], 50 * z[:20]]))
    assert (torch.linalg.eigvalsh(M) >= -1e-12).all()
    assert metric.latent_dim == 2


# Degenerate data


def test_duplicates_leave_clusters_empty(generator):
    z = torch.randn(5, 2, generator=generator, dtype=DTYPE).repeat(8, 1)
    t = torch.rand(40, 3, generator=generator, dtype=DTYPE) + 0.1
    rbf = fit_rbf_precision(z, t, n_centers=20)
    assert len(rbf.centers) == 5
    torch.testing.assert_close(rbf.centers[rbf.centers[:, 0].argsort()], z[:5][z[:5, 0].argsort()])
    assert torch.isfinite(rbf(z)).all()


@pytest.mark.parametrize("dtype", [torch.float32, DTYPE])
def test_one_center_a_point(dtype, generator):
    z, t = blob(generator, n=25, dtype=dtype)
    rbf = fit_rbf_precision(z, t, n_centers=25)
    assert len(rbf.centers) == 25
    assert len(rbf.bandwidths.unique()) == 1  # no cluster has a radius: half the typical distance of neighbours
    distance = torch.cdist(rbf.centers, rbf.centers).fill_diagonal_(torch.inf).min(-1).values.median() / 2
    torch.testing.assert_close(rbf.bandwidths, (0.5 / (1.25 * distance) ** 2).expand(25), rtol=1e-4, atol=0)
    # at least as good as one variance for all
    assert float(likelihood(rbf, z, t)) < float((1 + t.mean(0).log()).mean())


def test_a_cluster_of_one_point_gets_the_others_radius(generator):
    z, _ = clusters(generator)
    z = torch.cat([z, torch.zeros(1, 2, dtype=DTYPE)])
    rbf = fit_rbf_precision(z, torch.ones_like(z), n_centers=5)
    alone = rbf.centers.norm(dim=-1) < 1
    assert int(alone.sum()) == 1
    torch.testing.assert_close(rbf.bandwidths[alone][0], rbf.bandwidths[~alone].sort().values[2])  # the middle radius
    assert torch.isfinite(rbf(z)).all()


@pytest.mark.parametrize("n_centers", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, DTYPE])
def test_one_point_many_times_is_refused(n_centers, dtype):
    z = torch.full((9, 2), 1 / 3, dtype=dtype)
    with pytest.raises(ValueError, match="latents: all points are the same"):
        fit_rbf_precision(z, torch.ones_like(z), n_centers=n_centers)


def test_data_far_from_the_origin(generator):
    # |z|^2 - 2 z c + |c|^2 would cancel here
    z, t = blob(generator, dtype=torch.float32)
    near, far = (fit_rbf_precision(z + shift, t, n_centers=8) for shift in (0.0, 1000.0))
    assert float(likelihood(far, z + 1000, t)) == pytest.approx(float(likelihood(near, z, t)), abs=0.02)


# Seeds and input


def test_seed_decides(generator):
    z, t = blob(generator)
    a, b, c = (fit_rbf_precision(z, t, n_centers=20, seed=s) for s in (1, 1, 2))
    for name, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[name])
    assert not torch.equal(a.centers, c.centers)
    state = torch.get_rng_state()
    fit_rbf_precision(z, t, n_centers=3)
    assert torch.equal(torch.get_rng_state(), state)


def test_fit_leaves_its_arguments_alone(generator):
    z, t = blob(generator)
    before = z.clone(), t.clone()
    rbf = fit_rbf_precision(z.requires_grad_(), t.requires_grad_(), n_centers=5)
    assert torch.equal(z, before[0]) and torch.equal(t, before[1])
    assert not rbf.weights.requires_grad


Z, T = torch.arange(10.0).reshape(5, 2), torch.ones(5, 3)
BAD = {
    "latents: got list": ([[0.0]], T, {}),
    r"latents: got shape \(5, 1, 2\)": (Z[:, None], T, {}),
    "latents: 1 of 10 entries": (torch.where(Z == 3, torch.nan, Z), T, {}),
    "latents: got dtype": (Z.long(), T, {}),
    "variance_target: got list": (Z, [[1.0]], {}),
    "variance_target: got dtype torch.float64": (Z, T.double(), {}),
    r"variance_target: got shape \(4, 3\)": (Z, T[:4], {}),
    r"variance_target: got shape \(5,\)": (Z, T[:, 0], {}),
    "variance_target: 15 of 15 entries are not finite": (Z, T * torch.inf, {}),
    "variance_target: 3 of 15 entries are not positive; add a floor": (Z, T * (Z[:, :1] > 0), {}),
    "n_centers: got 6, expected at most": (Z, T, {"n_centers": 6}),
    "n_centers: got 0": (Z, T, {"n_centers": 0}),
    "n_centers: got 2.0": (Z, T, {"n_centers": 2.0}),
    "curvature: got 0": (Z, T, {"curvature": 0}),
    "curvature: got nan": (Z, T, {"curvature": math.nan}),
    "zeta: got -1": (Z, T, {"zeta": -1}),
    "zeta: got 0": (Z, T, {"zeta": 0}),
    "seed: got -1": (Z, T, {"seed": -1}),
    "seed: got None": (Z, T, {"seed": None}),
}


@pytest.mark.parametrize("sentence", BAD)
def test_bad_input_is_told(sentence):
    z, t, options = BAD[sentence]
    with pytest.raises((TypeError, ValueError), match=sentence):
        fit_rbf_precision(z, t, **({"n_centers": 2} | options))


@pytest.mark.slow
def test_a_data_set_of_images_fits(generator):
    z = torch.randn(8000, 2, generator=generator)
    t = (0.02 * (z @ torch.randn(2, 784, generator=generator) / 3).exp()).clamp_min(1e-4)
    rbf = fit_rbf_precision(z, t, n_centers=64)
    assert torch.isfinite(rbf(z)).all()
    assert (rbf.precision(z) * t).mean() == pytest.approx(1, abs=0.05)


# Ensembles

MEMBERS = {
    "alike": [mlp(seed=k) for k in range(4)],
    "of other widths": [mlp(seed=0), mlp(seed=1, width=9), mlp(seed=2, gain=0.5)],
    "functions": [functools.partial(lambda net, z: net(z).tanh(), mlp(seed=k)) for k in range(3)],
    "convolutions": [conv_decoder(seed=k) for k in range(2)],
}
every_ensemble = pytest.mark.parametrize("members", MEMBERS.values(), ids=MEMBERS)


def draws(generator, n=6, dtype=DTYPE):
    return torch.randn(n, 2, generator=generator, dtype=DTYPE).to(dtype)


@every_ensemble
def test_the_metric_of_an_ensemble_is_the_mean_of_its_members_metrics(members, generator):
    z = draws(generator)
    expected = torch.stack([PullbackMetric(f)(z) for f in members]).mean(0)
    torch.testing.assert_close(PullbackMetric(ensemble(members))(z), expected, rtol=1e-12, atol=1e-12)


def test_a_member_drawn_at_random_has_that_metric_on_average(generator):
    members, z = MEMBERS["alike"], draws(generator, 1)
    drawn = torch.randint(len(members), (4000,), generator=generator)
    samples = torch.stack([PullbackMetric(f)(z)[0] for f in members])[drawn]
    error = samples.std(0) / math.sqrt(len(samples))
    assert ((PullbackMetric(ensemble(members))(z)[0] - samples.mean(0)).abs() < 4 * error).all()
    # and the draws are many enough to tell the metric of the members' mean
    assert ((PullbackMetric(ensemble(members).mean)(z)[0] - samples.mean(0)).abs() > 8 * error).any()


@every_ensemble
def test_the_mean_s_metric_and_that_of_the_deviations_add_up(members, generator):
    z, e = draws(generator), ensemble(members)
    deviations = ensemble([lambda z, f=f: f(z) - e.mean(z) for f in members])
    parts = PullbackMetric(e.mean)(z) + PullbackMetric(deviations)(z)
    torch.testing.assert_close(PullbackMetric(e)(z), parts, rtol=1e-10, atol=1e-10)
    # by Cauchy-Schwarz the size of the deviations alone gives no larger metric
    gap = PullbackMetric(e)(z) - PullbackMetric(e.mean, e.std)(z)
    assert (torch.linalg.eigvalsh(gap) >= -1e-10).all()
    # the deviations of two members are opposite, so their direction tells nothing
    assert (float(gap.abs().max()) > 1e-3) == (len(members) > 2)


@pytest.mark.parametrize("dtype", [torch.float32, DTYPE])
def test_an_ensemble_of_one_is_its_decoder(dtype, generator):
    net, z = mlp(dtype=dtype), draws(generator, dtype=dtype)
    one, plain = PullbackMetric(ensemble([net])), PullbackMetric(net)
    assert torch.equal(one(z), plain(z))
    assert torch.equal(one.immersion(z), plain.immersion(z))
    assert one.latent_dim == plain.latent_dim == 2
    assert one.kind == plain.kind
    ours, theirs = (geodesic(metric, z[:3], z[3:]) for metric in (one, plain))
    assert torch.equal(ours.points, theirs.points)


def test_a_constant_disagreement_adds_nothing(generator):
    net, z = mlp(), draws(generator)
    shifted = ensemble([lambda z, c=c: net(z) + c for c in (0.0, 5.0, -3.0)])
    torch.testing.assert_close(PullbackMetric(shifted)(z), PullbackMetric(net)(z), rtol=1e-12, atol=1e-12)
    assert (shifted.std(z) > 3).all()


@every_ensemble
def test_mean_and_deviation_are_those_of_the_members(members, generator):
    z, e = draws(generator), ensemble(members)
    images = torch.stack([f(z) for f in members])
    torch.testing.assert_close(e.mean(z), images.mean(0))
    torch.testing.assert_close(e.std(z), images.std(0, correction=0))
    assert e.std(z.reshape(2, 3, 2)).shape == (2, 3, images.shape[-1])
    torch.testing.assert_close(e.std(z[0]), e.std(z)[0])


def test_independent_members_are_a_distance_apart_at_one_point(generator):
    """The third formula of the docstring: it is not 0 for z = z'."""
    members = MEMBERS["alike"]
    e, (a, b) = ensemble(members), draws(generator, 2)[:, None]
    pairs = itertools.product(members, members)
    expected = torch.stack([(f(a) - g(b)).square().sum() for f, g in pairs]).mean()
    apart = (e.mean(a) - e.mean(b)).square().sum() + e.std(a).square().sum() + e.std(b).square().sum()
    torch.testing.assert_close(apart, expected)


def test_the_deviation_s_derivative_is_zero_where_it_is(generator):
    net, z = mlp(), draws(generator)
    alike = ensemble([net, net])
    assert (alike.std(z) == 0).all()
    torch.testing.assert_close(PullbackMetric(net, alike.std)(z), PullbackMetric(net)(z))
    z.requires_grad_()
    (slope,) = torch.autograd.grad(alike.std(z).sum(), z)
    assert (slope == 0).all()
    assert gradcheck(ensemble(MEMBERS["alike"]).std, (z[:2].detach().requires_grad_(),))


@every_ensemble
def test_derivatives_of_an_ensemble_are_those_of_its_stack(members, generator):
    z, tangents = draws(generator, 3), torch.randn(2, 3, 2, generator=generator, dtype=DTYPE)
    e = ensemble(members)
    values, derivatives, pull = push_forward_twice(e, z, tangents)
    expected = push_forward_twice(e.forward, z, tangents)  # torch's own modes, as for any function
    torch.testing.assert_close(values, e(z))
    torch.testing.assert_close(derivatives, expected[1])
    torch.testing.assert_close(push_forward(e, z, tangents)[1], expected[1])
    cotangent = torch.randn(values.shape, generator=generator, dtype=DTYPE)
    for ours, theirs in zip(pull(cotangent), expected[2](cotangent), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_affine_members_have_no_second_derivatives(generator):
    e = ensemble([nn.Linear(2, 5).double(), nn.Linear(2, 5).double()])
    z = draws(generator, 3)
    assert push_forward_twice(e, z, z.expand(1, 3, 2))[2](e(z))[1] is None
    start, end = draws(generator, 2)
    assert bool(geodesic(PullbackMetric(e), start, end).converged)


def test_geodesics_of_an_ensemble_converge(generator):
    start, end = draws(generator, 10).chunk(2)
    metric = PullbackMetric(ensemble([mlp(seed=k, gain=1) for k in range(5)]))
    g = geodesic(metric, start, end)
    assert g.converged.all()
    assert (g.improvement > 0).all()


def test_an_ensemble_carries_its_members(generator):
    nets = [mlp(seed=k) for k in range(2)]
    first, second = nets
    e = ensemble([first, lambda z: 2 * second(z)])
    assert {id(p) for p in e.parameters()} == {id(p) for net in nets for p in net.parameters()}
    assert ensemble(nn.ModuleList(nets)).decoders == nets
    single = copy.deepcopy(ensemble(nets)).float()
    z = draws(generator)
    torch.testing.assert_close(single(z.float()), ensemble(nets)(z).float(), rtol=1e-4, atol=1e-4)
    length = geodesic(PullbackMetric(e), z[:1], z[1:2], differentiable=True).length
    slopes = torch.autograd.grad(length.sum(), list(e.parameters()))
    assert all(bool((slope != 0).any()) for slope in slopes[::2])
    trained = ensemble([nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5)), nn.Linear(2, 3)])
    with pytest.raises(ValueError, match="Dropout layer is in training mode"):
        PullbackMetric(trained)(z.float())


@pytest.mark.parametrize(
    ("decoders", "error", "sentence"),
    [
        (mlp(), TypeError, "decoders: got Sequential, expected a list of decoders"),
        (len, TypeError, "decoders: got builtin_function_or_method, expected a list of decoders"),
        ([], ValueError, "decoders: got none"),
        ([mlp(), 3], TypeError, r"decoders\[1\]: got int, expected a callable"),
    ],
)
def test_bad_decoders_are_told(decoders, error, sentence):
    with pytest.raises(error, match=sentence):
        ensemble(decoders)


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (mlp(D=5), r"decoders\[1\]: returned 5 outputs, expected 7 like decoders\[0\]"),
        (lambda z: z[0].repeat(7), r"decoders\[1\]: returned shape \(14,\) for"),
    ],
)
def test_members_that_do_not_fit_are_told(other, sentence, generator):
    with pytest.raises(ValueError, match=sentence):
        PullbackMetric(ensemble([mlp(), other]))(draws(generator))


def test_an_ensemble_is_evaluated_no_more_often_than_one_decoder(generator):
    """K times the cost of one, and nothing else: a metric is one pass through every member."""
    calls = []

    class Counted(nn.Sequential):
        def forward(self, z):
            calls.append(len(z))
            return super().forward(z)

    members = [Counted(*mlp(seed=k)) for k in range(5)]
    z = draws(generator, 40)
    metric = PullbackMetric(ensemble(members))
    metric(z)  # tries the maps
    calls.clear()
    metric(z)
    assert calls == 5 * [40]


@pytest.mark.parametrize("offset", [0.0, 1e4, 1e6])
def test_latents_far_from_the_origin_have_a_variance_in_float32(offset, generator):
    latents = torch.randn(200, 2, generator=generator) + offset
    rbf = fit_rbf_precision(latents, torch.rand(200, 3, generator=generator) + 0.1, n_centers=8)
    exact = fit_rbf_precision(latents.double(), torch.ones(200, 3, dtype=DTYPE), n_centers=8)
    torch.testing.assert_close(rbf.bandwidths.double(), exact.bandwidths, rtol=1e-5, atol=0)
    assert torch.isfinite(rbf.weights).all()
    std = rbf(latents)
    assert torch.isfinite(std).all()
    assert 0.5 < std.median() < 1.2  # the root of the target


@pytest.mark.parametrize(("scale", "word"), [(1e-20, "small"), (1e25, "large")])
def test_latents_whose_bandwidths_overflow_are_refused(scale, word, generator):
    latents = scale * torch.randn(200, 2, generator=generator)
    with pytest.raises(ValueError, match=rf"latents: their spread, .* is too {word} for bandwidths in torch.float32"):
        fit_rbf_precision(latents, torch.ones(200, 3), n_centers=8)
    assert torch.isfinite(fit_rbf_precision(latents.double(), torch.ones(200, 3).double(), n_centers=8).weights).all()
