"""Download published files from the mirror that answers first, go on where a transfer stopped, verify checksums."""

import hashlib
import os
import queue
import threading
import time
from collections.abc import Iterable, Mapping
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from geolib.companion.cache import progress, store

PATIENCE = 4.0  # seconds for all mirrors together to answer; longer counts as "no network"
STALL = 10.0  # seconds without a byte after which a transfer counts as lost

# URLError and timeouts are OSErrors; a broken HTTP answer is not
FAILURES = (OSError, HTTPException)


def fetch(folder: Path, checksums: Mapping[str, str], mirrors: Iterable[str]) -> None:
    """Make ``folder`` hold every file of ``checksums``, each with its published checksum.

    A file that is there with another checksum is moved aside to ``<file>.refused``. A transfer that ends early stays as
    ``<file>.part`` and the next one continues it. Two processes do not download the same folder at once.

    Args:
        folder: where the files go; made if need be.
        checksums: MD5 by file name.
        mirrors: addresses, each ending in ``/``, that a file name is appended to.

    Raises:
        ConnectionError: no mirror answers within ``PATIENCE`` seconds, or none delivers the published contents.
        OSError: ``folder`` cannot be written.
    """
    # a complete folder needs no lock, so it may be read-only
    if all((folder / file).is_file() and _md5(folder / file) == expected for file, expected in checksums.items()):
        return
    store.make_directory(folder)
    with store.locked(folder):
        missing = [file for file, expected in checksums.items() if not _intact(folder / file, expected)]
    if not missing:
        return
    # asked without the lock: several offline processes wait their seconds side by side, not one after the other
    ordered = _answering(mirrors, missing[0])
    with store.locked(folder):
        for file in missing:
            if not _intact(folder / file, checksums[file]):
                _download(folder / file, checksums[file], ordered)


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _intact(path: Path, expected: str) -> bool:
    """Whether the file is there with its checksum; a file with another one is moved aside, to be looked at."""
    if not path.is_file():
        return False
    found = _md5(path)
    if found == expected:
        return True
    refused = path.with_name(path.name + ".refused")
    os.replace(path, refused)
    print(f"{path} is not the published file (md5 expected {expected}, found {found}); kept as {refused.name}")
    return False


def _open(request: Request, timeout: float) -> HTTPResponse:
    try:
        return urlopen(request, timeout=timeout)
    except HTTPError as error:
        error.close()  # it holds the connection
        raise


def _answering(mirrors: Iterable[str], file: str) -> list[str]:
    """The mirrors, the first to answer in front, those known not to answer left out."""
    answers: queue.SimpleQueue[tuple[str, Exception | None]] = queue.SimpleQueue()

    def ask(mirror: str) -> None:
        try:
            _open(Request(mirror + file, method="HEAD"), PATIENCE).close()
        except FAILURES as error:
            answers.put((mirror, error))
        else:
            answers.put((mirror, None))

    waiting = list(mirrors)
    failures = []
    end = time.monotonic() + PATIENCE
    # daemon threads: where name resolution hangs nothing can interrupt it, so it is left behind
    for mirror in waiting:
        threading.Thread(target=ask, args=(mirror,), daemon=True).start()
    while waiting:
        try:
            mirror, error = answers.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            failures += [f"{mirror}: no answer within {PATIENCE:g} s" for mirror in waiting]
            break
        waiting.remove(mirror)
        if error is None:
            return [mirror, *waiting]
        failures.append(f"{mirror}: {error}")
    raise ConnectionError("no mirror answers: " + "; ".join(failures))


def _download(path: Path, expected: str, mirrors: list[str]) -> None:
    part = path.with_name(path.name + ".part")
    failures = []
    # the second round continues what the first one lost midway, and starts anew where an old .part was no good
    for mirror in [*mirrors, *mirrors]:
        try:
            _continue(mirror + path.name, part)
        except FAILURES as error:
            failures.append(f"{mirror}: {error}")
            continue
        found = _md5(part)
        if found == expected:
            os.replace(part, path)
            return
        part.unlink()
        failures.append(f"{mirror}: not the published contents (md5 expected {expected}, found {found}), deleted")
    raise ConnectionError(f"{path.name} could not be downloaded: " + "; ".join(failures))


def _continue(url: str, part: Path) -> None:
    """Append to ``part`` what is still missing, or start it anew where the server cannot continue."""
    begun = part.stat().st_size if part.is_file() else 0
    try:
        response = _open(Request(url, headers={"Range": f"bytes={begun}-"} if begun else {}), STALL)
    except HTTPError as error:
        if error.code == 416 and begun:
            return  # nothing is left to send: the checksum decides
        raise
    with response:
        if not response.headers.get("Content-Range", "").startswith(f"bytes {begun}-"):
            begun = 0
        length = response.headers.get("Content-Length")
        total = None if length is None else begun + int(length)
        with (
            part.open("ab" if begun else "wb") as stream,
            progress.bar(description=part.stem, initial=begun, total=total, unit="B", unit_scale=True) as bar,
        ):
            # read1 hands over what is there, so that a connection that dies loses nothing of it
            while chunk := response.read1(1 << 16):
                stream.write(chunk)
                bar.update(len(chunk))
            written = stream.tell()
    if total is not None and written < total:
        raise ConnectionError(f"the connection ended after {written} of {total} bytes")
