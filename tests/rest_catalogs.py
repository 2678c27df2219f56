"""A real REST catalog on loopback: SeaweedFS, which also is the S3 store of its tables."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import yaml  # type: ignore[import-untyped]
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.exceptions import NoSuchNamespaceError, RESTError
from requests.exceptions import ConnectionError
from stores import find_seaweedfs

from beam_pipeline.runtime.processes import LOOPBACK, ManagedProcess, free_port

TABLE_BUCKET, LANDING_BUCKET = "lake", "land"
ACCESS_KEY, SECRET_KEY = "tests-access-key", "tests-secret-key"


class RestCatalogServer(NamedTuple):
    """A catalog and its store.

    Attributes:
        process: the running server.
        uri: the address of the catalog.
        s3_endpoint: the address of the store.
        environment: the variables by which an SDK finds the store.
    """

    process: ManagedProcess
    uri: str
    s3_endpoint: str
    environment: dict[str, str]

    def catalog(self) -> Catalog:
        """Open the catalog."""
        return load_catalog("tests", **self.properties)

    def write_properties(self, path: Path, uri: str | None = None) -> Path:
        """Write a file for `--catalog`; `uri` stands in for the catalog's address."""
        path.write_text(yaml.safe_dump({**self.properties, "uri": uri or self.uri}))
        return path

    @property
    def properties(self) -> dict[str, str]:
        """pyiceberg's properties of the catalog."""
        return {
            "type": "rest",
            "uri": self.uri,
            "warehouse": f"s3://{TABLE_BUCKET}",
            "credential": f"{ACCESS_KEY}:{SECRET_KEY}",
            "s3.endpoint": self.s3_endpoint,
            "s3.access-key-id": ACCESS_KEY,
            "s3.secret-access-key": SECRET_KEY,
            "s3.region": "us-east-1",
            "s3.path-style-access": "true",
        }


def start_rest_catalog(directory: Path) -> RestCatalogServer:
    """Start SeaweedFS over a directory with a bucket of tables and one to land in.

    Raises:
        EnvironmentFailure: it can't be installed or started.
    """
    program = find_seaweedfs()
    directory.mkdir(parents=True)
    names = ("master", "volume", "filer", "s3", "admin")
    ports = {name: free_port() for name in names}
    catalog_port = free_port()
    command: list[str | Path] = [
        *(program, "mini", f"-dir={directory}", f"-ip={LOOPBACK}", f"-ip.bind={LOOPBACK}"),
        *(f"-{name}.port={port}" for name, port in ports.items()),
        *(f"-{name}.port.grpc={free_port()}" for name in names),
        *(f"-s3.port.iceberg={catalog_port}", "-s3.port.lance=0"),
        *("-webdav=false", "-admin.ui=false", "-master.telemetry=false"),
        *(f"-tableBucket={TABLE_BUCKET}", f"-bucket={LANDING_BUCKET}"),
    ]
    credentials = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    process = ManagedProcess("SeaweedFS", command, directory.with_suffix(".log"), env=credentials)
    for port in (ports["s3"], catalog_port):
        process.wait_for_port(port)
    endpoint = f"http://{LOOPBACK}:{ports['s3']}"
    environment = {
        **credentials,
        "AWS_ENDPOINT_URL_S3": endpoint,
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    server = RestCatalogServer(process, f"http://{LOOPBACK}:{catalog_port}", endpoint, environment)
    _wait_for_buckets(server)
    return server


def _wait_for_buckets(server: RestCatalogServer) -> None:
    """Wait for the buckets: they are made after the ports are open."""
    deadline = time.monotonic() + 60
    while True:
        try:
            server.catalog().list_namespaces()
            return
        except (RESTError, NoSuchNamespaceError, ConnectionError) as error:
            if not server.process.alive or time.monotonic() > deadline:
                raise server.process.failure(f"has no table bucket ({error})") from None
            time.sleep(0.2)
