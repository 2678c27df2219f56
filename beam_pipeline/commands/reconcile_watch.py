"""`reconcile --watch`: one proof after another, for as long as the command runs."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from beam_pipeline.commands.metrics.proof import Proof, proof_of
from beam_pipeline.commands.metrics.server import MetricsServer
from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.settings.config import MetricsSettings
from beam_pipeline.storage.protocol import StorageAwayError
from beam_pipeline.terminal import show
from beam_pipeline.times import rfc3339_of_ms
from beam_pipeline.tools.reconcile.compare import ReconcileReport
from beam_pipeline.tools.reconcile.text import report_json, report_text


def watch(
    prove: Callable[[], ReconcileReport],
    every_seconds: float,
    metrics: MetricsSettings | None,
    *,
    as_json: bool,
) -> int:
    """Prove again and again until SIGINT or SIGTERM; return the exit code of the last proof.

    A proof that fails, as while the broker is away, is told, and tried again at its next time; the
    first one must succeed. Nothing of a proof is kept but counts.

    Args:
        prove: makes a proof.
        every_seconds: from the beginning of one proof to that of the next.
        metrics: where to serve what was found; None serves nothing.
        as_json: print each report as one line of JSON.

    Raises:
        UsageError, EnvironmentFailure: the first proof fails, or the port is taken.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    proof = Proof()
    with ExitStack() as stack:
        server: MetricsServer | None = None
        if metrics is not None:
            server = stack.enter_context(MetricsServer(metrics, proof))
            print(f"metrics: {server.url}", file=sys.stderr, flush=True)
        try:
            while True:
                began = time.monotonic()
                proof = _next_proof(prove, proof, as_json=as_json)
                if server is not None:
                    server.show(proof)
                time.sleep(max(0.0, began + every_seconds - time.monotonic()))
        except KeyboardInterrupt:
            return 0 if proof.is_clean else 1


def _next_proof(prove: Callable[[], ReconcileReport], last: Proof, *, as_json: bool) -> Proof:
    began_s, began = time.time(), time.monotonic()
    at = rfc3339_of_ms(round(1000 * began_s))
    try:
        report = prove()
    except (EnvironmentFailure, StorageAwayError) as error:
        if last.is_clean is None:
            raise
        print(f"{at} no proof: {error}", file=sys.stderr, flush=True)
        return replace(last, failures=last.failures + 1, failure=str(error))
    proof = proof_of(report, began_s, time.monotonic() - began, last.failures)
    if as_json:
        sys.stdout.write(json.dumps(json.loads(report_json(report))) + "\n")
    elif proof.is_clean and last.is_clean is not None:
        compared = report.reconciliation
        print(f"{at} clean: {compared.records:,} records, missing 0, doubled 0")
    else:
        print(at)
        show(report_text(report))
    sys.stdout.flush()
    return proof
