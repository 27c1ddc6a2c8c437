"""store: whatever goes wrong while a file is written, the old one stays; an artefact is built once."""

import errno
import json
import multiprocessing
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from geolib.companion.cache import store


@pytest.fixture(autouse=True)
def derived(monkeypatch, tmp_path):
    monkeypatch.setenv("GEOLIB_DERIVED", str(tmp_path / "derived"))
    return tmp_path / "derived"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# --- where files live


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("variable", "directory", "default"),
    [
        ("GEOLIB_RAW", store.raw_directory, "data/raw"),
        ("GEOLIB_DERIVED", store.derived_directory, "data/derived"),
        ("GEOLIB_FIGURES", store.figures_directory, "figures"),
    ],
)
def test_directories_come_from_the_environment_or_the_checkout(*, monkeypatch, tmp_path, variable, directory, default):
    monkeypatch.delenv(variable, raising=False)
    assert directory() == store.PROJECT / default
    monkeypatch.setenv(variable, "")
    assert directory() == store.PROJECT / default
    monkeypatch.setenv(variable, str(tmp_path / "mine"))
    assert directory() == tmp_path / "mine"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(variable, "~/mine")
    assert directory() == tmp_path / "mine"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable, "mine")
    assert directory() == tmp_path / "mine"


# --- replacing


@pytest.mark.smoke
def test_a_file_is_replaced_in_one_step_with_ordinary_permissions(tmp_path):
    path = tmp_path / "a" / "b" / "file.txt"
    store.write_text(path, "one")
    with store.replacing(path) as temporary:
        assert temporary.parent.parent == path.parent  # the same file system, so that the move is one step
        assert temporary.name == "file.txt"  # what writes it may go by the suffix
        temporary.write_text("two")
        assert path.read_text() == "one"
    assert path.read_text() == "two"
    (tmp_path / "ordinary").touch()
    assert path.stat().st_mode == (tmp_path / "ordinary").stat().st_mode
    assert names(path.parent) == ["file.txt"]


@pytest.mark.smoke
@pytest.mark.parametrize("error", [RuntimeError("out of ideas"), KeyboardInterrupt(), OSError("out of disk")])
def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write_half():
        with store.replacing(path) as temporary:
            temporary.write_text("ne")
            raise error

    with pytest.raises(type(error)) as caught:
        write_half()
    assert (caught.value is error) != isinstance(error, OSError)
    if isinstance(error, OSError):
        assert str(caught.value) == f"cannot write {path}: out of disk; the file is as it was before"
        assert caught.value.__cause__ is error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


# what a full disk does to a process: the system takes no byte past the limit
FULL_DISK = """
import resource, sys
from pathlib import Path

def text(path):
    from geolib.companion.cache import store
    return lambda: store.write_text(path, "new" * 10_000)

def tensors(path):
    import torch
    from geolib.companion.models import weights
    return lambda: weights.save(path, {"a": torch.ones(10_000)}, {})

def figure(path):
    import matplotlib.pyplot as plt
    import torch
    from geolib.companion.figures import provenance, saving
    run = provenance.begin("99_full")
    fig = plt.figure()
    fig.figimage(torch.rand(100, 100).numpy())
    return lambda: saving.save(run, fig, "disk", caption="")

write = globals()[sys.argv[1]](Path(sys.argv[2]))
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write()
except OSError as error:
    print(error)
    sys.exit(7)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="resource limits are POSIX's")
@pytest.mark.parametrize(
    ("writer", "name"),
    [
        ("text", "numbers.md"),
        ("tensors", "vae.safetensors"),
        ("figure", "99_disk.png"),
    ],
)
def test_a_full_disk_leaves_the_old_file_and_says_which(tmp_path, writer, name):
    path = tmp_path / name
    path.write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, writer, path],
        env={**os.environ, "GEOLIB_FIGURES": str(tmp_path), "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 7, done.stdout + done.stderr
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == [name]
    said = done.stdout.splitlines()[-1]
    assert said.startswith(f"cannot write {path}: "), said
    assert "File too large" in said
    assert said.endswith("; the file is as it was before")


@pytest.mark.smoke
def test_a_place_that_cannot_be_written_is_named_and_left_alone(tmp_path):
    obstacle = tmp_path / "figures"
    obstacle.write_text("a file where a directory is needed")
    for path in (obstacle / "a.png", obstacle / "deeper" / "a.png"):
        with pytest.raises(OSError, match=f"cannot create the directory {path.parent}: .*; nothing was written"):
            store.write_text(path, "new")
    directory = tmp_path / "b.png"
    directory.mkdir()
    with pytest.raises(OSError, match=f"cannot write {directory}: .*; the file is as it was before"):
        store.write_text(directory, "new")
    assert obstacle.read_text() == "a file where a directory is needed"
    assert names(tmp_path) == ["b.png", "figures"]


@pytest.mark.smoke
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_directory_is_named(tmp_path):
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(OSError, match=f"cannot write {tmp_path / 'a'}: Permission denied; the file is as it was"):
            store.write_text(tmp_path / "a", "new")
    finally:
        tmp_path.chmod(0o755)
    assert names(tmp_path) == []


# --- what killed processes leave


def write_and_wait(path, ready):
    """In a process of its own: begin an artefact and a file, and come to no end."""

    def build(temporary):
        temporary.write_text("half")
        with store.replacing(path) as other:
            other.write_text("half")
            ready.set()
            time.sleep(600)

    store.cached("it", {}, ".json", build=build, load=read_json)


@pytest.mark.slow
def test_what_a_killed_process_left_goes_and_what_a_living_one_writes_stays(derived):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=write_and_wait, args=(derived / "file.txt", ready))
    process.start()
    try:
        assert ready.wait(90)
        begun = names(derived)
        assert len(begun) == 3  # the artefact, its lock, and the file
        assert all(name.startswith(".making-") for name in begun)
        store.sweep(derived)
        store.write_text(derived / "mine.txt", "whole")
        assert names(derived) == sorted([*begun, "mine.txt"])
    finally:
        process.kill()
        process.join()
    store.write_text(derived / "file.txt", "whole")
    assert names(derived) == ["file.txt", "mine.txt"]


@pytest.mark.smoke
def test_a_folder_that_is_swept_before_it_is_locked_does_no_harm(monkeypatch, tmp_path):
    swept = []

    def sweep_at_once(**options):
        folder = mkdtemp(**options)
        store.sweep(tmp_path)
        swept.append(not os.path.exists(folder))
        return folder

    mkdtemp = store.tempfile.mkdtemp
    monkeypatch.setattr(store.tempfile, "mkdtemp", sweep_at_once)
    store.write_text(tmp_path / "a.txt", "whole")
    assert swept == [True]
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.smoke
def test_a_lock_whose_file_goes_with_it_still_lets_one_in_at_a_time(tmp_path):
    inside, most = [], []

    def enter(_):
        for _ in range(20):
            with store.locked(tmp_path / "it"):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.0005)
                inside.pop()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(enter, range(4)))
    assert most == [1] * 80
    assert names(tmp_path) == []


# --- keys and cached artefacts


@pytest.mark.smoke
def test_keys_name_contents_not_their_order():
    key = store.key({"a": 1, "b": {"c": [1, 2], "d": "x"}})
    assert len(key) == 12
    assert int(key, 16) >= 0
    assert store.key({"b": {"d": "x", "c": [1, 2]}, "a": 1}) == key
    others = [{"a": 1, "b": {"c": [2, 1], "d": "x"}}, {"a": 2, "b": {"c": [1, 2], "d": "x"}}, {"a": 1}]
    assert len({key, *map(store.key, others)}) == 4
    with pytest.raises(ValueError, match="Out of range float"):
        store.key({"a": float("nan")})


def read_json(path):
    """As a loader of ``cached``: JSON errors are ValueErrors."""
    return json.loads(path.read_text())


@pytest.mark.smoke
def test_an_artefact_is_built_once_and_again_for_another_configuration(derived):
    built = []

    def build(path):
        built.append(path)
        path.write_text(f"[{len(built)}]")

    def get(configuration):
        return store.cached("it", configuration, ".json", build=build, load=read_json)

    assert [get({"a": 1, "b": 2}), get({"b": 2, "a": 1}), get({"a": 2}), get({"a": 1, "b": 2})] == [[1], [1], [2], [1]]
    assert len(built) == 2
    assert names(derived) == sorted(f"it-{store.key(c)}.json" for c in ({"a": 1, "b": 2}, {"a": 2}))


@pytest.mark.smoke
def test_a_damaged_artefact_is_kept_aside_and_built_anew(derived, capsys):
    def get():
        return store.cached("it", {}, ".json", build=lambda path: path.write_text('["good"]'), load=read_json)

    get()
    (path,) = derived.glob("it-*.json")
    path.write_text('["go')
    assert get() == ["good"]
    said = capsys.readouterr().out
    assert f"{path.name} is damaged (" in said
    assert f"kept as {path.name}.refused and made anew" in said
    assert path.with_name(f"{path.name}.refused").read_text() == '["go'
    assert path.read_text() == '["good"]'
    get()
    assert capsys.readouterr().out == ""


@pytest.mark.smoke
def test_an_artefact_in_a_folder_that_may_only_be_read_is_loaded(derived, monkeypatch):
    def get(name):
        return store.cached(name, {}, ".json", build=lambda path: path.write_text("[1]"), load=read_json)

    get("it")

    def refuse(self, *args, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(store.FileLock, "acquire", refuse)
    assert get("it") == [1]
    with pytest.raises(OSError, match="Read-only"):
        get("another")


@pytest.mark.smoke
def test_a_build_that_fails_leaves_no_artefact_and_the_next_one_builds(derived):
    def half(path):
        path.write_text("[")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        store.cached("it", {}, ".json", build=half, load=read_json)
    assert names(derived) == []
    assert store.cached("it", {}, ".json", build=lambda path: path.write_text("[1]"), load=read_json) == [1]


def build_slowly(path):
    with (store.derived_directory() / "builds.log").open("a") as log:
        log.write(f"{os.getpid()}\n")
    time.sleep(0.5)
    path.write_text(json.dumps(os.getpid()))


def build_or_wait(barrier, answers):
    barrier.wait(60)
    answers.put(store.cached("it", {}, ".json", build=build_slowly, load=read_json))


@pytest.mark.slow
def test_two_processes_at_once_build_once(derived):
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(2), context.Queue()
    processes = [context.Process(target=build_or_wait, args=(barrier, answers)) for _ in range(2)]
    try:
        for process in processes:
            process.start()
        found = [answers.get(timeout=90) for _ in processes]
        for process in processes:
            process.join(30)
    finally:
        for process in processes:
            process.kill()
            process.join()
    assert found[0] == found[1]
    assert (derived / "builds.log").read_text().split() == [str(found[0])]
