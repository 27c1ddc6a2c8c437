"""One line that tells what goes on: renewed in place on a terminal, printed now and then elsewhere.

``python geolib/companion/pipeline/display.py NAME COMMAND ...`` runs a command and shows its last line of output. It
needs Python alone, as it shows how everything else is installed.
"""

import argparse
import collections
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable

EVERY = 15.0  # seconds between two plain lines
_RENEW = 0.2  # seconds between two looks
_KEPT = 40  # lines of a command's output, shown where it fails


def clock(seconds: float) -> str:
    """``0:07``, ``12:34`` or ``1:02:03``."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def parallel() -> bool:
    """Whether this runs below a ``make -j``, beside others that write to the same terminal."""
    return any(word.startswith(("-j", "--jobs")) for word in os.environ.get("MAKEFLAGS", "").split())


class Display:
    """Shows what ``text`` returns until the block ends.

    Args:
        name: what every line begins with.
        text: called several times a second, in a thread of its own.
    """

    def __init__(self, name: str, text: Callable[[], str]):
        self.name, self.text = name, text
        self.renews = sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and not parallel()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._writing = threading.Lock()

    def __enter__(self) -> "Display":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._write("")

    def end(self, text: str) -> None:
        """Print the last line, which stays; nothing is shown after it."""
        self._stop()
        self.keep(text)

    def _stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def keep(self, text: str) -> None:
        """Print a line that stays."""
        self._write(f"{self.name} {text}\n")

    def _watch(self) -> None:
        printed, shown = time.monotonic(), ""
        while not self._ended.wait(_RENEW):
            if self.renews:
                # a line that fills the last column would begin a new one
                line = f"{self.name} {self.text()}"[: shutil.get_terminal_size().columns - 1]
                if line != shown:
                    self._write(line)
                    shown = line
            elif time.monotonic() - printed >= EVERY:
                printed = time.monotonic()
                self.keep(self.text())

    def _write(self, line: str) -> None:
        with self._writing:
            # one write for each line, so that lines of several processes do not mix
            sys.stdout.write(f"\r\x1b[2K{line}" if self.renews else line)
            sys.stdout.flush()


def run(name: str, command: list[str]) -> int:
    """Run a command and show its last line of output; print its output on standard error where it fails.

    Returns:
        its exit status.
    """
    begun = time.monotonic()
    lines = collections.deque([""], maxlen=_KEPT)

    def spent() -> str:
        return clock(time.monotonic() - begun)

    with (
        Display(name, lambda: f"{spent()} so far · {lines[-1]}") as display,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as process,
    ):
        lines.extend(line.strip() for line in process.stdout if line.strip())
        status = process.wait()
        if status == 0:
            display.end(f"done in {spent()}")
    if status != 0:
        print("\n".join(lines), file=sys.stderr)
    return status


def main(arguments: list[str] | None = None) -> int:
    """The command line; the command's exit status."""
    parser = argparse.ArgumentParser(description="Run a command and show its last line of output.")
    parser.add_argument("name", help="what every line begins with")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args(arguments)
    return run(given.name, given.command)


if __name__ == "__main__":
    sys.exit(main())
