"""Where files live, and how one is written so that nothing is ever lost: beside, then moved into place."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from geolib.companion.cache import progress

T = TypeVar("T")

_UNFINISHED = ".making-"  # begins the name of whatever is temporary
_ALIVE = ".lock"  # in every folder of that name, and held by the process that made it
_ABOVE = Path(__file__).resolve().parents[3]
# notebooks/, data/ and figures/ stand beside the package in a checkout; installed elsewhere, as on Colab, results go to
# the folder that work began in.
PROJECT = _ABOVE if (_ABOVE / "pyproject.toml").exists() else Path.cwd()


def _directory(variable: str, default: Path) -> Path:
    return Path(os.environ[variable]).expanduser().absolute() if os.environ.get(variable) else default


def raw_directory() -> Path:
    """Downloads, verified: ``$GEOLIB_RAW``, else ``data/raw``."""
    return _directory("GEOLIB_RAW", PROJECT / "data" / "raw")


def derived_directory() -> Path:
    """Models and results: ``$GEOLIB_DERIVED``, else ``data/derived``."""
    return _directory("GEOLIB_DERIVED", PROJECT / "data" / "derived")


def figures_directory() -> Path:
    """Pictures and their sidecars: ``$GEOLIB_FIGURES``, else ``figures``."""
    return _directory("GEOLIB_FIGURES", PROJECT / "figures")


def make_directory(path: Path) -> Path:
    """Create ``path`` and its parents.

    Raises:
        OSError: naming the path, where it cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot create the directory {path}: {error.strerror}; nothing was written") from error
    return path


def _folder_of_its_own(directory: Path) -> tuple[Path, FileLock]:
    """A new folder, and the lock in it that tells the others that this process lives."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=directory))
        lock = FileLock(folder / _ALIVE)
        try:
            lock.acquire(blocking=False)
        except (Timeout, FileNotFoundError):
            continue  # another process swept it away before the lock was there
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return folder, lock


@contextlib.contextmanager
def _unfinished(directory: Path) -> Iterator[Path]:
    sweep(directory)
    folder, lock = _folder_of_its_own(directory)
    try:
        yield folder
    finally:
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def scratch(directory: Path) -> Iterator[Path]:
    """Yield a new folder in ``directory`` for what is not finished. It is removed afterwards: where this process is
    killed, by the next one that writes into ``directory``.

    Raises:
        OSError: naming ``directory``, where it cannot be written.
    """
    make_directory(directory)
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(_unfinished(directory))
        except OSError as error:
            raise OSError(f"cannot write into {directory}: {error.strerror or error}; nothing was written") from error
        yield folder


def sweep(directory: Path) -> None:
    """Remove the unfinished files and the locks that killed processes left in ``directory``.

    Those of a living process stay: it holds the lock. The system gives a lock back however its process ends.
    """
    for left in directory.glob(f"{_UNFINISHED}*"):
        lock = FileLock(left / _ALIVE if left.is_dir() else left)
        # an OSError: it is held, gone already, or somebody else's
        with contextlib.suppress(OSError), lock.acquire(blocking=False):
            shutil.rmtree(left) if left.is_dir() else left.unlink()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path of the same name near ``path``; move it onto ``path`` only if the block succeeds.

    Raises:
        OSError: naming ``path``, where it cannot be written (no space, no permission); ``path`` is then as it was.
    """
    if path.parent.name.startswith(_UNFINISHED):  # temporary itself
        yield path
        return
    make_directory(path.parent)
    temporary = None
    try:
        with _unfinished(path.parent) as folder:
            temporary = folder / path.name
            yield temporary
            # some writers make files private; give the final file the permissions an ordinary open() would
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            os.replace(temporary, path)
    except OSError as error:
        if temporary is not None and error.filename not in (None, str(temporary)):
            raise  # about another file, which the block reads or writes
        raise OSError(f"cannot write {path}: {error.strerror or error}; the file is as it was before") from error


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` in one step that either happens or does not."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path) -> Any:
    """The values in a JSON file.

    Raises:
        ValueError: naming the file, where it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # what is no text and what is no JSON are ValueErrors
        raise ValueError(f"{path}: not a JSON file ({error})") from error


def key(configuration: dict[str, Any]) -> str:
    """Twelve hex digits that name a configuration: equal for equal contents, whatever the order of the keys."""
    text = json.dumps(configuration, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time make ``path``; the others wait.

    Raises:
        OSError: where there can be no lock, as in a folder that may only be read; not where ``path`` is there already.
    """
    file = path.with_name(f"{_UNFINISHED}{path.name}.lock")
    lock = FileLock(file)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        progress.say(f"waiting for {path.name}, which another process makes")
        lock.acquire()
    except OSError:
        if not path.exists():
            raise
    try:
        yield
    finally:
        if lock.is_locked:
            # While it is held: who waits for it sees that this file is gone, and takes a new one (filelock from 4 on).
            with contextlib.suppress(OSError):
                file.unlink()
            lock.release()


def cached(
    name: str,
    configuration: dict[str, Any],
    suffix: str,
    *,
    build: Callable[[Path], None],
    load: Callable[[Path], T],
) -> T:
    """Load ``data/derived/<name>-<key><suffix>``; build it first where it is missing or unreadable.

    Two processes that want the same artefact do not both build it: the second waits for the first.

    Args:
        name: what it is, for the reader of the directory.
        configuration: everything its contents depend on, as JSON values (the data's checksums included).
        suffix: the file's suffix, e.g. ``".safetensors"``.
        build: writes the artefact to the path it is given.
        load: reads it; raises ``ValueError`` for a file that is not what it should be.
    """
    path = make_directory(derived_directory()) / f"{name}-{key(configuration)}{suffix}"
    with locked(path):
        if path.exists():
            try:
                return load(path)
            except ValueError as error:
                # kept for whoever wants to know what happened, and out of the way
                path.replace(path.with_name(path.name + ".refused"))
                print(f"{path.name} is damaged ({error}); it is kept as {path.name}.refused and made anew")
        with replacing(path) as temporary:
            build(temporary)
        return load(path)
