"""What is shown while something runs: on a terminal, in a file, beside others; and that no notebook stores it."""

import contextlib
import fcntl
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios

import nbformat
import pytest
import yaml
from project import ROOT, clean_environment, run

from geolib.companion.cache import progress, store
from geolib.companion.pipeline import display, execute, watch

FRAME = "\r\x1b[2K"  # to the first column, and away with what stood there
COLUMNS = 70
LINE = r"99_test \[2/3\] (begins(, \d:\d\d last time)?|done in \d:\d\d|\d:\d\d so far.*)"


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A copy of the package without the core, as nothing here needs it and importing torch takes seconds."""
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(ROOT / "geolib" / "companion", folder / "geolib" / "companion")
    (folder / "geolib" / "__init__.py").touch()
    return folder


@pytest.fixture
def notebook(monkeypatch, package, tmp_path):
    """A notebook that says what it does, and places for what a run writes."""
    monkeypatch.setenv("PYTHONPATH", str(package))
    for name in ("FIGURES", "DERIVED"):
        monkeypatch.setenv(f"GEOLIB_{name}", str(tmp_path / name.lower()))
    monkeypatch.delenv("MAKEFLAGS", raising=False)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({"seed": 1}))
    cells = {
        "parameters": "seed = 0",
        "quick": "import time\nfrom geolib.companion.cache import progress",
        "slow": "bar = progress.bar(total=4, description='polishing', unit=' stones')\n"
        "for _ in range(4):\n    bar.update(); time.sleep(0.5)\nbar.close()\nprint('a result', seed)",
    }
    stored = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    stored.metadata.kernelspec.language = "python"
    stored.cells = [nbformat.v4.new_code_cell(text, id=name) for name, text in cells.items()]
    stored.cells[0].metadata.tags = ["parameters"]
    stored.cells.insert(1, nbformat.v4.new_markdown_cell("# Nothing runs here"))
    nbformat.write(stored, tmp_path / "99_test.ipynb")
    return tmp_path / "99_test.ipynb"


def arguments(notebook):
    folder = notebook.parent
    plan = ["98_before", "99_test", "99_zafter"]
    return [
        str(notebook),
        "--profile",
        str(folder / "tiny.yaml"),
        "--plan",
        *plan,
        "--output",
        str(folder / "executed"),
    ]


def on_a_terminal(notebook, **environment):
    """What a run writes to a terminal of ``COLUMNS`` columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    places = {name: os.environ[name] for name in ("GEOLIB_FIGURES", "GEOLIB_DERIVED")}
    process = subprocess.Popen(
        [sys.executable, "-m", "geolib.companion.pipeline.execute", *arguments(notebook)],
        cwd=notebook.parent,
        env=clean_environment(**places, TERM="xterm") | environment,
        stdout=theirs,
        stderr=subprocess.PIPE,
    )
    os.close(theirs)
    written = b""
    with process, contextlib.suppress(OSError):  # the other end is closed
        while part := os.read(ours, 4096):
            written += part
    os.close(ours)
    assert process.returncode == 0
    return written.decode()


def holds_nothing_of_it(notebook):
    text = (notebook.parent / "executed" / notebook.name).read_text()
    (output,) = [output for cell in json.loads(text)["cells"] for output in cell.get("outputs", [])]
    assert "".join(output["text"]) == "a result 1\n"
    assert "so far" not in text
    assert "4 stones" not in text
    assert sorted(path.name for path in (notebook.parent / "executed").iterdir()) == [notebook.name]


@pytest.mark.slow
def test_first_in_plain_lines_then_on_a_terminal_with_an_estimate(notebook, monkeypatch, capsys):
    monkeypatch.setattr(display, "EVERY", 0.3)
    assert execute.main(arguments(notebook)) == 0
    said = capsys.readouterr().out
    assert all(re.fullmatch(LINE, line) for line in said.splitlines())
    assert re.search(r"so far · cell 3 of 3, slow · polishing: [1-4] of 4 stones$", said, flags=re.MULTILINE)
    assert re.search(r"^99_test \[2/3\] begins$", said, flags=re.MULTILINE)
    assert said.count("begins") == said.count("done in") == 1
    assert "left" not in said  # nothing is known of it
    holds_nothing_of_it(notebook)
    assert progress.VARIABLE not in os.environ

    # one line that renews itself, by the durations of the run before
    lines = on_a_terminal(notebook).split("\n")
    assert len(lines) == 3  # begins, done, and nothing after it
    assert re.fullmatch(re.escape(FRAME) + r"99_test \[2/3\] begins, \d:\d\d last time\r", lines[0])
    *frames, done = lines[1].rstrip("\r").split(FRAME)[1:]
    assert re.fullmatch(r"99_test \[2/3\] done in \d:\d\d", done)
    assert len(frames) >= 4
    assert [frame for frame in frames if not re.fullmatch(LINE, frame) or len(frame) >= COLUMNS] == []
    assert all(re.search(r"so far, about \d:\d\d left · ", frame) for frame in frames)
    assert any("cell 3 of 3, slow · poli" in frame for frame in frames)  # cut off at the last column
    assert lines[2] == FRAME
    holds_nothing_of_it(notebook)


@pytest.mark.slow
def test_beside_others_on_a_terminal_lines_stay(notebook):
    written = on_a_terminal(notebook, MAKEFLAGS=" -j2 --jobserver-auth=3,4")
    assert "\x1b" not in written
    lines = written.replace("\r\n", "\n").splitlines()
    assert [re.sub(r"\d:\d\d", "0:00", line) for line in (lines[0], lines[-1])] == [
        "99_test [2/3] begins",
        "99_test [2/3] done in 0:00",
    ]
    assert all(re.fullmatch(LINE, line) for line in lines)


# --- what is left


@pytest.fixture
def watched(notebook, monkeypatch):
    """A run of the notebook at a time that the test sets, after runs of known durations."""
    now = [1000.0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: now[0])
    durations = store.derived_directory() / "durations"
    store.write_text(
        durations / "99_test-tiny.json", json.dumps({"start": 2, "parameters": 1, "quick": 3, "slow": 100})
    )
    store.write_text(durations / "99_zafter-tiny.json", json.dumps({"start": 2, "one": 40}))

    def follow(plan=("98_before", "99_test", "99_zafter")):
        return watch.Watch(notebook, "tiny", list(plan), notebook.parent / "inside")

    follow.now = now
    return follow


def begin(run, name):
    run.cell_starts(nbformat.v4.new_code_cell("", id=name), 0)


@pytest.mark.smoke
def test_what_is_left_follows_the_last_run(watched):
    run = watched()
    assert (run.left(), run.left_in_all()) == (106, 148)
    watched.now[0] += 2
    begin(run, "parameters")
    begin(run, "added-by-papermill")  # belongs to the one before
    watched.now[0] += 3  # longer than last time: no less than nothing is left of this cell
    assert run.left() == 103
    begin(run, "quick")
    begin(run, "slow")
    (run.inside).write_text("pair 3 of 20")
    watched.now[0] += 30
    assert (
        run.text()
        == "0:35 so far, about 1:10 left, 1:52 with the notebooks after it · cell 3 of 3, slow · pair 3 of 20"
    )
    watched.now[0] += 1
    run.keep()
    assert watch.last_durations("99_test", "tiny") == {"start": 2, "parameters": 3, "quick": 0, "slow": 31}


@pytest.mark.smoke
def test_what_a_cell_said_ends_with_it(watched):
    run = watched()
    begin(run, "quick")
    run.inside.write_text("pair 3 of 20")
    begin(run, "slow")
    assert "pair" not in run.text()


@pytest.mark.smoke
def test_an_estimate_is_never_invented(watched, monkeypatch):
    last = watched(plan=["98_before", "99_test"])
    assert last.left() == last.left_in_all() == 106
    assert "after it" not in last.text()
    unknown = watched(plan=["99_test", "97_never_run"])
    assert (unknown.left(), unknown.left_in_all()) == (106, None)
    monkeypatch.setenv("MAKEFLAGS", "-j2")  # notebooks after it run beside it
    assert (watched().left(), watched().left_in_all()) == (106, None)
    path = store.derived_directory() / "durations" / "99_test-tiny.json"
    for contents in ('{"start": 2, "parameters": 1, "slow": 100}', "not JSON"):
        path.write_text(contents)  # of before a cell was added; damaged
        assert watched().left() is None
        assert watched().text() == "0:00 so far · the kernel starts"


# --- saying


@pytest.mark.smoke
def test_what_is_said_is_one_line_that_replaces_the_last(monkeypatch, tmp_path):
    monkeypatch.setenv(progress.VARIABLE, str(tmp_path / "line"))
    progress.say("a first\nline")
    progress.say("and a  second")
    assert (tmp_path / "line").read_text() == "and a second"
    assert [path.name for path in tmp_path.iterdir()] == ["line"]
    monkeypatch.setenv(progress.VARIABLE, str(tmp_path / "gone" / "line"))
    progress.say("to nobody")


@pytest.mark.smoke
def test_a_bar_is_drawn_for_a_person_and_said_to_a_process(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv(progress.VARIABLE, raising=False)
    with progress.bar(total=3, description="VAE", unit=" epochs") as bar:
        bar.update(3)
    assert "VAE: 100%" in capsys.readouterr().out
    progress.say("to nobody")
    line = tmp_path / "line"
    monkeypatch.setenv(progress.VARIABLE, str(line))
    with progress.bar(total=3, initial=1, description="VAE", unit=" epochs") as bar:
        bar.set_postfix_str("elbo 36.62")
        assert line.read_text() == "VAE: 1 of 3 epochs, elbo 36.62"
    assert line.read_text() == ""
    with progress.bar(total=None, description="digits", unit="B", unit_scale=True) as bar:
        bar.update(1_500_000)
        bar.refresh()
        assert line.read_text() == "digits: 1.50MB"
    assert "".join(capsys.readouterr()) == ""


# --- commands


@pytest.mark.smoke
def test_a_command_and_the_python_that_nothing_is_installed_in():
    shown = [sys.executable, "-I", "-S", ROOT / "geolib" / "companion" / "pipeline" / "display.py", "environment:"]
    good = run([*shown, sys.executable, "-c", "print('much')"])
    assert (good.returncode, good.stderr) == (0, "")
    assert re.fullmatch(r"environment: done in \d:\d\d\n", good.stdout)
    bad = run([*shown, sys.executable, "-c", "import sys; print('so far'); sys.exit('no such package')"])
    assert bad.returncode == 1
    assert bad.stdout == ""
    assert sorted(bad.stderr.split("\n")) == ["", "", "no such package", "so far"]


@pytest.mark.slow
def test_a_commands_last_line_is_shown(monkeypatch, capsys):
    monkeypatch.setattr(display, "EVERY", 0.0)
    code = "import time; print('Collecting torch', flush=True); time.sleep(1)"
    assert display.run("environment:", [sys.executable, "-c", code]) == 0
    assert re.search(r"^environment: 0:0\d so far · Collecting torch$", capsys.readouterr().out, flags=re.MULTILINE)


@pytest.mark.smoke
def test_clocks():
    assert [display.clock(s) for s in (0, 7.4, 59.6, 754, 3723)] == ["0:00", "0:07", "1:00", "12:34", "1:02:03"]
