"""What all tests share: how hypothesis searches."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# No deadline and no complaint about slowness: the machine may be busy with a broker meanwhile.
_local = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

settings.register_profile("local", _local)
settings.register_profile("ci", _local, derandomize=True, database=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")
