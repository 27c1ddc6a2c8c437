"""The module's pages from a file, in a real browser: pointer, touch and keyboard, phone and dark, accessibility."""

import shutil
import subprocess

import pytest
from PIL import Image
from playwright.sync_api import expect
from project import ROOT, small_ensemble, small_generator
from test_browser import DRAG, browser, page, screenshots, settled, watched  # noqa: F401

import geolib
from geolib.companion.interface.explorer import page as html
from geolib.companion.interface.explorer import scene, widget
from geolib.companion.models import generators
from geolib.companion.studies.linear_interpolation import explorer as study
from geolib.companion.studies.linear_interpolation import two_models

pytestmark = pytest.mark.slow

VIEWS = ("explorer", "variances", "steps", "pairs")
CURVATURES, CENTERS = (3.0, 4.0), (8, 16)
DESK, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
NPM = shutil.which("npm")
MOVED = """() => new Promise((done) => {
    const total = (list) => list.getEntries().reduce((sum, { value }) => sum + value, 0);
    new PerformanceObserver((list) => done(total(list))).observe({ type: 'layout-shift', buffered: true });
    setTimeout(done, 200, 0);
})"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The four pages, whose decoder is random, by view; the explorer's with tables of a few settings."""
    folder = tmp_path_factory.mktemp("pages")
    g, first = small_generator(tmp_path_factory), study.Setting(n_centers=8, curvature=4.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "N_SAMPLES", 6)
        found = study.measure(g, first, n_pairs=3, seed=0, members=small_ensemble())
        steps = widget.Steps(g, first=1.0, seed=0).scene
    offered = scene.choices(found.explored, curvature=CURVATURES, n_centers=CENTERS, zeta=(1e-3,))
    run = {"recipe": "digits", "profile": "quick", "seed": 0, "ensemble": "digits_decoders"}
    given = scene.scene(found, offered, run=run)
    for setting in scene.every(offered):
        given["tables"].setdefault(scene.key(setting, offered), scene.table(found.explored.landscape(setting)))
    pairs = generators.test_pairs(g.data, 20, seed=0)
    side = (g.metric, *(g.test_latents[chosen] for chosen in pairs))
    comparison = geolib.compare_models(side, (geolib.PullbackMetric(g.vae.mean), *side[1:]), threshold=0.005)
    scenes = {
        "explorer": given,
        "variances": {**given, "view": "variances", "background": "sigma"},
        "steps": steps,
        "pairs": scene.pairs(two_models.measure((g, g), *pairs, comparison, [])),
    }
    for view, one in scenes.items():
        (folder / f"{view}.html").write_text(html.page(one), encoding="utf-8")
    return {view: folder / f"{view}.html" for view in scenes}


def opened(page, file):  # noqa: F811
    page.goto(file.as_uri())
    page.locator(".gx[data-frames]").wait_for()


def shown(page):  # noqa: F811
    """What the page says it shows, when two frames have passed."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return page.locator(".gx").get_attribute("data-shown")


@pytest.fixture(scope="module")
def axe(tmp_path_factory):
    """The accessibility check of axe-core, as npm gives it."""
    if NPM is None:
        pytest.skip("no npm here (apt-get install npm), which fetches axe-core")
    folder = tmp_path_factory.mktemp("npm")
    words = [
        NPM,
        "install",
        "--prefix",
        folder,
        "--no-save",
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        "axe-core@4",
    ]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("npm did not give axe-core within a minute")
    if done.returncode != 0:
        pytest.skip(f"npm could not give axe-core: {done.stderr.strip()[-200:]}")
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


def test_the_page_works_from_a_file(files, watched):  # noqa: F811
    page, complaints = watched  # noqa: F811
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    opened(page, files["explorer"])
    first = settled(page)
    assert first["state"] == "static"

    # a drag: line, curve, strips and numbers follow
    assert page.evaluate(DRAG, [1, 2000]) < 500
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
            # not the line's length, which need not change in three digits
            assert settled(page)["strips"] != before["strips"]
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


@pytest.mark.parametrize("view", VIEWS)
def test_a_page_fits_a_desk_and_a_phone_in_light_and_dark(files, watched, tmp_path, view):  # noqa: F811
    page, complaints = watched  # noqa: F811
    grounds = set()
    for name, size in (("desk", DESK), ("phone", PHONE)):
        for mode in ("light", "dark"):
            page.set_viewport_size(size)
            page.emulate_media(color_scheme=mode)
            opened(page, files[view])
            first = shown(page)
            page.locator(".gx input[type=range]").first.focus()
            page.keyboard.press("Home")
            assert shown(page) != first
            assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
            assert page.evaluate(MOVED) < 0.01, "what is told must not move what stands below it"
            grounds.add(page.evaluate("getComputedStyle(document.querySelector('.gx')).backgroundColor"))
            page.screenshot(path=screenshots(tmp_path) / f"{view}-{name}-{mode}.png", full_page=name == "phone")
    assert grounds == {"rgb(255, 255, 255)", "rgb(22, 24, 27)"}
    assert complaints == []


def test_its_picture_is_small_and_shows_the_curve(files, browser, tmp_path):  # noqa: F811
    path = tmp_path / "explorer.png"
    html.picture(files["explorer"], path)
    for one in (path, ROOT / "notebooks" / "explorer.png"):
        with Image.open(one) as image:
            assert image.size == (1280, 800)
            colors = {color for _, color in image.convert("RGB").getcolors(1 << 20)}
        assert min(max(abs(a - b) for a, b in zip(color, (230, 159, 0), strict=True)) for color in colors) < 12, one
        assert one.stat().st_size < 300_000


@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_nothing_serious(axe, files, watched, view):  # noqa: F811
    """Among its rules: the contrast of texts is at least 4.5 to 1, and every control has a name."""
    page, _ = watched  # noqa: F811
    for size, mode in ((DESK, "light"), (PHONE, "dark")):
        page.set_viewport_size(size)
        page.emulate_media(color_scheme=mode)
        opened(page, files[view])
        page.evaluate(axe)
        found = page.evaluate("axe.run()")
        assert len(found["passes"]) > 10
        serious = [rule for rule in found["violations"] if rule["impact"] in ("serious", "critical")]
        told = [(rule["id"], [node["html"] for node in rule["nodes"]][:3]) for rule in serious]
        assert told == []


def test_a_finger_drags_a_point(files, browser):  # noqa: F811
    context = browser.new_context(viewport=PHONE, has_touch=True, is_mobile=True)
    try:
        page = context.new_page()
        opened(page, files["explorer"])
        before = settled(page)
        box = page.locator(".gx-handle").first.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        finger = context.new_cdp_session(page)
        for kind, way in [("touchStart", 0), *(("touchMove", 4 * k) for k in range(1, 11)), ("touchEnd", None)]:
            points = [] if way is None else [{"x": x + way, "y": y + way}]
            finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        after = settled(page)
        assert page.evaluate("scrollY") == 0
        assert after["line"] != before["line"]
        moved = page.locator(".gx-handle").first.bounding_box()
        assert abs(moved["x"] - box["x"] - 40) < 3
        assert abs(moved["y"] - box["y"] - 40) < 3
    finally:
        context.close()


def test_the_pointer_a_pair_and_the_code(files, watched):  # noqa: F811
    page, complaints = watched  # noqa: F811
    opened(page, files["explorer"])
    look = "document.querySelector('.gx-look').toDataURL()"
    here = page.locator(".gx-here")
    before = page.evaluate(look)
    expect(here).to_contain_text("point B")
    map_before = settled(page)["map"]
    box = page.locator(".gx-map").bounding_box()
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.3 * box["height"])
    expect(here).to_contain_text("pointer: volume")
    assert settled(page)["map"] != map_before  # the ellipse
    assert page.evaluate(look) != before
    page.mouse.move(1, 1)
    expect(here).to_contain_text("point B")

    first = settled(page)
    lines = {first["line"]}
    for pair in range(3):
        page.get_by_label("Pairs of test images").select_option(str(pair))
        lines.add(settled(page)["line"])
    assert len(lines) == 3  # the first state is one of the pairs

    page.get_by_text("Code of this state").click()
    code = page.get_by_label("Code of this state").input_value()
    assert len(code.splitlines()) == 5
    page.get_by_role("button", name="Copy as code").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    page.get_by_label("ensemble").check()
    settled(page)
    assert "digits_decoders" in page.get_by_label("Code of this state").input_value()
    assert complaints == []


def test_the_step_size_answers_at_once(files, watched):  # noqa: F811
    page, complaints = watched  # noqa: F811
    opened(page, files["steps"])
    mean = page.locator("[data-cell=mean]")
    expect(mean).to_contain_text("±")
    expect(page.locator("[data-cell=difference]")).to_contain_text("%")
    first = mean.inner_text()
    page.locator("input[data-name=step]").focus()
    for _ in range(50):
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".gx")).to_have_attribute("data-shown", "5 6")
    assert mean.inner_text() != first
    expect(page.locator("[data-cell=exact]")).to_have_text("needs a kernel")
    assert complaints == []


def test_the_threshold_answers_at_once_and_a_pair_is_shown(files, watched):  # noqa: F811
    page, complaints = watched  # noqa: F811
    opened(page, files["pairs"])
    told, comparable = page.locator(".gx-average"), []
    slider = page.locator("input[data-name=threshold]")
    slider.focus()
    page.keyboard.press("Home")
    for _ in range(11):
        shown(page)
        comparable.append(page.locator(".gx-pair.gx-band").count())
        expect(told).to_contain_text(f"{comparable[-1]} of 20 pairs are comparable")
        page.keyboard.press("ArrowRight")
    assert comparable == sorted(comparable)
    assert comparable[0] < comparable[-1]
    strips = "[...document.querySelectorAll('.gx-strip')].map((canvas) => canvas.toDataURL())"
    before = page.evaluate(strips)
    page.get_by_role("button", name="Pair 7,").click()
    shown(page)
    after = page.evaluate(strips)
    assert [a != b for a, b in zip(before, after, strict=True)] == [True] * 4
    expect(page.get_by_role("button", name="Pair 7,")).to_have_attribute("aria-pressed", "true")
    assert complaints == []
