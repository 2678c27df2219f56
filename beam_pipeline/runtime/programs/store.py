"""An S3 store on loopback, over a directory, for a machine that has none."""

from __future__ import annotations

import configparser
import secrets
from pathlib import Path

import yaml  # type: ignore[import-untyped]

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.runtime.processes import Service
from beam_pipeline.runtime.programs.versitygw import start_versitygw
from beam_pipeline.storage.durable import make_directory, write_atomically

REGION = "us-east-1"
"""The region that versitygw says it is in."""

_KEY, _SECRET = "aws_access_key_id", "aws_secret_access_key"


class EmbeddedStore:
    """versitygw over `<directory>/buckets`, with keys of its own.

    The keys are in `<directory>/credentials`, a file for AWS's SDKs that its user alone can read.
    They are made once. `<directory>/storage.yaml` is for `--storage_config`.

    Args:
        directory: keeps the objects between starts; made when missing.
        binary: that of `find_versitygw`.
        log_file: where the server logs.
        port: loopback port; 0 is any free one.
    """

    def __init__(self, directory: Path, binary: Path, log_file: Path, port: int = 0) -> None:
        self._directory = directory
        self._binary = binary
        self._log_file = log_file
        self._port = port
        self._service: Service | None = None

    @property
    def service(self) -> Service:
        """The server, once it was started."""
        if self._service is None:
            raise RuntimeError("the store was not started")
        return self._service

    @property
    def url(self) -> str:
        """The URL of the server."""
        return f"http://{self.service.endpoint}"

    @property
    def credentials_file(self) -> Path:
        """The file that has the keys."""
        return self._directory / "credentials"

    @property
    def config_file(self) -> Path:
        """The file for `--storage_config`."""
        return self._directory / "storage.yaml"

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which AWS's SDKs find the store and its keys."""
        return {
            "AWS_SHARED_CREDENTIALS_FILE": str(self.credentials_file),
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": REGION,
        }

    def start(self, *buckets: str) -> None:
        """Start the server, make the buckets that are missing, and return when it answers.

        Raises:
            EnvironmentFailure: it can't be started.
        """
        try:
            make_directory(self._directory, private=True)
            key, secret = self._keys()
            for bucket in buckets:
                make_directory(self._directory / "buckets" / bucket, private=True)
        except OSError as error:
            raise EnvironmentFailure(
                f"S3 store: {error.filename}: {error.strerror}; "
                "give a directory that can be written"
            ) from None
        self._service = start_versitygw(
            self._binary,
            self._directory / "buckets",
            self._log_file,
            access_key=key,
            secret_key=secret,
            bucket=buckets[0],
            port=self._port,
        )
        self._service.wait_ready()
        content = yaml.safe_dump({"endpoint": self.url, "region": REGION, "path_style": True})
        write_atomically(self.config_file, content.encode(), durable=False, private=False)

    def stop(self, grace_seconds: float) -> None:
        """Stop the server; objects that were acknowledged stay."""
        if self._service is not None:
            self._service.process.terminate(grace_seconds)

    def _keys(self) -> tuple[str, str]:
        parser = configparser.ConfigParser(interpolation=None)
        if parser.read(self.credentials_file) and parser.has_option("default", _SECRET):
            return parser["default"][_KEY], parser["default"][_SECRET]
        key, secret = f"demo{secrets.token_hex(8)}", secrets.token_urlsafe(32)
        content = f"[default]\n{_KEY} = {key}\n{_SECRET} = {secret}\n"
        write_atomically(self.credentials_file, content.encode(), durable=False, private=True)
        return key, secret
