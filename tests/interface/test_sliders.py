"""The pages of notebooks 04 and 05 without a browser: what they are given, what the kernel answers, what Node finds."""

import base64

import numpy as np
import pytest
import torch
from project import small_generator
from test_explorer_numerics import NODE, node

import geolib
from geolib.companion.interface.explorer import scene, widget
from geolib.companion.models import generators
from geolib.companion.studies.linear_interpolation import explorer as study
from geolib.companion.studies.linear_interpolation import two_models

N = 12

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def g(tmp_path_factory):
    return small_generator(tmp_path_factory)


@pytest.fixture(scope="module")
def steps(g):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "N_SAMPLES", N)
        yield widget.Steps(g, first=0.6, seed=3, notice="bundled")


@pytest.fixture(scope="module")
def found(g):
    """One model twice, the second without its variance."""
    other = generators.Generator(
        g.data, g.vae, g.rbf, geolib.PullbackMetric(g.vae.mean), g.train_latents, g.test_latents, g.test_labels
    )
    first, second = generators.test_pairs(g.data, 5, seed=0)
    sides = ((each.metric, g.test_latents[first], g.test_latents[second]) for each in (g, other))
    comparison = geolib.compare_models(*sides, threshold=0.004)
    return two_models.measure((g, other), first, second, comparison, [])


def test_the_page_of_steps_begins_with_the_solvers_mean(g, steps):
    given = steps.scene
    expected = geolib.relative_improvement(g.metric, n_samples=N, step_size=0.6, seed=3, rtol=1e-3, max_steps=20)
    assert given["steps"] == sorted({*study.STEPS, 0.6})
    assert given["steps"][given["first"]] == 0.6
    assert given["exact"] == {str(given["first"]): {"mean": expected.mean, "half": expected.half_width}}
    torch.testing.assert_close(torch.tensor(given["starts"]), expected.start.float())
    assert given["notice"] == "bundled"


def test_the_page_of_steps_has_the_table_of_the_metric(g, steps):
    table = steps._found.table
    expected = geolib.tabulate(g.metric, table.lower, table.upper, resolution=study.RESOLUTION)
    torch.testing.assert_close(table.logs, expected.logs, rtol=0, atol=2e-3)
    ends = [
        geolib.relative_improvement(g.metric, n_samples=N, step_size=size, seed=3, max_steps=1).end
        for size in (0.1, 2.0)
    ]
    for points in (g.test_latents, steps._found.samples.start, *ends):
        assert bool(((points >= table.lower) & (points <= table.upper)).all())


def test_the_kernel_answers_with_algorithm_1_at_another_step(g, steps):
    place = steps.scene["steps"].index(1.5)
    answer = steps.answer({"id": 1, "kind": "improvement", "place": place})
    expected = geolib.relative_improvement(g.metric, n_samples=N, step_size=1.5, seed=3, rtol=1e-3, max_steps=20)
    assert answer["improvement"] == {"mean": expected.mean, "half": expected.half_width}


@pytest.mark.skipif(NODE is None, reason="no node here (apt-get install nodejs), which runs the page's numerics")
@pytest.mark.parametrize("size", [0.6, 1.5])
def test_the_page_finds_algorithm_1_itself(g, steps, size):
    """Its lines are the solver's, and so are its curves' lengths within one per cent."""
    program = """
    const table = new Table({ ...given.box, logs: steps(given.logs) });
    const graph = new Graph(table);
    print(given.starts.map((x) => {
        const end = stepped(table, x, given.size);
        const curve = fastCurve(graph, null, x, end);
        return [...end, curve.line, curve.length];
    }));"""
    *end, line, length = node(program, **steps.scene, size=size).unbind(-1)
    expected = geolib.relative_improvement(g.metric, n_samples=N, step_size=size, seed=3, rtol=1e-3, max_steps=20)
    # where both eigenvalues are almost the same, the table's direction may be another
    same = (torch.stack(end, dim=-1) - expected.end.double()).norm(dim=-1) < 0.05 * size
    assert int(same.sum()) >= 0.8 * N
    curves = expected.geodesic
    torch.testing.assert_close(line[same], curves.line_length.double()[same], rtol=0.01, atol=0)
    torch.testing.assert_close(length[same], curves.length.double()[same], rtol=0.01, atol=0)


@pytest.mark.skipif(NODE is None, reason="no node here (apt-get install nodejs), which runs the page's numerics")
def test_the_pages_interval_is_students(generator):
    values = torch.rand(9, generator=generator, dtype=torch.float64)
    samples = torch.stack([values.mean(), 2.306004 * values.std() / 3])
    program = "const { mean, half } = meanOf(given.values, 2.306004); print([mean, half]);"
    torch.testing.assert_close(node(program, values=values.tolist()), samples)


def test_the_page_of_pairs_has_both_improvements_and_all_strips(g, found):
    given = widget.Pairs(found).scene
    comparison = found.comparison
    assert given["thresholds"][given["first"]] == pytest.approx(0.4)
    assert [pair["difference"] for pair in given["pairs"]] == comparison.difference.tolist()
    for side, model in zip((comparison.a, comparison.b), (0, 1), strict=True):
        assert [pair["improvements"][model] for pair in given["pairs"]] == side.improvement.tolist()
    at = given["thresholds"][given["first"]]
    near = [100 * pair["difference"] <= at for pair in given["pairs"]]
    assert near == comparison.comparable.tolist()
    assert [pair["labels"] for pair in given["pairs"]] == [
        [int(g.test_labels[i]), int(g.test_labels[j])] for i, j in zip(found.first, found.second, strict=True)
    ]
    stored = np.frombuffer(base64.b64decode(given["strips"]["data"]), "u1").reshape(5, 4, given["strips"]["images"], -1)
    for k, strip in enumerate(found.strips(2, given["strips"]["images"])):
        torch.testing.assert_close(torch.from_numpy(stored[2, k] / 255).float(), strip, rtol=0, atol=1 / 255)


def test_a_question_that_pairs_do_not_have(found):
    with pytest.raises(ValueError, match="kind: got 'fit', expected one of "):
        widget.Pairs(found).answer({"id": 1, "kind": "fit"})


def test_values_in_eight_bits_are_clipped():
    text = scene.eight_bits(torch.tensor([-3.0, -1.0, 0.0, 1.0, 2.0]), -1.0, 1.0)
    assert list(base64.b64decode(text)) == [0, 0, 128, 255, 255]
