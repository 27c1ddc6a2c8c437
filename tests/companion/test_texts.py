"""texts: numbers, addresses and pictures that a script fills in, and that the checkout's own texts are up to date."""

import json

import nbformat
import pytest
from project import ROOT

from geolib.companion.pipeline import texts

pytestmark = pytest.mark.smoke

NUMBERS = {"real": {"MB-2: mean": 1.23456, "n": 7742}, "bench": {"a, seconds": 0.5}}


def test_marked_numbers_are_filled_in():
    text = (
        "a <!--=real MB-2: mean .2f-->9<!--=--> b <!--=bench a, seconds .1f-->?<!--=--> of <!--=real n ,.0f--><!--=-->."
    )
    expected = (
        "a <!--=real MB-2: mean .2f-->1.23<!--=--> b <!--=bench a, seconds .1f-->0.5<!--=--> "
        "of <!--=real n ,.0f-->7,742<!--=-->."
    )
    assert texts.filled(text, NUMBERS.__getitem__) == expected
    assert texts.filled(expected, NUMBERS.__getitem__) == expected


def test_a_number_that_there_is_not_is_an_error():
    with pytest.raises(ValueError, match=r"numbers\.json has no number of that name"):
        texts.filled("<!--=real MB-3: mean .2f-->1<!--=-->", NUMBERS.__getitem__)
    with pytest.raises(ValueError, match="expected one of 'real', 'bundled', 'bench'"):
        texts.stored(ROOT)("guessed")


def test_the_address_goes_into_badge_and_first_cell():
    notebook = nbformat.v4.new_notebook()
    setup = 'if find_spec("geolib") is None:\n    %pip install --quiet "old"\n\nimport geolib'
    notebook.cells = [nbformat.v4.new_markdown_cell("# 01 · A title\n\nText."), nbformat.v4.new_code_cell(setup)]
    for repository in ("https://github.com/a/b", "https://github.com/c/d"):
        texts.addressed(notebook, repository, "01_a")
        lines = notebook.cells[0].source.splitlines()
        assert lines[0] == "# 01 · A title"
        assert lines[2] == texts.badge(repository, "01_a")
        assert lines[-1] == "Text."
        assert repository.removeprefix("https://github.com/") + "/blob/main/notebooks/01_a.ipynb" in lines[2]
        assert f'    %pip install --quiet "latent-geolib[companion] @ git+{repository}"' in notebook.cells[1].source
        assert "old" not in notebook.cells[1].source


def test_every_text_of_the_checkout_is_up_to_date():
    stale = [str(path) for path, text in texts.texts(ROOT).items() if path.read_text(encoding="utf-8") != text]
    assert stale == [], "run `make texts`"


def test_the_gallery_shows_every_reference_picture():
    page = (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
    for picture in (ROOT / "figures" / "reference").glob("*.png"):
        assert f"../figures/reference/{picture.name}" in page


def test_the_command_writes_what_differs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(texts.store, "PROJECT", tmp_path)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "figures" / "reference").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text('[project.urls]\nRepository = "https://github.com/a/b"\n')
    (tmp_path / texts.SOURCES["real"]).write_text(json.dumps({"about": "", "numbers": {"n": 2.0}}))
    readme = tmp_path / "README.md"
    readme.write_text("<!--=real n .1f-->1.0<!--=-->")
    assert texts.main(["--check"]) == 1
    assert "README.md is not up to date" in capsys.readouterr().out
    assert readme.read_text() == "<!--=real n .1f-->1.0<!--=-->"
    assert texts.main([]) == 0
    assert readme.read_text() == "<!--=real n .1f-->2.0<!--=-->"
    assert texts.main(["--check"]) == 0
