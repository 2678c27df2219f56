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


def test_reconcile_imports_nothing_of_the_sink() -> None:
    code = "import sys, beam_pipeline.tools.reconcile.text, beam_pipeline.tools.reconcile.run\n"
    code += "print(*sys.modules, sep='\\n')"
    listing = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    imported = set(listing.stdout.decode().split())
    own = {name for name in imported if name.split(".")[0] == "beam_pipeline"}
    beside_ops = {name for name in own if not name.startswith("beam_pipeline.tools.reconcile")}
    assert beside_ops >= SHARED
    assert beside_ops <= SHARED | OWN | HOW_TO_REACH_KAFKA | HOW_TO_READ_OBJECTS | OTHERS
    assert "apache_beam" not in imported
