"""The explorer's numerics, run by Node: what it interpolates, finds and decodes is what geolib does."""

import base64
import dataclasses
import json
import shutil
import subprocess

import pytest
import torch
from project import small_ensemble, small_generator

import geolib
from geolib.companion.interface.explorer import module, scene
from geolib.companion.models import recipes
from geolib.companion.studies.linear_interpolation import explorer as study

NODE = shutil.which("node")
SETTING = study.Setting(n_centers=8, curvature=4.0)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(NODE is None, reason="no node here (apt-get install nodejs), which runs the page's numerics"),
]


def node(program, **given):
    """What a program prints as JSON; it sees the module's names and what is ``given``."""
    own = f"const given = {json.dumps(given)};\nconst print = (x) => console.log(JSON.stringify(x));\n"
    done = subprocess.run(
        [NODE, "--input-type=module", "-"],
        input=f"{module.source()}\n{own}{program}",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return found if isinstance(found, str) else torch.tensor(found, dtype=torch.float64)


TABLE = "const table = new Table({ ...given.box, logs: steps(given.logs) }); const graph = new Graph(table);\n"


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    return small_generator(tmp_path_factory)


@pytest.fixture(scope="module")
def landscape(generator):
    return study.Explored(generator, SETTING).landscape(SETTING)


@pytest.fixture(scope="module")
def given(landscape):
    table = landscape.table
    box = {"n": table.resolution, "lower": table.lower.tolist(), "upper": table.upper.tolist()}
    return {"box": box, **scene.table(landscape)}


def points_in(table, n, *, share=1.0):
    z = torch.rand(n, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return torch.lerp(table.lower.double(), table.upper.double(), 0.5 + share * (z - 0.5))


def test_the_tensor_between_nodes_is_that_of_the_table(landscape, given):
    z = points_in(landscape.table, 200)
    found = node(TABLE + "print(given.z.map(([x, y]) => table.tensor(x, y)));", z=z.tolist(), **given)
    M = landscape.table(z.float()).double()
    expected = torch.stack([M[:, 0, 0], M[:, 0, 1], M[:, 1, 1]], dim=-1)
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3 * float(M.abs().median()))


def test_volume_condition_and_ellipse_are_those_of_the_metric(landscape, given):
    z = points_in(landscape.table, 50)
    program = """print(given.z.map(([x, y]) => {
        const { long, short, angle } = ellipse(table, x, y);
        return [long, short, Math.cos(angle), Math.sin(angle)];
    }));"""
    long, short, *axis = node(TABLE + program, z=z.tolist(), **given).unbind(-1)
    M = landscape.table(z.float()).double()
    torch.testing.assert_close(1 / (long * short), geolib.magnification_factor(M), rtol=5e-3, atol=0)
    torch.testing.assert_close((long / short) ** 2, geolib.condition_number(M), rtol=5e-3, atol=0)
    along = torch.stack(axis, dim=-1)
    # a step along the longer half axis has length 1
    torch.testing.assert_close(
        torch.einsum("na,nab,nb->n", along, M, along) * long**2, torch.ones(50, dtype=torch.float64), rtol=5e-3, atol=0
    )
    nodes = node(TABLE + "print([[...logVolume(table)], [...logCondition(table)]]);", **given)
    M = landscape.table.logs.double()
    torch.testing.assert_close(nodes[0], M[..., 0].flatten(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(nodes[1], 2 * M[..., 1:].norm(dim=-1).flatten(), rtol=1e-3, atol=2e-3)


def test_the_energys_gradient_is_that_of_its_values(landscape, given):
    curve = points_in(landscape.table, 9, share=0.8).flatten().tolist()
    program = """
    const points = Float64Array.from(given.curve);
    const gradient = new Float64Array(points.length);
    energy(table, points, gradient, new Float64Array(24));
    print([[...gradient], given.curve.map((x, k) => {
        const values = [1e-6, -1e-6].map((step) => {
            points[k] = x + step;
            return energy(table, points);
        });
        points[k] = x;
        return (values[0] - values[1]) / 2e-6;
    })]);"""
    found, expected = node(TABLE + program, curve=curve, **given)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_lengths_of_100_curves_are_those_of_the_solver(landscape, given, generator):
    """Against the metric itself: what the table and the fast curve leave out together is less than one per cent."""
    start, end = (generator.test_latents[rows] for rows in (slice(100), slice(100, 200)))
    exact = landscape.curve(start, end)
    assert float(exact.converged.double().mean()) > 0.9
    program = """print(given.pairs.map(([a, b]) => {
        const from = fastCurve(graph, graph.search(...a), a, b);
        const back = fastCurve(graph, graph.search(...b), a, b, { reversed: true });
        return [from.length, back.length, from.line, from.improvement, lengthOf(table, from.points),
            Math.hypot(from.points[0] - a[0], from.points[1] - a[1]), Math.hypot(from.points.at(-2) - b[0],
            from.points.at(-1) - b[1])];
    }));"""
    pairs = torch.stack([start, end], dim=1).tolist()
    length, back, line, improvement, again, *ends = node(TABLE + program, pairs=pairs, **given).unbind(-1)
    torch.testing.assert_close(length, exact.length.double(), rtol=0.01, atol=0)
    torch.testing.assert_close(back, exact.length.double(), rtol=0.01, atol=0)
    torch.testing.assert_close(line, exact.line_length.double(), rtol=0.01, atol=0)
    torch.testing.assert_close(improvement, 1 - length / line)
    torch.testing.assert_close(again, length, rtol=1e-3, atol=0)
    assert bool((length <= line).all())
    assert float(torch.stack(ends).max()) == 0.0


def test_the_grids_distances_are_those_of_the_plane():
    """Where the metric is constant, distances are known: the grid's are longer by a few per cent at most."""
    logs = torch.tensor([0.3, 0.9, -0.4]).expand(41, 41, 3)  # 4.8 to 1 in speed
    box = {"n": 40, "lower": [-1.0, -2.0], "upper": [1.0, 2.0]}
    program = """
    const found = graph.search(0.013, -0.027);
    print([...found.distance].map((length, node) => {
        const [x, y] = graph.place(node);
        return [length, lengthOf(table, [0.013, -0.027, x, y])];
    }));"""
    found, expected = node(TABLE + program, box=box, logs=scene.steps(logs)).unbind(-1)
    assert bool((found >= expected * (1 - 1e-6)).all())
    assert float((found / expected).max()) < 1.1
    assert float((found / expected).median()) < 1.02


def test_points_at_equal_steps_of_length(landscape, given):
    curve = points_in(landscape.table, 2).flatten().tolist()  # straight, as a chord across a corner is shorter
    program = """
    const points = evenly(table, Float64Array.from(given.curve), 30);
    const marks = new Float64Array(31);
    lengthOf(table, points, marks);
    print([...marks]);"""
    marks = node(TABLE + program, curve=curve, **given)
    gaps = marks.diff()
    assert float(gaps.max() / gaps.min()) < 1.5


def test_the_page_decodes_what_the_decoder_does(generator):
    z = generator.test_latents[:20]
    program = "const decoder = new Decoder(given.layers); print(given.z.map((z) => [...decoder.decode(z)]));"
    found = node(program, layers=scene.decoder(generator.vae.mean), z=z.tolist())
    torch.testing.assert_close(found, generator.vae.mean(z).double(), rtol=0, atol=1e-5)


def test_an_atlas_mixes_its_images():
    """25 images a side in the module; here 3, whose pixels are linear in the latents, so that mixing is exact."""
    grid = torch.cartesian_prod(torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([0.0, 2.0, 4.0]))
    pixels = torch.stack([100 + 50 * grid[:, 0], 40 * grid[:, 1]], dim=-1).to(torch.uint8)
    data = base64.b64encode(pixels.numpy().tobytes()).decode()
    given = {"lower": [-1, 0], "upper": [1, 4], "side": 3, "size": 2, "data": data}
    points = [[-1.0, 0.0], [0.3, 1.7], [1.0, 4.0], [-5.0, 9.0]]
    found = node(
        "const atlas = new Atlas(given.atlas); print(given.z.map((z) => [...atlas.decode(z)]));", atlas=given, z=points
    )
    z = torch.tensor(points, dtype=torch.float64)
    x, y = z[:, 0].clamp(-1, 1), z[:, 1].clamp(0, 4)
    torch.testing.assert_close(found, torch.stack([100 + 50 * x, 40 * y], dim=-1) / 255, rtol=0, atol=1e-6)


def test_what_has_no_length_is_said_in_words():
    curve = {"sentence": "the metric is not finite", "residual": None, "index": 0, "status": "NOT_FINITE"}
    solved = {**curve, "sentence": "a geodesic", "residual": 2.5e-5, "index": 1, "status": "CONVERGED"}
    said = node(
        """print([percent(null), percent(0.125), averageInWords({ mean: null, half: null, n: 0, converged: 0 }),
            ...given.curves.map(solvedInWords)].join('|'));""",
        curves=[curve, solved],
    )
    assert said.split("|") == [
        "–",
        "12.5 %",
        "Algorithm 1 found no curve with a length: the metric is not finite there.",
        "Kernel: the metric is not finite. NOT_FINITE.",
        "Kernel: a geodesic. Certificate 2.5e-5, index 1, CONVERGED.",
    ]


def test_a_contour_lies_where_the_values_are():
    program = """
    const values = Float64Array.from({ length: 441 }, (_, k) => Math.hypot(Math.floor(k / 21) - 10, (k % 21) - 10));
    print(contour(values, 21, 6.5));"""
    ends = node(program).reshape(-1, 2)
    assert len(ends) > 60
    radius = (ends - 10).norm(dim=-1)
    assert float((radius - 6.5).abs().max()) < 0.1


def test_a_decoder_that_is_no_chain_of_linear_layers_is_told():
    with pytest.raises(ValueError, match=r"mean: got Linear, ReLU, expected nn\.Linear and tanh or sigmoid in turn"):
        scene.decoder(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU()))


@dataclasses.dataclass(frozen=True)
class SmallRecipe:
    """Stands for the paper's, whose training takes a minute; it is fitted before."""

    made: object
    n_centers: int = 0
    curvature: float = 0.0
    zeta: float = 0.0

    def trained(self):
        return small_ensemble()

    def generator(self):
        assert (self.n_centers, self.curvature, self.zeta) == (8, 4.0, 0.001)
        return self.made


@pytest.mark.parametrize("variance", study.VARIANCES)
def test_the_copied_code_gives_the_curve(monkeypatch, generator, variance):
    asked = []
    monkeypatch.setattr(recipes, "recipe", lambda *words, seed: asked.append((*words, seed)) or SmallRecipe(generator))
    start, end = generator.test_latents[:2]
    explored = study.Explored(generator, SETTING, members=small_ensemble())
    choices = scene.choices(explored, curvature=scene.CURVATURES, n_centers=scene.CENTERS, zeta=scene.ZETAS)
    state = {"variance": variance, **{n: choices[n].index(getattr(SETTING, n)) for n in list(choices)[1:]}}
    code = node(
        "print(codeOf(given.state, given.ends, given.choices, given.run));",
        state=state,
        ends=[start.tolist(), end.tolist()],
        choices=choices,
        run={"recipe": "digits", "profile": "paper", "seed": 3, "ensemble": "digits_decoders"},
    )
    assert len(code.splitlines()) == 5
    names = {}
    exec(code, names)
    assert asked == [("digits_decoders" if variance == "ensemble" else "digits", "paper", 3)]
    expected = explored.landscape(dataclasses.replace(SETTING, variance=variance)).curve(start, end)
    torch.testing.assert_close(names["curve"].length, expected.length, rtol=1e-3, atol=0)
    key = node("print(keyOf(given.state));", state=state)
    if variance == "rbf":
        assert key == scene.key(SETTING, choices)
    else:
        assert key == variance
