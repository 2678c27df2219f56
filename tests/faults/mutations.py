"""Switches each safeguard off, one at a time, in a copy of the checkout: some test must fail.

Run as `python tests/faults/mutations.py`; it takes some minutes. The exit code is 0 when every
test passes on the unchanged copy and each mutation makes its test fail.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", ".*_cache", ".hypothesis", "__pycache__", "logs", "build", "dist"
)
_TIMEOUT_SECONDS = 1200
EPOCHS = "tests/stateful/test_epochs.py"
RESTARTS = "tests/faults/test_signals.py::test_sigterm"


@dataclass(frozen=True)
class Mutation:
    """`original` stands once in `file`, and `mutated` takes its place."""

    name: str
    file: str
    original: str
    mutated: str
    test: str

    def apply(self, checkout: Path) -> None:
        path = checkout / self.file
        source = path.read_text(encoding="utf-8")
        count = source.count(self.original)
        if count != 1:
            raise SystemExit(f"{self.file} holds {self.original!r} {count} times, not once")
        path.write_text(source.replace(self.original, self.mutated), encoding="utf-8")


MUTATIONS = (
    Mutation(
        name="supersede rule",
        file="beam_pipeline/io/windowed_files.py",
        original="if found is not None and _supersedes(target, found):",
        mutated="if False:",
        # Only a runner that rolls back needs the rule, and Prism does not.
        test=EPOCHS,
    ),
    Mutation(
        name="whole bundles",
        file="beam_pipeline/io/whole_bundles.py",
        original="if self.timers_info:",
        mutated="if False:",
        test="tests/integration/test_whole_bundles.py",
    ),
    Mutation(
        name="skip filter",
        file="beam_pipeline/covered_offsets.py",
        original="if not self._bitmaps:\n            return records",
        mutated="return records",
        test=RESTARTS,
    ),
    Mutation(
        name="offset reset",
        file="beam_pipeline/runtime/supervisor.py",
        original="self._source.set_group_offsets(self._starts)",
        mutated="pass",
        test=RESTARTS,
    ),
)


@dataclass(frozen=True)
class Outcome:
    """How a test ended; `reason` is pytest's line about it."""

    passed: bool
    failed: bool
    reason: str


def main() -> int:
    rows: list[tuple[str, str, str, str]] = []
    as_expected = True
    for test in dict.fromkeys(mutation.test for mutation in MUTATIONS):
        outcome = outcome_of(test, None)
        as_expected &= outcome.passed
        rows.append(("none", test, "passes" if outcome.passed else "FAILS", outcome.reason))
    for mutation in MUTATIONS:
        outcome = outcome_of(mutation.test, mutation)
        as_expected &= outcome.failed
        verdict = "fails" if outcome.failed else "DOES NOT FAIL"
        rows.append((mutation.name, mutation.test, verdict, outcome.reason))
    print("| switched off | test | it | reason |\n| --- | --- | --- | --- |")
    for row in rows:
        print(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |")
    return 0 if as_expected else 1


def outcome_of(test: str, mutation: Mutation | None) -> Outcome:
    """Runs one test in a copy of the checkout, mutated or not."""
    what = f"{mutation.name} off" if mutation else "unchanged"
    print(f"{what}: {test}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="mutation-") as scratch:
        checkout = Path(scratch, "checkout")
        shutil.copytree(ROOT, checkout, ignore=_LEFT_OUT)
        (checkout / "logs").mkdir()
        if mutation:
            mutation.apply(checkout)
        tested = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", test, "-x", "-q"),
                *("--faults=all", f"--basetemp={scratch}/tests"),
            ],
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": str(checkout), "CI": "1"},
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    # Exit code 1 is a failed test; an error of collection, of a fixture or of usage is none.
    reasons = re.findall(r"^E +(\w*(?:Error|Exception)\b.*)$", tested.stdout, re.MULTILINE)
    broke_down = re.search(r"^ERROR (tests/|collecting )", tested.stdout, re.MULTILINE) is not None
    return Outcome(
        passed=tested.returncode == 0,
        failed=tested.returncode == 1 and not broke_down,
        reason=reasons[-1][:160] if reasons else tested.stdout.strip().splitlines()[-1],
    )


if __name__ == "__main__":
    sys.exit(main())
