"""Object stores on loopback, built or installed once into the cache: S3, Google Cloud, Azure."""

from __future__ import annotations

import base64
import secrets
import shutil
from pathlib import Path
from typing import NamedTuple

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.runtime.processes import (
    LOOPBACK,
    ManagedProcess,
    Service,
    free_port,
    run_to_end,
)
from beam_pipeline.runtime.programs.cache import (
    cache_directory,
    move_into_cache,
    scratch_directory,
)
from beam_pipeline.runtime.programs.go import GoProgram, find_program
from beam_pipeline.runtime.programs.pip_tool import pip_install
from beam_pipeline.runtime.programs.progress import SetupProgress
from beam_pipeline.runtime.programs.versitygw import find_versitygw, start_versitygw

BUCKET = "tests"
S3_ACCESS_KEY, S3_SECRET_KEY = "tests-access-key", "tests-secret-key"

_FAKE_GCS = GoProgram("fake-gcs-server", "github.com/fsouza/fake-gcs-server", "v1.56.1", "./")
_SEAWEEDFS_RELEASE = "4.48"  # that of requirements/seaweedfs.in
_AZURITE_RELEASE = "3.35.0"  # the last one that runs on Node 20
_AZURE_ACCOUNT = "tests"


class Store(NamedTuple):
    """A server of a store with the bucket `BUCKET`.

    Attributes:
        service: the running server.
        scheme: of its URLs.
        directory: where it has its data.
        environment: the variables by which an SDK finds it.
    """

    service: Service
    scheme: str
    directory: Path
    environment: dict[str, str]

    def url(self, prefix: str) -> str:
        """Return the URL of a root in the bucket."""
        return f"{self.scheme}://{BUCKET}/{prefix}"


def find_s3() -> Path:
    """Return versitygw; build it first if it is not in the cache."""
    with SetupProgress() as progress:
        return find_versitygw(progress)


def find_fake_gcs() -> Path:
    """Return fake-gcs-server; build it first if it is not in the cache."""
    with SetupProgress() as progress:
        return find_program(_FAKE_GCS, progress)


def start_s3(directory: Path, *, port: int = 0) -> Store:
    """Start versitygw over a directory and wait until it is ready.

    Raises:
        EnvironmentFailure: it can't be built or started.
    """
    binary = find_s3()
    service = start_versitygw(
        binary,
        directory,
        directory.with_suffix(".log"),
        access_key=S3_ACCESS_KEY,
        secret_key=S3_SECRET_KEY,
        bucket=BUCKET,
        port=port,
    )
    service.wait_ready()
    environment = {
        "AWS_ACCESS_KEY_ID": S3_ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": S3_SECRET_KEY,
        "AWS_ENDPOINT_URL_S3": f"http://{service.endpoint}",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    return Store(service, "s3", directory, environment)


def start_gcs(directory: Path) -> Store:
    """Start fake-gcs-server over a directory and wait until it is ready.

    Raises:
        EnvironmentFailure: it can't be built or started.
    """
    binary = find_fake_gcs()
    (directory / BUCKET).mkdir(parents=True)
    port = free_port()
    address = f"{LOOPBACK}:{port}"
    command = [
        *(str(binary), "-scheme", "http", "-host", LOOPBACK, "-port", str(port)),
        *("-backend", "filesystem", "-filesystem-root", str(directory)),
        *("-public-host", address, "-external-url", f"http://{address}", "-log-level", "error"),
    ]
    process = ManagedProcess("fake-gcs-server", command, directory.with_suffix(".log"))
    service = Service(process, address)
    service.wait_ready()
    environment = {"STORAGE_EMULATOR_HOST": f"http://{address}"}
    return Store(service, "gs", directory, environment)


def start_azure(directory: Path) -> Store:
    """Start Azurite over a directory and wait until it is ready.

    Raises:
        EnvironmentFailure: it can't be installed or started.
    """
    program = find_azurite()
    directory.mkdir(parents=True)
    port = free_port()
    key = base64.b64encode(secrets.token_bytes(64)).decode()
    command: list[str | Path] = [
        *("node", program / "dist" / "src" / "blob" / "main.js"),
        *("--blobHost", LOOPBACK, "--blobPort", str(port), "--location", directory),
        *("--silent", "--skipApiVersionCheck", "--disableTelemetry"),
    ]
    account = {"AZURITE_ACCOUNTS": f"{_AZURE_ACCOUNT}:{key}"}
    process = ManagedProcess("Azurite", command, directory.with_suffix(".log"), env=account)
    service = Service(process, f"{LOOPBACK}:{port}")
    service.wait_ready()
    connection = (
        f"DefaultEndpointsProtocol=http;AccountName={_AZURE_ACCOUNT};AccountKey={key};"
        f"BlobEndpoint=http://{service.endpoint}/{_AZURE_ACCOUNT};"
    )
    _make_container(connection)
    return Store(service, "az", directory, {"AZURE_STORAGE_CONNECTION_STRING": connection})


def _make_container(connection: str) -> None:
    from azure.storage.blob import BlobServiceClient

    with BlobServiceClient.from_connection_string(connection) as client:
        client.create_container(BUCKET)


def find_azurite() -> Path:
    """Return the directory of the npm package, installed first if it is not in the cache."""
    directory = cache_directory() / "azurite" / _AZURITE_RELEASE
    if not directory.is_dir():
        for program in ("node", "npm"):
            if shutil.which(program) is None:
                raise EnvironmentFailure(f"Azurite needs {program}, which is not installed")
        with scratch_directory() as scratch:
            log_file = scratch / "npm.log"
            made = scratch / "azurite"
            made.mkdir()
            package = f"azurite@{_AZURITE_RELEASE}"
            command = ["npm", "install", "--no-save", "--prefix", str(made), package]
            environment = {"npm_config_cache": str(scratch / "npm-cache")}
            if run_to_end("npm install", command, log_file, env=environment, cwd=made) != 0:
                lines = log_file.read_text(errors="replace").splitlines()
                reason = lines[-1] if lines else "npm gave no reason"
                raise EnvironmentFailure(f"Azurite can't be installed: {reason}")
            directory.parent.mkdir(parents=True, exist_ok=True)
            move_into_cache(made, directory)
    return directory / "node_modules" / "azurite"


def find_seaweedfs() -> Path:
    """Return SeaweedFS's program, S3 and REST catalog, installed first if it is not in the cache.

    Raises:
        EnvironmentFailure: it can't be installed.
    """
    directory = cache_directory() / "seaweedfs" / _SEAWEEDFS_RELEASE
    if not directory.is_dir():
        with scratch_directory() as scratch:
            pip_install("seaweedfs", scratch / "seaweedfs", scratch / "pip.log")
            directory.parent.mkdir(parents=True, exist_ok=True)
            move_into_cache(scratch / "seaweedfs", directory)
    return directory / "bin" / "weed"


if __name__ == "__main__":  # before the tests, so that none of them waits for a build
    for find in (find_s3, find_fake_gcs, find_azurite, find_seaweedfs):
        try:
            find()
        except EnvironmentFailure as error:
            print(f"Tests of an object store will be skipped; in CI those of S3 fail: {error}")
