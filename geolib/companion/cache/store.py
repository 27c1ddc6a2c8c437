"""Where files live, and how one is written so that nothing is ever lost: beside, then moved into place."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from geolib.companion.cache import progress

T = TypeVar("T")

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


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` (same suffix); move it onto ``path`` only if the block succeeds.

    Raises:
        OSError: naming ``path``, where it cannot be written (no space, no permission); ``path`` is then as it was.
    """
    make_directory(path.parent)
    temporary = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        # mkstemp makes files private; give the final file the permissions an ordinary open() would
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None and error.filename not in (None, str(temporary)):
            raise  # about another file, which the block reads or writes
        raise OSError(f"cannot write {path}: {error.strerror or error}; the file is as it was before") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` in one step that either happens or does not."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def key(configuration: dict[str, Any]) -> str:
    """Twelve hex digits that name a configuration: equal for equal contents, whatever the order of the keys."""
    text = json.dumps(configuration, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _locked(path: Path) -> contextlib.AbstractContextManager:
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        return lock.acquire(blocking=False)
    except Timeout:
        progress.say(f"waiting for {path.name}, which another process makes")
        return lock.acquire()
    except OSError:
        if path.exists():  # in a folder that may only be read, where nobody makes it
            return contextlib.nullcontext()
        raise


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
    with _locked(path):
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
