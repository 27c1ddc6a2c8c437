"""Images from a CSV table: one row per image, its label first and then its pixels."""

import gzip
import io
import itertools
import zlib
from collections.abc import Iterator
from typing import TextIO

import numpy as np

MOST_IMAGES = 2**20  # in one file; MNIST has 60,000
_ROWS = 1000  # parsed at once
_CHARACTERS = 32  # per column, at most


def read_table(contents: bytes, *, compressed: bool, n_pixels: int, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images ``(n, n_pixels)`` and labels ``(n,)``, both uint8.

    It takes memory for the images and a thousand lines, whatever the file would unpack to.

    Args:
        contents: the file's: a header line, then one line per image.
        compressed: whether they are gzipped.
        n_pixels: pixels per image, each an integer from 0 to 255.
        n_classes: labels run from 0 to one less.

    Raises:
        ValueError: for anything else; it names the first bad line.
    """
    stream = io.BytesIO(contents)
    text = io.TextIOWrapper(gzip.GzipFile(fileobj=stream) if compressed else stream, encoding="ascii")
    images, labels = [], []
    try:
        lines = _lines(text, 1 + n_pixels)
        header = len(list(itertools.islice(lines, 1)))
        while rows := list(itertools.islice(lines, _ROWS)):
            first = header + 1 + sum(map(len, labels))
            if first > MOST_IMAGES:
                raise ValueError(f"more than {MOST_IMAGES:,} images")
            values = _values(rows, first, n_classes)
            images.append(values[:, 1:].astype(np.uint8))
            labels.append(values[:, 0].astype(np.uint8))
    except UnicodeDecodeError as error:
        raise ValueError(f"not a text file ({error})") from error
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"not an intact gzip file ({error})") from error
    if not images:
        raise ValueError(f"{header} lines, expected a header and one line per image")
    return np.concatenate(images), np.concatenate(labels)


def _lines(text: TextIO, n_columns: int) -> Iterator[str]:
    """The lines, each of so many columns."""
    longest = _CHARACTERS * n_columns
    for number in itertools.count(1):
        line = text.readline(longest + 1)
        if not line:
            return
        columns = line.count(",") + 1
        if len(line) > longest:
            raise ValueError(f"line {number} is longer than {longest:,} characters")
        if columns != n_columns:
            raise ValueError(f"line {number} has {columns} columns, expected a label and {n_columns - 1} pixels")
        yield line


def _values(rows: list[str], first: int, n_classes: int) -> np.ndarray:
    """Labels and pixels of the lines that begin with number ``first``, in their ranges."""
    try:
        values = np.loadtxt(rows, dtype=np.int64, delimiter=",", ndmin=2, comments=None)
    except ValueError as error:
        raise ValueError(f"not a table of integers below its header (from line {first} on: {error})") from error
    for what, found, largest in (("label", values[:, :1], n_classes - 1), ("pixel", values[:, 1:], 255)):
        bad = (found < 0) | (found > largest)
        if bad.any():
            row = int(bad.any(1).argmax())
            raise ValueError(f"line {first + row}: {what} {found[row][bad[row]][0]}, allowed are 0 to {largest}")
    return values
