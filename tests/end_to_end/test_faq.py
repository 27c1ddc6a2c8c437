"""The page of frequent questions: its code runs, and what it claims holds."""

import re
from pathlib import Path

import pytest
from project import ROOT

import geolib

pytestmark = pytest.mark.smoke

PAGE = ROOT / "notebooks" / "FAQ.md"


def test_the_code_of_the_answers_runs(capsys):
    """From top to bottom, as the page says; its own assertions hold."""
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(blocks) == text.count("```") // 2 >= 6
    names = {}
    for block in blocks:
        exec(block, names)
    assert "the curve is a geodesic to the tolerance" in capsys.readouterr().out


def test_the_page_names_what_there_is():
    text = PAGE.read_text(encoding="utf-8")
    for name in re.findall(r"`geolib\.(\w+)", text):
        assert name in geolib.__all__
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert (PAGE.parent / target).is_file(), target
    assert str(PAGE.relative_to(ROOT)) in geolib.geodesic.__doc__
    assert f"]({Path('notebooks') / PAGE.name})" in (ROOT / "README.md").read_text(encoding="utf-8")
