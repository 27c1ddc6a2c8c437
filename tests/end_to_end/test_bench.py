"""What `make bench` adds to its table: rows with a limit of time, shares of shortest curves, others in processes."""

import importlib.util
import math
import sys
import time

import pytest
import torch
from project import ROOT

pytestmark = pytest.mark.smoke


def module(name):
    """A file of ``benchmarks``, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded  # dataclasses look their module up
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def targets():
    return module("targets")


@pytest.fixture(scope="module")
def decoders(targets):  # which it imports from beside it
    return module("decoders")


@pytest.fixture(scope="module")
def peers():
    return module("peers")


@pytest.fixture(scope="module")
def gallery():
    return module("gallery")


def found(lengths, converged):
    return {"seconds": 2.0, "evaluations": 30, "lengths": lengths, "converged": converged}


def test_shares_are_of_the_shortest_that_any_finder_found(targets):
    rows = {
        "default": found([1.0, 2.0, 3.1, 4.004], [True, False, True, True]),
        "spline": found([1.0005, 1.9, 3.0, 4.0], [True] * 4),
        "newton, fine": None,
    }
    assert targets.share(rows, "default") == targets.Share(2, 3, 1, 2.0, 30)
    assert targets.share(rows, "spline") == targets.Share(4, 4, 0, 2.0, 30)
    assert targets.share(rows, "newton, fine") is None


def test_what_converged_is_worth(decoders):
    """A curve beside the best one, one in another valley, one that is not done, and one that says nothing."""
    start, end = torch.zeros(9, 2), torch.ones(9, 2)
    line = torch.lerp(start, end, torch.linspace(0, 1, 9)[:, None])
    beside, elsewhere = line.clone(), line.clone()
    beside[4, 0] += 0.01
    elsewhere[4, 0] += 1

    def one(lengths, curves, converged):
        return {"seconds": 1.0, "lengths": lengths, "points": torch.stack(curves).tolist(), "converged": converged}

    rows = {
        ("newton", "its own"): one([1.0, 1.1, 1.1, 1.1], [line, beside, elsewhere, beside], [True, True, True, False]),
        ("spline", "its own"): None,
        ("georce", "bow"): one([1.0005, 1.0, 1.0, 1.0], [line] * 4, [True] * 4),
    }
    assert decoders.worth(rows) == decoders.Worth(4, 1, 3, 7, 2, 1)


def test_random_pairs_are_solved_from_every_start(decoders):
    for start in decoders.STARTS:
        row = decoders.solved("ELU 5-64-100, tanh", "newton", start, "2")
        assert row["converged"] == [True, True]
        if start == "its own":
            shortest = row["lengths"]
        assert row["lengths"] == pytest.approx(shortest, rel=1e-3)


def test_the_power_of_the_cost(targets):
    assert targets.exponent({d: 3e-4 * d**1.5 for d in (16, 64, 256)}) == pytest.approx(1.5)
    assert math.isnan(targets.exponent({16: 1.0}))


def test_targets_are_met_or_not(targets):
    name, word, value = targets.TARGETS[0]
    least, _, share = next(target for target in targets.TARGETS if target[1] == "at least")
    for numbers, expected in (({name: value, least: share}, "yes"), ({name: value + 1, least: share - 1}, "no")):
        lines = targets.judged(numbers)
        assert f"| {name} | {word} {value} | {numbers[name]:.3g} | {expected} |" in lines
        assert f"| {least} | at least {share} | {numbers[least]:.3g} | {expected} |" in lines
    assert all(line.endswith("| not done | no |") for line in targets.judged({})[4:-1])


def test_a_row_has_a_limit_and_is_kept(targets, monkeypatch, tmp_path):
    monkeypatch.setenv("GEOLIB_DERIVED", str(tmp_path))
    monkeypatch.setattr(targets, "LIMIT", 0.01)
    assert targets.row("one_pair", "16") is None
    assert len(list(tmp_path.glob("bench-*.json"))) == 1
    # kept: what was not done within the limit is not tried again
    monkeypatch.setattr(targets.subprocess, "run", lambda *args, **how: pytest.fail("measured twice"))
    assert targets.row("one_pair", "16") is None


@pytest.mark.slow
def test_a_row_in_a_process_of_its_own(targets, monkeypatch, tmp_path):
    monkeypatch.setenv("GEOLIB_DERIVED", str(tmp_path))
    one = targets.row("one_pair", "4")
    assert one["converged"]
    assert one["seconds"] > 0
    assert one["mebibytes"] >= one["mebibytes before"] > 50


def test_a_decoder_of_the_gallery_is_measured(gallery, monkeypatch):
    monkeypatch.setattr(gallery, "N_POINTS", 2000)
    monkeypatch.setattr(gallery, "N_PAIRS", 2)
    monkeypatch.setattr(gallery, "REPEATS", 1)
    decoders = gallery.gallery().GALLERY
    for name, mode in (("Fourier features", "forward"), ("implicit layer", "reverse")):
        row = gallery.row(name, decoders[name].build(8, torch.float32), 1e-4)
        assert row[f"{name}, mode"] == mode
        assert row[f"{name}, converged"] == 2
        assert row[f"{name}, metric, in F"] > 1
        assert row[f"{name}, geodesics, in F"] > 0


def test_the_readme_shows_every_row_of_the_gallery(gallery):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    decoders = gallery.gallery().GALLERY
    for name in gallery.ROWS:
        assert not decoders[name].refused
        for what in ("mode s", "metric, in F .1f", "geodesics, in F .0f", "converged .0f"):
            assert f"<!--=gallery {name}, {what}-->" in readme


def test_polylines_at_equal_steps(peers):
    points = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1.0, 2.0]]])
    expected = torch.tensor([[[0.0, 0.0], [0.5, 0.0], [1.0, 0.0], [1.0, 1.0], [1.0, 2.0]]])
    torch.testing.assert_close(peers._along(points, torch.linspace(0, 1, 5), points), expected)


def test_others_run_apart_and_end(peers, monkeypatch):
    points = torch.eye(2)[None]
    answer, seconds = peers._apart(lambda x: (x, 0.5), points)
    assert torch.equal(answer, points)
    assert seconds == 0.5

    def broken(x):
        raise RuntimeError("no such thing (in a file)")

    assert peers._apart(broken, points) == "does not run beside the locked versions (RuntimeError: no such thing)"
    monkeypatch.setattr(peers, "PATIENCE", 0.2)
    assert peers._apart(lambda x: time.sleep(60), points) == "no result within 0.2 s"
