"""The proof shares nothing with what it proves but names and footers of files."""

from __future__ import annotations

import subprocess
import sys

SHARED = {"beam_pipeline.files.names", "beam_pipeline.files.footer"}
OWN = {
    "beam_pipeline.files.contents",
    "beam_pipeline.files.tree",
    "beam_pipeline.kafka.log_reader",
    "beam_pipeline.offset_sets",
    "beam_pipeline.tools",
    "beam_pipeline.terminal",
}
HOW_TO_REACH_KAFKA = {
    "beam_pipeline.kafka.admin",
    "beam_pipeline.kafka.certificate",
    "beam_pipeline.kafka.connection",
    "beam_pipeline.kafka.properties",
}
HOW_TO_READ_OBJECTS = {
    "beam_pipeline.files.reading",
    "beam_pipeline.storage",
    "beam_pipeline.storage.paths",
    "beam_pipeline.storage.protocol",
}
OTHERS = {
    "beam_pipeline",
    "beam_pipeline.errors",
    "beam_pipeline.files",
    "beam_pipeline.kafka",
    "beam_pipeline.times",
    "beam_pipeline.topic_names",
}


HOW_TO_REACH_A_CATALOG = {
    "beam_pipeline.settings",
    "beam_pipeline.settings.catalog_file",
    "beam_pipeline.settings.masking",
    "beam_pipeline.settings.table_names",
    "beam_pipeline.tables",
    "beam_pipeline.tables.connect",
}


def imported_by(*modules: str) -> set[str]:
    code = f"import sys, {', '.join(modules)}\nprint(*sys.modules, sep='\\n')"
    listing = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    return set(listing.stdout.decode().split())


def test_reconcile_imports_nothing_of_the_sink() -> None:
    imported = imported_by(
        "beam_pipeline.tools.reconcile.text", "beam_pipeline.tools.reconcile.run"
    )
    beside = beside_reconcile(imported)
    assert beside >= SHARED
    assert beside <= SHARED | OWN | HOW_TO_REACH_KAFKA | HOW_TO_READ_OBJECTS | OTHERS
    assert not imported & {"apache_beam", "pyiceberg"}


def test_reconcile_of_a_table_imports_nothing_of_its_committer() -> None:
    imported = imported_by(
        "beam_pipeline.tools.reconcile.text", "beam_pipeline.tools.reconcile.table_run"
    )
    of_files = SHARED | OWN | HOW_TO_REACH_KAFKA | HOW_TO_READ_OBJECTS | OTHERS
    beside = beside_reconcile(imported)
    assert beside >= SHARED | HOW_TO_REACH_A_CATALOG
    assert beside <= of_files | HOW_TO_REACH_A_CATALOG
    assert "apache_beam" not in imported


def beside_reconcile(imported: set[str]) -> set[str]:
    own = {name for name in imported if name.split(".")[0] == "beam_pipeline"}
    return {name for name in own if not name.startswith("beam_pipeline.tools.reconcile")}
