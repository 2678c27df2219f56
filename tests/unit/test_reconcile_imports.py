"""The proof shares nothing with what it proves but names and footers of files."""

from __future__ import annotations

import subprocess
import sys

SHARED = {"beam_pipeline.io", "beam_pipeline.io.file_names", "beam_pipeline.io.footer"}
HOW_TO_REACH_KAFKA = {
    "beam_pipeline.io.broker_certificate",
    "beam_pipeline.io.java_properties",
    "beam_pipeline.io.kafka_admin",
    "beam_pipeline.io.kafka_connection",
}
OTHERS = {"beam_pipeline", "beam_pipeline.errors"}


def test_reconcile_imports_nothing_of_the_sink() -> None:
    code = "import sys, beam_pipeline.ops.reconcile_report, beam_pipeline.ops.reconcile\n"
    code += "print(*sys.modules, sep='\\n')"
    listing = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    imported = set(listing.stdout.decode().split())
    own = {name for name in imported if name.split(".")[0] == "beam_pipeline"}
    beside_ops = {name for name in own if not name.startswith("beam_pipeline.ops")}
    assert beside_ops >= SHARED
    assert beside_ops <= SHARED | HOW_TO_REACH_KAFKA | OTHERS
    assert "apache_beam" not in imported
