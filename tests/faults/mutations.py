"""Mutations: each switches off a safeguard in a copy of the checkout; a test must then fail.

`test_mutations.py` runs them.
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
EPOCHS = "tests/stateful/test_epochs.py::test_panes_that_fire_again_with_other_records"
LATE_FILES = "tests/stateful/test_epochs.py::test_a_worker_of_a_dead_epoch_that_publishes_late"
RESTARTS = "tests/faults/test_signals.py::test_sigterm"


@dataclass(frozen=True)
class Mutation:
    """Replaces `original`, which occurs exactly once in `file`, by `mutated`; `test` must fail."""

    name: str
    file: str
    original: str
    mutated: str
    test: str

    def occurrences(self, checkout: Path) -> int:
        """Count `original` in the file."""
        return (checkout / self.file).read_text(encoding="utf-8").count(self.original)

    def apply(self, checkout: Path) -> None:
        """Change the file in `checkout`."""
        assert self.occurrences(checkout) == 1, f"{self.original!r} in {self.file}"
        path = checkout / self.file
        source = path.read_text(encoding="utf-8")
        path.write_text(source.replace(self.original, self.mutated), encoding="utf-8")


MUTATIONS = (
    Mutation(
        name="adoption",
        file="beam_pipeline/io/windowed_files.py",
        original="known.update(covered)",
        mutated="pass",
        # Only a runner that rolls back needs it, and Prism does not.
        test=EPOCHS,
    ),
    Mutation(
        name="disjoint offsets",
        file="beam_pipeline/tables/plan.py",
        original="    _check_disjoint(add, kept.covered)\n",
        mutated="",
        test="tests/unit/tables/test_committer.py::test_a_compaction_during_the_listing_doubles_nothing",
    ),
    Mutation(
        name="strays that were merged in a table",
        file="beam_pipeline/tables/landed.py",
        original="if file.is_rewritten:",
        mutated="if False:",
        test="tests/unit/tables/test_table_compaction.py::test_a_stray_that_was_merged_is_cut_out",
    ),
    Mutation(
        name="strays of the other table",
        file="beam_pipeline/tables/committer.py",
        original="landed if not file.covered.overlaps(in_strays)]",
        mutated="landed]",
        test="tests/unit/tables/test_committer.py::"
        "test_a_stray_whose_record_comes_again_in_the_other_table",
    ),
    Mutation(
        name="strays",
        file="beam_pipeline/files/ledger.py",
        original="if self._is_stray(path, unknown[path], content):",
        mutated="if False:",
        # A worker that outlives its epoch is on a cluster of the user's own.
        test=LATE_FILES,
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
        original="if not covered_partitions or not records.num_rows:\n        return records",
        mutated="return records",
        test=RESTARTS,
    ),
    Mutation(
        name="offset reset",
        file="beam_pipeline/runtime/supervisor.py",
        original="self._source.set_group_offsets(self._starts)",
        mutated="self._source.set_group_offsets({k: s + 1 for k, s in self._starts.items()})",
        test=RESTARTS,
    ),
)


@dataclass(frozen=True)
class Outcome:
    """How pytest ended. `failed` means that the test itself failed, not a fixture or an import."""

    passed: bool
    failed: bool
    output: str


def outcome_of(test: str, mutation: Mutation | None) -> Outcome:
    """Run one test in a copy of the checkout, mutated or not."""
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
    # pytest also exits with 1 if a fixture fails before the test.
    broke_down = re.search(r"ERROR (at setup of|collecting) ", tested.stdout) is not None
    return Outcome(
        passed=tested.returncode == 0,
        failed=tested.returncode == 1 and not broke_down,
        output=tested.stdout[-5000:],
    )
