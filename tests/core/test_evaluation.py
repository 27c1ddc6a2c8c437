"""Algorithm 1 and the comparison of two models."""

import math

import pytest
import torch
from problems import deviation, flat_plane, half_plane, linear_decoder, linear_map, mlp, sphere
from scipy import stats

from geolib import PullbackMetric, Status, compare_models, fit_rbf_precision, geodesic, relative_improvement

pytestmark = pytest.mark.smoke

DTYPE = torch.float64


def decoder(dtype=DTYPE, **options):
    return PullbackMetric(mlp(gain=1, dtype=dtype), deviation(gain=1, dtype=dtype), **options)


def shifted_half_plane(z):
    """The half-plane, moved down so that normal draws lie inside."""
    return half_plane().metric(z + z.new_tensor([0.0, 8.0]))


# Algorithm 1


@pytest.mark.parametrize("step_size", [0.3, 1.0])
@pytest.mark.parametrize("d", [2, 3])
def test_ends_are_one_step_along_v_max_towards_the_origin(d, step_size):
    metric = PullbackMetric(mlp(d, gain=1))
    mc = relative_improvement(metric, n_samples=50, step_size=step_size)
    assert mc.start.shape == mc.end.shape == (50, d)
    step = mc.end - mc.start
    torch.testing.assert_close(step.norm(dim=-1), torch.full((50,), step_size, dtype=DTYPE))
    M = metric(mc.start)
    largest = torch.linalg.eigvalsh(M)[:, -1:]
    torch.testing.assert_close(torch.einsum("nij,nj->ni", M, step), largest * step, rtol=1e-7, atol=1e-9)
    # footnote 1: in every sample the eigenvector points towards the origin
    assert ((step * mc.start).sum(-1) <= 0).all()


@pytest.mark.slow
def test_starts_are_standard_normal():
    mc = relative_improvement(flat_plane().metric, n_samples=2000, latent_dim=2, dtype=DTYPE)
    for values in mc.start.T:
        assert stats.kstest(values.numpy(), "norm").pvalue > 1e-3
    assert abs(torch.corrcoef(mc.start.T)[0, 1]) < 0.1


def test_geodesics_run_between_the_samples():
    mc = relative_improvement(decoder(), n_samples=6, n_segments=12, max_steps=30)
    assert mc.geodesic.points.shape == (6, 13, 2)
    torch.testing.assert_close(mc.geodesic.points[:, 0], mc.start)
    torch.testing.assert_close(mc.geodesic.points[:, -1], mc.end)
    assert mc.geodesic.n_steps.max() <= 30
    expected = geodesic(decoder(), mc.start, mc.end, n_segments=12, max_steps=30).improvement
    torch.testing.assert_close(mc.improvement, expected)


def test_numbers_are_those_of_the_samples():
    mc = relative_improvement(decoder(), n_samples=20)
    x = mc.improvement.numpy()
    assert mc.mean == pytest.approx(x.mean())
    assert mc.mean > 1e-3
    assert mc.std == pytest.approx(x.std(ddof=1))
    low, high = stats.t.interval(0.95, 19, loc=x.mean(), scale=stats.sem(x))
    assert mc.interval == pytest.approx((low, high))


def test_one_sample_has_a_mean_and_nothing_else():
    mc = relative_improvement(decoder(), n_samples=1)
    assert mc.improvement.shape == (1,)
    assert mc.mean == pytest.approx(float(mc.improvement[0]))
    assert math.isnan(mc.std)
    assert all(math.isnan(x) for x in mc.interval)


def test_two_samples_have_an_interval():
    mc = relative_improvement(decoder(), n_samples=2)
    low, high = mc.interval
    assert low < mc.mean < high


@pytest.mark.parametrize("space", [flat_plane(), linear_decoder("linear", linear_map(2, 5, 30))], ids=str)
def test_flat_spaces_cannot_be_improved(space):
    mc = relative_improvement(space.metric, n_samples=20, latent_dim=2, dtype=DTYPE)
    assert mc.mean == pytest.approx(0, abs=1e-9)
    assert mc.interval == pytest.approx((0, 0), abs=1e-9)


def test_a_linear_decoder_is_left_along_its_first_singular_vector():
    A = linear_map(3, 6, 30)
    mc = relative_improvement(linear_decoder("", A).metric, n_samples=20, latent_dim=3, dtype=DTYPE)
    v = torch.linalg.svd(A).Vh[0]
    torch.testing.assert_close(((mc.end - mc.start) @ v).abs(), torch.ones(20, dtype=DTYPE))
    torch.testing.assert_close(mc.geodesic.length, torch.full((20,), 30.0, dtype=DTYPE))


def test_on_the_sphere_the_step_is_along_the_meridian():
    # whose metric is diag(1, sin^2 theta), also without an immersion
    for metric in (sphere().metric, sphere().tensor):
        mc = relative_improvement(metric, n_samples=20, latent_dim=2, dtype=DTYPE, step_size=0.1, max_steps=2)
        torch.testing.assert_close((mc.end - mc.start).abs(), mc.start.new_tensor([0.1, 0.0]).expand(20, 2))


def test_exact_improvements_of_the_half_plane():
    # a metric without immersion; lines here have closed lengths too: vertical log(y1/y0), else |b - a| log(y1/y0) / dy
    mc = relative_improvement(shifted_half_plane, n_samples=20, step_size=2.0, latent_dim=2, dtype=DTYPE, rtol=1e-6)
    a, b = mc.start + mc.start.new_tensor([0.0, 8.0]), mc.end + mc.end.new_tensor([0.0, 8.0])
    dy = b[:, 1] - a[:, 1]
    ratio = torch.where(dy.abs() > 1e-6, (b[:, 1] / a[:, 1]).log() / dy, 1 / a[:, 1])
    line = (b - a).norm(dim=-1) * ratio
    exact = 1 - half_plane().distance(a, b) / line
    torch.testing.assert_close(mc.improvement, exact, rtol=0, atol=1e-5)


@pytest.mark.parametrize("chunk_size", [7, 64])
def test_same_seed_same_numbers_for_any_chunks(chunk_size):
    a, b = (relative_improvement(decoder(chunk_size=c), n_samples=10, seed=3) for c in (chunk_size, None))
    assert torch.equal(a.start, b.start)
    torch.testing.assert_close(a.end, b.end, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(a.improvement, b.improvement, rtol=0, atol=1e-4)


def test_same_seed_same_numbers_for_any_dtype():
    double = relative_improvement(decoder(), n_samples=20, seed=3)
    single = relative_improvement(decoder(torch.float32), n_samples=20, seed=3)
    assert single.start.dtype == single.improvement.dtype == torch.float32
    torch.testing.assert_close(single.start, double.start.float())
    torch.testing.assert_close(single.end.double(), double.end, rtol=0, atol=1e-3)
    assert single.mean == pytest.approx(double.mean, abs=1e-4)
    torch.testing.assert_close(single.improvement.double(), double.improvement, rtol=0, atol=3e-4)


def test_seed_decides_and_touches_no_global_state():
    state = torch.get_rng_state()
    a, b, c = (relative_improvement(decoder(), n_samples=4, seed=s, max_steps=2) for s in (1, 1, 2))
    assert torch.equal(a.start, b.start) and torch.equal(a.improvement, b.improvement)
    assert not torch.equal(a.start, c.start)
    assert torch.equal(torch.get_rng_state(), state)


def test_latent_dim_dtype_and_device_come_from_the_metric(generator):
    assert relative_improvement(decoder(), n_samples=2, max_steps=2).start.dtype == DTYPE
    z = torch.randn(50, 3, generator=generator)
    rbf = fit_rbf_precision(z, torch.rand(50, 4, generator=generator) + 0.1, n_centers=5)
    W = torch.randn(3, 4, generator=generator)
    mc = relative_improvement(PullbackMetric(lambda x: (x @ W).sin(), rbf), n_samples=2, max_steps=2)
    assert mc.start.shape == (2, 3)
    assert mc.start.dtype == torch.float32
    mc = relative_improvement(sphere().metric, n_samples=2, latent_dim=2, max_steps=2)
    assert mc.start.dtype == torch.get_default_dtype()


def test_torch_s_default_dtype_is_used_without_parameters(float64):
    mc = relative_improvement(sphere().metric, n_samples=2, latent_dim=2, max_steps=2)
    assert mc.improvement.dtype == float64


# sampling until the interval is narrow


@pytest.mark.parametrize("until", [0.006, 0.003])
def test_sampling_goes_on_until_the_interval_is_narrow(until):
    first = relative_improvement(decoder(), n_samples=20, seed=2)
    assert first.half_width > until
    mc = relative_improvement(decoder(), n_samples=20, seed=2, until=until)
    n = len(mc.improvement)
    assert mc.half_width <= until
    low, high = mc.interval
    assert (high - low) / 2 == pytest.approx(mc.half_width)
    # no more than that takes: a standard deviation as at the end needs so many
    assert 20 < n < 2 * (stats.t.ppf(0.975, n - 1) * mc.std / until) ** 2
    # the first pairs are those without it
    assert torch.equal(mc.start[:20], first.start)
    torch.testing.assert_close(mc.improvement[:20], first.improvement)
    assert len(mc.start.unique(dim=0)) == n


def test_what_was_added_is_joined_in_order():
    mc = relative_improvement(decoder(), n_samples=5, until=0.005, n_segments=8, max_steps=10)
    n = len(mc.improvement)
    assert n > 5
    assert mc.geodesic.points.shape == (n, 9, 2)
    torch.testing.assert_close(mc.geodesic.points[:, 0], mc.start)
    torch.testing.assert_close(mc.geodesic.points[:, -1], mc.end)
    torch.testing.assert_close(mc.geodesic.curve(torch.tensor([0.0, 1.0], dtype=DTYPE))[:, 1], mc.end)


def test_a_wide_interval_is_reached_at_once():
    mc = relative_improvement(decoder(), n_samples=10, until=10.0)
    assert torch.equal(mc.start, relative_improvement(decoder(), n_samples=10).start)
    flat = relative_improvement(flat_plane().metric, n_samples=3, latent_dim=2, dtype=DTYPE, until=1e-6)
    assert len(flat.improvement) == 3


def test_sampling_stops_at_the_most_samples_and_says_so():
    with pytest.warns(UserWarning, match=r"until: half the interval's width is 0\.0\d+ after 30 pairs, not 1e-09"):
        mc = relative_improvement(decoder(), n_samples=10, until=1e-9, max_samples=30, max_steps=2)
    assert len(mc.improvement) == 30
    assert torch.equal(mc.start[:10], relative_improvement(decoder(), n_samples=10, max_steps=2).start)


# what the mean rests on


def test_the_mean_says_what_it_rests_on():
    metric = decoder()
    whole = relative_improvement(metric, n_samples=12)
    assert whole.n_pairs == whole.n_converged == 12
    assert whole.bounds == pytest.approx((whole.mean, whole.mean))
    short = relative_improvement(metric, n_samples=12, max_steps=1, rtol=1e-7)
    assert short.n_pairs == 12 and short.n_converged < 12
    low, high = short.bounds
    assert low == pytest.approx(short.mean)
    assert low <= relative_improvement(metric, n_samples=12, rtol=1e-7).mean <= high < 1
    g = short.geodesic
    most = torch.where(g.converged, g.improvement, 1 - g.lower_bound / g.line_length)
    assert high == pytest.approx(float(most.mean()))
    assert short.report().startswith(f"mean {short.mean:.4g} over 12 of 12 pairs, of which {short.n_converged} converg")
    assert "max_steps" in short.report()


def test_pairs_where_the_metric_is_not_finite_cost_the_others_nothing():
    """Draws and ends on a strip, and a hole between a start and its end."""
    space, options = sphere(), {"n_samples": 40, "latent_dim": 2, "dtype": DTYPE, "step_size": 0.5}
    free = relative_improvement(lambda z: space.tensor(z + 1.5), **options, max_steps=1)
    middle = (free.start[1] + free.end[1]) / 2
    for k in (0, 39):  # the first draw is off the domain, or not

        def metric(z, at=free.start[k]):
            off = ((z[..., 0] - at[0]).abs() < 0.02) | ((z - middle).norm(dim=-1) < 0.1)
            return space.tensor(z + 1.5) * torch.where(off, torch.nan, 1.0)[..., None, None]

        mc = relative_improvement(metric, **options)
        lost = mc.geodesic.status == Status.NOT_FINITE
        assert lost[1] and lost[k] and lost.sum() < 20
        off = torch.isnan(metric(mc.start)[:, 0, 0]) | torch.isnan(metric(mc.end)[:, 0, 0])
        assert (off <= lost).all() and off[k] and not off[1]
        assert torch.equal(mc.improvement.isnan(), lost)
        assert mc.n_pairs == 40 - int(lost.sum())
        known = mc.improvement[~lost]
        assert mc.mean == pytest.approx(float(known.mean()))
        assert mc.std == pytest.approx(float(known.std()))
        low, high = mc.bounds
        assert low == pytest.approx(float(known.sum()) / 40)
        assert high == pytest.approx((float(known.sum()) + float(lost.sum())) / 40)
        torch.testing.assert_close(mc.geodesic.points[:, 0], mc.start)
        alone = geodesic(metric, mc.start[~lost], mc.end[~lost])
        torch.testing.assert_close(known, alone.improvement, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="metric: not finite at"):
        relative_improvement(lambda z: metric(z) * torch.nan, n_samples=4, latent_dim=2, dtype=DTYPE)


def test_a_pair_that_is_not_finite_in_one_model_is_not_comparable(models):
    a, (m, s, e) = models

    def holed(z):
        return (
            m.unchecked(z.reshape(-1, 3)).reshape(*z.shape, 3)
            * torch.where((z - (s[2] + e[2]) / 2).norm(dim=-1) < 0.1, torch.nan, 1.0)[..., None, None]
        )

    cmp = compare_models(a, (holed, s, e), threshold=1)
    assert cmp.comparable.tolist() == [True, True, False, True, True, True]
    assert cmp.difference[cmp.best] == cmp.difference[cmp.comparable].min()


BAD = {
    "until: got 0": {"until": 0.0},
    "until: got nan": {"until": math.nan},
    "until: got '1 %'": {"until": "1 %"},
    "n_samples: got 1, expected at least 2 with until": {"until": 0.1, "n_samples": 1},
    "max_samples: got 0, expected at least 1": {"until": 0.1, "max_samples": 0},
    "n_samples: got 0, expected at least 1": {"n_samples": 0},
    "n_samples: got 2.0": {"n_samples": 2.0},
    "step_size: got 0": {"step_size": 0},
    "step_size: got -1": {"step_size": -1.0},
    "seed: got -1": {"seed": -1},
    "latent_dim: got 0": {"latent_dim": 0},
    "speed: not an option of method": {"speed": 1},
    "method: got 'magic'": {"method": "magic"},
}


@pytest.mark.parametrize("sentence", BAD)
def test_bad_input_is_told(sentence):
    with pytest.raises((TypeError, ValueError), match=sentence):
        relative_improvement(decoder(), **({"n_samples": 2} | BAD[sentence]))


def test_latent_dim_is_asked_for_where_it_cannot_be_known():
    for metric in (flat_plane().metric, sphere().metric):
        with pytest.raises(TypeError, match="latent_dim"):
            relative_improvement(metric, n_samples=2)


# Two models


@pytest.fixture
def models(generator):
    """Two models with latent dimensions 2 and 3, and six pairs encoded by each."""
    a = (decoder(), *torch.randn(2, 6, 2, generator=generator, dtype=DTYPE))
    b = (PullbackMetric(mlp(3, seed=5, gain=1)), *torch.randn(2, 6, 3, generator=generator, dtype=DTYPE))
    return a, b


def test_comparison_is_two_batches_of_geodesics(models):
    cmp = compare_models(*models, threshold=0.01)
    for model, g in zip(models, (cmp.a, cmp.b), strict=True):
        torch.testing.assert_close(g.improvement, geodesic(*model).improvement)
    difference = (cmp.a.improvement - cmp.b.improvement).abs()
    torch.testing.assert_close(cmp.difference, difference)
    assert torch.equal(cmp.comparable, difference <= 0.01)
    assert 0 < cmp.comparable.sum() < 6  # else this test says nothing
    assert cmp.best == int(difference.argmin())
    assert isinstance(cmp.best, int)
    assert cmp.comparable[cmp.best]


def test_comparison_is_symmetric(models):
    there, back = compare_models(*models), compare_models(*reversed(models))
    torch.testing.assert_close(there.difference, back.difference)
    assert torch.equal(there.comparable, back.comparable)
    assert there.best == back.best


def test_a_model_is_comparable_with_itself(models):
    cmp = compare_models(models[0], models[0], threshold=1e-9)
    assert cmp.comparable.all()
    assert cmp.difference.max() < 1e-12


def test_threshold_decides(models):
    assert compare_models(*models, threshold=1).comparable.all()
    strict = compare_models(*models, threshold=1e-12)
    assert not strict.comparable.any()
    assert strict.best in range(6)


def test_models_may_differ_in_dtype(models):
    a, b = models
    single = (decoder(torch.float32), a[1].float(), a[2].float())
    cmp = compare_models(single, b)
    assert cmp.difference.dtype == DTYPE
    torch.testing.assert_close(cmp.difference, compare_models(a, b).difference, rtol=0, atol=1e-3)


def test_options_reach_both_solvers(models):
    cmp = compare_models(*models, n_segments=8, max_steps=2)
    assert cmp.a.points.shape == (6, 9, 2)
    assert cmp.b.points.shape == (6, 9, 3)
    assert max(cmp.a.n_steps.max(), cmp.b.n_steps.max()) <= 2


def test_pairs_that_do_not_match_are_refused(models):
    (m, s, e), b = models
    for wrong in ((m, s[:5], e[:5]), (m, s[:1], e), (m, s, e[:5])):
        for pair in ((wrong, b), (b, wrong)):
            with pytest.raises(ValueError, match=r"model_a, model_b: got \[.*expected the same pairs"):
                compare_models(*pair)
    for wrong in ((m, s[0], e[0]), (m, s[None], e[None])):
        with pytest.raises(ValueError, match=r"model_b's start: got shape .* expected \(n, d\)"):
            compare_models(b, wrong)


def test_models_that_are_none_are_refused(models):
    a, (m, s, e) = models
    for wrong, sentence in (
        (m, "model_b: expected a tuple"),
        ((m, s), "model_b: expected a tuple"),
        ((m, s, e, s), "model_b: expected a tuple"),
        ((m, s, e.tolist()), "model_b's end: got list"),
        ((m, s, e.float()), "end: got dtype"),
        ((3, s, e), "metric: got int"),
    ):
        with pytest.raises((TypeError, ValueError), match=sentence):
            compare_models(a, wrong)
    for threshold in (0, -1, math.nan):
        with pytest.raises(ValueError, match="threshold: got"):
            compare_models(a, a, threshold=threshold)
    with pytest.raises(ValueError, match="zero pairs"):
        compare_models((m, s[:0], e[:0]), (m, s[:0], e[:0]))
