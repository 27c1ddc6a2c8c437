"""animation: a GIF that goes there and back, the same bytes for the same frames, and one of its figure's files."""

import json

import matplotlib.pyplot as plt
import pytest
from PIL import Image

from geolib.companion.figures import animation, plots, saving
from geolib.companion.figures.provenance import begin

pytestmark = [pytest.mark.smoke, pytest.mark.usefixtures("style")]


def frames(n=5):
    """A dot that goes to the right."""
    figure, axes = plots.new_figure(2.0, 1.5)
    (dot,) = axes.plot([], [], "o", color="red")
    axes.set(xlim=(0, n), ylim=(0, 2))
    for step in range(n):
        dot.set_data([step], [1])
        yield figure


def places(path):
    """Where the red dot is in each frame: its first column of pixels."""
    found = []
    with Image.open(path) as gif:
        for k in range(gif.n_frames):
            gif.seek(k)
            picture = gif.convert("RGB")
            red = [
                x
                for x in range(picture.width)
                for y in range(picture.height)
                if picture.getpixel((x, y))[0] > 200 and max(picture.getpixel((x, y))[1:]) < 60
            ]
            found.append(min(red))
    return found


def test_an_animation_goes_there_and_back_for_ever(tmp_path):
    path = tmp_path / "a.gif"
    animation.write(path, frames(), lambda figure: None)
    found = places(path)
    assert len(found) == 8
    assert found[:5] == sorted(set(found))
    assert found[5:] == found[3:0:-1]
    with Image.open(path) as gif:
        assert gif.info["loop"] == 0
        assert gif.info["duration"] == 50
        assert "comment" not in gif.info
    assert plt.get_fignums() == []


def test_the_same_frames_are_the_same_bytes(tmp_path):
    for name in "ab":
        animation.write(tmp_path / name, frames(), lambda figure: None)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    animation.write(tmp_path / "c", frames(6), lambda figure: None)
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()


def test_each_figure_is_finished_once(tmp_path):
    finished = []

    def several():
        for _ in range(2):
            yield from frames(3)

    animation.write(tmp_path / "a.gif", several(), finished.append)
    assert len(finished) == len(set(map(id, finished))) == 2
    assert plt.get_fignums() == []


def test_a_figure_that_moves_has_one_file_more(monkeypatch, tmp_path):
    monkeypatch.setenv("GEOLIB_FIGURES", str(tmp_path))
    run = begin("98_test", device="cpu")
    named = []

    def watched():
        for figure in frames():
            named.append(figure.get_supxlabel())
            yield figure

    still = next(frames(1))
    saving.save(run, still, "moving", caption="It.", frames=watched())
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"98_moving.{kind}" for kind in ("gif", "json", "pdf", "png")
    ]
    assert json.loads((tmp_path / "98_moving.json").read_text())["caption"] == "It. Profile: paper."
    # the profile and the data are named in what moves, too
    assert named == ["", *["Profile: paper."] * 4]
    assert plt.get_fignums() == []
