"""The explorer in a real browser: as a page from a file, and live in JupyterLab until its kernel is killed."""

import os
import re
import shutil
import signal
import time

import nbformat
import psutil
import pytest
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from playwright.sync_api import expect
from project import ROOT, TINY, literals, small_ensemble, small_generator
from test_browser import PATIENCE, opened_and_run, page, server, watched  # noqa: F401

from geolib.companion.interface.explorer import page as html
from geolib.companion.interface.explorer import scene
from geolib.companion.studies.linear_interpolation import explorer as study

pytestmark = pytest.mark.slow

NOTEBOOK = "16_explorer.ipynb"
CURVATURES, CENTERS = (3.0, 4.0), (8, 16)
PHONE = {"width": 390, "height": 844}
DRAG = """async ([which, milliseconds]) => {
    const handle = document.querySelectorAll('.gx-handle')[which];
    const root = document.querySelector('.gx');
    const { x, y } = handle.getBoundingClientRect();
    const move = (kind, dx, dy) => handle.dispatchEvent(new PointerEvent(kind, {
        pointerId: 1, clientX: x + 16 + dx, clientY: y + 16 + dy, bubbles: true, cancelable: true }));
    handle.setPointerCapture = () => {};
    const gaps = [];
    let drawn = Number(root.dataset.frames);
    let last = performance.now();
    const end = last + milliseconds;
    move('pointerdown', 0, 0);
    for (let k = 0; performance.now() < end; k++) {
        move('pointermove', 40 * Math.sin(k / 10), 40 * (1 - Math.cos(k / 10)));
        await new Promise(requestAnimationFrame);
        if (Number(root.dataset.frames) > drawn) {
            gaps.push(performance.now() - last);
            last = performance.now();
            drawn = Number(root.dataset.frames);
        }
    }
    move('pointerup', 0, 0);
    return gaps.sort((a, b) => a - b)[Math.floor(gaps.length / 2)];
}"""


def state(page):  # noqa: F811
    """What the page shows: numbers, pictures as text, the sentence of its state."""
    return page.evaluate(
        """() => ({
            length: document.querySelector('[data-cell=length-fast]').textContent,
            line: document.querySelector('[data-cell=length-line]').textContent,
            exact: document.querySelector('[data-cell=length-exact]').textContent,
            map: document.querySelector('.gx-canvas').toDataURL(),
            strips: [...document.querySelectorAll('.gx-strip')].map((canvas) => canvas.toDataURL()),
            ...document.querySelector('.gx').dataset,
        })"""
    )


def settled(page):  # noqa: F811
    """The state when two frames have passed."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return state(page)


@pytest.fixture
def file(monkeypatch, tmp_path, tmp_path_factory):
    """A page whose decoder is random, with tables of a few settings."""
    monkeypatch.setattr(study, "N_SAMPLES", 4)
    first = study.Setting(n_centers=8, curvature=4.0)
    found = study.measure(small_generator(tmp_path_factory), first, n_pairs=3, seed=0, members=small_ensemble())
    offered = scene.choices(found.explored, curvature=CURVATURES, n_centers=CENTERS, zeta=(1e-3,))
    run = {"recipe": "digits", "profile": "quick", "seed": 0, "ensemble": "digits_decoders"}
    given = scene.scene(found, offered, run=run)
    for setting in scene.every(offered):
        given["tables"].setdefault(scene.key(setting, offered), scene.table(found.explored.landscape(setting)))
    path = tmp_path / "explorer.html"
    path.write_text(html.page(given), encoding="utf-8")
    return path


def test_the_page_works_from_a_file(file, watched):  # noqa: F811
    page, complaints = watched  # noqa: F811
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    page.locator(".gx[data-frames]").wait_for()
    first = settled(page)
    assert first["state"] == "static"

    # a drag: line, curve, strips and numbers follow
    assert page.evaluate(DRAG, [1, 1000]) < 500
    moved = settled(page)
    for name in ("length", "line", "map", "strips"):
        assert moved[name] != first[name], name

    # every control by keyboard alone, each with a name and a visible focus
    page.locator("body").click(position={"x": 2, "y": 2})
    seen = []
    for _ in range(30):
        page.keyboard.press("Tab")
        focus = page.evaluate(
            """() => {
                const at = document.activeElement;
                const name = at.getAttribute('aria-label') ?? at.closest('label')?.textContent ?? at.textContent;
                return [name, getComputedStyle(at).outlineStyle, at.type ?? at.tagName];
            }"""
        )
        if focus[0] in [name for name, *_ in seen] or focus[2] == "BODY":
            break
        seen.append(focus)
        if focus[2] == "range":
            before = settled(page)
            page.keyboard.press("ArrowRight")
            after = settled(page)
            if before["shown"] == after["shown"]:
                page.keyboard.press("ArrowLeft")
                after = settled(page)
            one = page.evaluate("() => Number(document.activeElement.max)") == 0
            assert (before["shown"] != after["shown"]) != one, focus[0]
            assert after["shown"] == after["wanted"]
        elif focus[0].startswith("End point"):
            before = settled(page)
            page.keyboard.press("ArrowLeft")
            assert settled(page)["line"] != before["line"]
    names = " ".join(name for name, *_ in seen)
    for name in ("tour", "End point A", "End point B", "colours", "test images", "RBF", "a", "K", "ζ", "Code"):
        assert name in names
    assert {style for _, style, _ in seen} == {"solid"}

    # every ground, and every step of the tour
    maps = set()
    for name in ("volume", "condition", "sigma", "distance"):
        page.get_by_label("What the colours show").select_option(name)
        maps.add(settled(page)["map"])
    assert len(maps) == 4
    page.get_by_role("button", name="Take the tour").click()
    story = page.locator(".gx-story")
    for step in range(1, 6):
        expect(story).to_contain_text(f"{step} of 5.")
        page.get_by_role("button", name="End the tour" if step == 5 else "Next").click()
    expect(story).to_contain_text("Drag A and B")

    # fifty moves in one go end in the state of the last
    page.evaluate(
        """() => {
            const slider = document.querySelector('input[data-name=curvature]');
            for (let k = 0; k < 50; k++) {
                slider.value = k % 2;
                slider.dispatchEvent(new Event('input'));
            }
        }"""
    )
    assert settled(page)["shown"] == settled(page)["wanted"]
    assert settled(page)["shown"].split("-")[:2] == ["rbf", "1"]

    page.set_viewport_size(PHONE)
    settled(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert page.locator(".gx-map").bounding_box()["width"] > 0.9 * PHONE["width"]
    assert complaints == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def test_it_is_live_in_jupyterlab_until_its_kernel_is_gone(server, watched):  # noqa: F811
    page, complaints = watched  # noqa: F811
    path = server.root / "notebooks" / NOTEBOOK
    shutil.copy2(ROOT / "notebooks" / "colab.svg", path.parent)
    notebook = load_notebook_node(str(ROOT / "notebooks" / NOTEBOOK))
    (tagged,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    nbformat.write(parameterize_notebook(notebook, {name: TINY[name] for name in literals(tagged)}), path)
    elsewhere = opened_and_run(server, page, NOTEBOOK)
    root = page.locator(".gx[data-frames]")
    root.wait_for()
    root.scroll_into_view_if_needed()
    exact = page.locator("[data-cell=length-exact]")
    expect(exact).to_have_text(re.compile(r"\d"), timeout=1000 * PATIENCE)

    # a drag: the fast curve follows, and the kernel refines when the hand rests
    first = settled(page)
    assert page.evaluate(DRAG, [1, 1000]) < 500
    moved = settled(page)
    assert moved["length"] != first["length"]
    assert moved["exact"] == "–"
    expect(exact).to_have_text(re.compile(r"\d"), timeout=1000 * PATIENCE)
    expect(page.locator(".gx-exact")).to_contain_text("Certificate")

    # fifty fast moves of a slider: what is shown at last is what was wanted last
    slider = page.locator("input[data-name=curvature]")
    slider.focus()
    for _ in range(25):
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowRight")
    wanted = settled(page)["wanted"]
    assert wanted != first["shown"]
    root.and_(page.locator(f'[data-shown="{wanted}"]')).wait_for()
    assert page.locator(".gx-ahead").count() == 0
    assert settled(page)["map"] != moved["map"]
    assert complaints == []
    assert elsewhere == []

    # the kernel dies: the page says so, and its own abilities stay
    (kernel,) = [
        process
        for process in psutil.Process(server.process.pid).children(recursive=True)
        if "ipykernel_launcher" in " ".join(process.cmdline())
    ]
    os.kill(kernel.pid, signal.SIGKILL)
    page.locator('.gx[data-state="lost"]').wait_for()
    expect(page.locator(".gx-status")).to_contain_text("The kernel is gone.")
    before = settled(page)
    page.evaluate(DRAG, [0, 200])
    after = settled(page)
    assert after["length"] != before["length"]
    slider.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    time.sleep(0.1)
    assert settled(page)["shown"] == settled(page)["wanted"]
