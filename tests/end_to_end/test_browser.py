"""A real JupyterLab in a real browser: the sliders of notebook 02, and the explorer until its kernel is killed."""

import contextlib
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import psutil
import pytest
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from playwright.sync_api import Page, expect, sync_playwright
from project import ROOT, TINY, clean_environment, literals, make_variable, run

from geolib.companion.cache import store
from geolib.companion.interface import lab
from geolib.companion.interface.explorer.page import BROWSER, FLAGS

pytestmark = pytest.mark.slow

NOTEBOOK = "02_variance_rbf.ipynb"
EXPLORER = "16_explorer.ipynb"
PATIENCE = 120  # seconds for one step; each takes a few, more where the machine is busy
CELLS = ".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook .jp-CodeCell"


def strip(path):
    flags = shlex.split(make_variable("STRIP"))
    assert run([sys.executable, "-m", "nbstripout", *flags, path]).returncode == 0


class Lab:
    """JupyterLab as ``make lab`` starts it, on a folder, settings and a token of the test's own."""

    def __init__(self, folder, patch):
        self.root = folder / "root"
        (self.root / "notebooks").mkdir(parents=True)
        self.figures = folder / "figures"
        patch.setattr(store, "PROJECT", self.root)
        for name in ("DISPLAY", "WAYLAND_DISPLAY"):
            patch.delenv(name, raising=False)  # no window of the server's own
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.token = secrets.token_hex(16)
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / "lab.log"
        # no news and no update check, and every cell in the page, also those outside the window
        settings = {
            "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
            "notebook-extension/tracker": {"windowingMode": "none"},
        }
        for name, values in settings.items():
            path = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(values))
        places = {
            "HOME": "home",
            "JUPYTER_CONFIG_DIR": "config",
            "JUPYTER_DATA_DIR": "data",
            "JUPYTER_RUNTIME_DIR": "runtime",
            "JUPYTERLAB_SETTINGS_DIR": "settings",
            "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
            "IPYTHONDIR": "ipython",
            "MPLCONFIGDIR": "matplotlib",
            "GEOLIB_DERIVED": "derived",
            "GEOLIB_FIGURES": "figures",
        }
        for place in places.values():
            (folder / place).mkdir(exist_ok=True)
        self.environment = clean_environment(**{name: folder / place for name, place in places.items()})
        words = lab.command(port)
        assert "--no-browser" in words
        self.words = [*words, f"--IdentityProvider.token={self.token}", "--LabApp.extension_manager=readonly"]

    def __enter__(self):
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                self.words, env=self.environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            self.wait(lambda: self.answers("status"), "the server answers")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):  # ends the kernels too, which live in sessions of their own
            self.answers("shutdown", method="POST")
        for stop in (lambda: None, self.process.terminate, self.process.kill):
            stop()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(15)
                return

    def answers(self, path, method="GET"):
        headers = {"Authorization": f"token {self.token}"}
        request = urllib.request.Request(f"{self.url}/api/{path}", method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=5) as response:
            body = response.read()
            return json.loads(body) if body else None

    def wait(self, condition, what):
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log.read_text()
            with contextlib.suppress(OSError):
                if condition():
                    return
            time.sleep(0.1)
        raise TimeoutError(f"{what}: not within {PATIENCE} s; {self.log.read_text()[-2000:]}")

    def kernel_is_ready(self, notebook):
        """Idle and connected to the page: the page's own indicator says idle before it is."""
        kernels = [each["kernel"] for each in self.answers("sessions") if each["path"] == f"notebooks/{notebook}"]
        return bool(kernels) and kernels[0]["execution_state"] == "idle" and kernels[0]["connections"] > 0


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One JupyterLab for the tests of a file."""
    with pytest.MonkeyPatch.context() as patch:
        with Lab(tmp_path_factory.mktemp("lab"), patch) as running:
            yield running
        assert running.process.returncode is not None


@pytest.fixture(scope="module")
def browser():
    """One browser for the tests of a file."""
    if BROWSER is None:
        pytest.skip("no chromium or chrome here (apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, headless=True, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@pytest.fixture
def page(browser, tmp_path):
    page = browser.new_page(viewport={"width": 1300, "height": 900})
    page.set_default_timeout(1000 * PATIENCE)
    try:
        yield page
        page.screenshot(path=screenshots(tmp_path) / f"{tmp_path.name}.png")  # for whoever looks into a failure
    finally:
        page.close()


def screenshots(folder):
    """Where pictures of the pages are kept: a folder that GEOLIB_SCREENSHOTS names, or the test's own."""
    return Path(os.environ.get("GEOLIB_SCREENSHOTS", folder))


@pytest.fixture
def watched(page):
    """A page, and what it complains of."""
    complaints = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    return page, complaints


def placed(server: Lab, name: str):
    """A notebook with tiny settings where the server finds it: its cells, and its file."""
    path = server.root / "notebooks" / name
    shutil.copy2(ROOT / "notebooks" / "colab.svg", path.parent)  # the badge, which no other host is asked for
    notebook = load_notebook_node(str(ROOT / "notebooks" / name))
    (tagged,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    notebook = parameterize_notebook(notebook, {parameter: TINY[parameter] for parameter in literals(tagged)})
    nbformat.write(notebook, path)
    return notebook, path


def opened_and_run(server: Lab, page: Page, notebook: str):
    """Open a notebook in JupyterLab and have all its cells run. Returns a list that gets what other hosts are asked."""
    elsewhere = []
    page.on(
        "request",
        lambda request: (
            None if request.url.startswith((server.url, "data:", "blob:")) else elsewhere.append(request.url)
        ),
    )
    page.goto(f"{server.url}/lab/tree/notebooks/{notebook}?token={server.token}&reset", wait_until="domcontentloaded")
    page.locator(CELLS).first.wait_for()
    server.wait(lambda: server.kernel_is_ready(notebook), "a kernel connected to the page")
    page.locator("#jp-main-statusbar", has_text="| Idle").wait_for()
    for _ in range(5):  # a click that comes too early is swallowed
        run_all(page)
        page.wait_for_timeout(500)
        if any(prompt != "[ ]:" for prompt in prompts(page)):
            break
    return elsewhere


def run_all(page: Page):
    page.locator(".lm-MenuBar-itemLabel", has_text="Run").first.click()
    page.locator('.lm-Menu-item[data-command="runmenu:run-all"]').click()


def prompts(page: Page):
    """The prompts that a reader sees: a cell whose source is hidden shows none."""
    shown = (prompt.strip() for prompt in page.locator(f"{CELLS} .jp-InputPrompt").all_inner_texts())
    return [prompt for prompt in shown if prompt]


def picture(page: Page):
    """The map of the first page of the module, when two frames have passed."""
    return page.evaluate(
        """async () => {
            for (let k = 0; k < 2; k++) await new Promise(requestAnimationFrame);
            return document.querySelector('.gx-canvas').toDataURL();
        }"""
    )


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


def state(page):
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


def settled(page):
    """The state when two frames have passed."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return state(page)


def test_a_slider_moved_in_the_browser_redraws_the_map(server, watched):
    page, errors = watched
    notebook, path = placed(server, NOTEBOOK)
    strip(path)
    stored = path.read_bytes()

    elsewhere = opened_and_run(server, page, NOTEBOOK)
    failed = page.locator('.jp-RenderedText[data-mime-type="application/vnd.jupyter.error"]')
    end = time.monotonic() + PATIENCE
    while not all(re.fullmatch(r"\[\d+\]:", prompt) for prompt in prompts(page)):
        assert failed.count() == 0, failed.first.inner_text()
        assert time.monotonic() < end, prompts(page)
        page.wait_for_timeout(100)
    assert failed.count() == 0
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    hidden = [cell for cell in code if cell.metadata.get("jupyter", {}).get("source_hidden")]
    assert len(prompts(page)) == len(code) - len(hidden)
    # what a cell of hidden source says is seen all the same
    assert page.locator(".jp-Notebook .jp-RenderedMarkdown", has_text="What we see.").count() == len(hidden) > 0
    for figure in ("02_variance", "02_explorer"):
        assert (server.figures / f"{figure}.png").stat().st_size > 10_000

    root = page.locator(".gx[data-frames]")
    root.wait_for()
    slider = page.locator("input[data-name=curvature]")
    readout = page.locator(".gx-slider output").first
    first, before = root.get_attribute("data-shown"), picture(page)
    expect(readout).to_have_text("1.25")
    seen = []
    for key in ("ArrowRight", "ArrowLeft"):
        slider.focus()
        page.keyboard.press(key)
        shown = first if seen else re.compile(f"^(?!{first}$)")
        expect(root).to_have_attribute("data-shown", shown, timeout=1000 * PATIENCE)
        seen.append(picture(page))
    expect(readout).to_have_text("1.25")
    assert seen[0] != before == seen[1]  # there and back

    page.keyboard.press("Control+s")
    server.wait(lambda: b'"image/png"' in path.read_bytes(), "the notebook is saved")
    assert errors == []
    assert elsewhere == []
    strip(path)
    assert path.read_bytes() == stored  # what a user saved in the browser strips back byte for byte


def test_it_is_live_in_jupyterlab_until_its_kernel_is_gone(server, watched):
    page, complaints = watched
    placed(server, EXPLORER)
    elsewhere = opened_and_run(server, page, EXPLORER)
    root = page.locator(".gx[data-frames]")
    root.wait_for()
    root.scroll_into_view_if_needed()
    exact = page.locator("[data-cell=length-exact]")
    expect(exact).to_have_text(re.compile(r"\d"), timeout=1000 * PATIENCE)

    # a drag: the fast curve follows, and the kernel refines when the hand rests
    first = settled(page)
    assert page.evaluate(DRAG, [1, 2000]) < 500
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
    (session,) = [each for each in server.answers("sessions") if each["path"] == f"notebooks/{EXPLORER}"]
    (kernel,) = [
        process
        for process in psutil.Process(server.process.pid).children(recursive=True)
        if session["kernel"]["id"] in " ".join(process.cmdline())
    ]
    kernel.kill()
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


def test_the_server_starts_without_a_browser_and_ends_when_asked(monkeypatch, tmp_path):
    with Lab(tmp_path, monkeypatch) as running:
        assert running.answers("status")["kernels"] == 0
        with pytest.raises(ValueError, match="is taken by another program"):
            lab.choose_port(int(running.url.rpartition(":")[2]))
        with urllib.request.urlopen(f"{running.url}/lab?token={running.token}", timeout=30) as response:
            assert b"JupyterLab" in response.read()
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(30) == 0
