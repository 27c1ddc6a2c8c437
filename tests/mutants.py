"""How many of mutmut's changes the tests noticed, file by file; the exit status is 1 where a file has too few.

``python tests/mutants.py`` after ``mutmut run``, as ``make mutants`` does. Survivors are shown by ``mutmut show NAME``;
``tests/README.md`` says why they may live.
"""

import re
import subprocess
import sys
from collections import Counter, defaultdict

ENOUGH = 0.85
NOTICED = ("killed", "timeout", "suspicious", "segfault", "caught by type check")


def shares(results: str) -> dict[str, tuple[int, int]]:
    """How many mutants were noticed, and how many were tried, by module, from the lines of ``mutmut results``."""
    counts = defaultdict(Counter)
    for name, status in re.findall(r"^ *(\S+__mutmut_\d+): (.+)$", results, flags=re.MULTILINE):
        counts[re.split(r"\.x[_ǁ]", name)[0]][status] += 1
    found = {}
    for module, count in sorted(counts.items()):
        if tried := count.total() - count["not checked"]:
            found[module] = (sum(count[status] for status in NOTICED), tried)
    return found


def main() -> int:
    """The command line."""
    done = subprocess.run(
        [sys.executable, "-m", "mutmut", "results", "--all", "true"], capture_output=True, text=True, check=True
    )
    found = shares(done.stdout)
    for module, (noticed, tried) in found.items():
        print(f"{module}: {noticed} of {tried} changes noticed, {100 * noticed / tried:.1f} %")
    return int(not found or any(noticed < ENOUGH * tried for noticed, tried in found.values()))


if __name__ == "__main__":
    sys.exit(main())
