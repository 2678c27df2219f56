"""The file that `--storage_config` names: how object stores are reached. It holds no secret."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import yaml  # type: ignore[import-untyped]

from beam_pipeline.errors import UsageError

_FLAG = "--storage_config"


@dataclass(frozen=True)
class StorageConfig:
    """How an object store is reached; what is None is left to the store's own SDK.

    Credentials come from the SDK's own chain (environment, profile, the machine's role).

    Attributes:
        endpoint: the URL of a store that is not the cloud's own.
        region: the region of the bucket (S3).
        profile: the profile of the AWS configuration that has the credentials (S3).
        path_style: whether the bucket stands in the path instead of the host's name (S3).
        account: the storage account (Azure).
        project: the project (Google Cloud).
    """

    endpoint: str | None = None
    region: str | None = None
    profile: str | None = None
    path_style: bool | None = None
    account: str | None = None
    project: str | None = None


def read_storage_config(path: Path | None) -> StorageConfig:
    """Read a YAML file of the fields of `StorageConfig`; without a file each of them is None.

    Raises:
        UsageError: the file can't be read, has another key, or a value of another type.
    """
    if path is None:
        return StorageConfig()
    try:
        document = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{_FLAG}={path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{_FLAG}={path} is not YAML: {' '.join(str(error).split())}") from None
    if document is None:
        return StorageConfig()
    if not isinstance(document, dict):
        raise UsageError(f"{_FLAG}={path}: expected lines such as `endpoint: http://…`")
    names = [field.name for field in fields(StorageConfig)]
    for name, value in document.items():
        if name not in names:
            raise UsageError(
                f"{_FLAG}={path}: unknown key {name!r}; it takes {', '.join(names)}. Credentials "
                "come from the store's own SDK: environment, profile or the machine's role"
            )
        if not isinstance(value, bool if name == "path_style" else str):
            kind = "true or false" if name == "path_style" else "a text"
            raise UsageError(f"{_FLAG}={path}: {name} must be {kind}")
    return StorageConfig(**document)
