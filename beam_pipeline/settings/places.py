"""Where files are: the value of a flag such as `--output_dir`, a directory or a URL, as a path."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from beam_pipeline.errors import UsageError
from beam_pipeline.storage.config import read_storage_config
from beam_pipeline.storage.paths import StoredPath
from beam_pipeline.storage.urls import is_url, stored_path

_SCHEMES = ("s3", "gs", "az")
_OTHER_NAMES = {
    **dict.fromkeys(("s3a", "s3n"), "s3"),
    **dict.fromkeys(("gcs",), "gs"),
    **dict.fromkeys(("abfs", "abfss", "wasb", "wasbs", "azure"), "az"),
}
_EXAMPLES = "s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX"
_ALMOST_URL = re.compile(rf"(?:{'|'.join(_SCHEMES)}):(?!//).*", re.IGNORECASE | re.DOTALL)


def check_place(flag: str, text: str) -> None:
    """Check the form of a directory or a URL; nothing is opened.

    Args:
        flag: the flag with its dashes, for the message.
        text: its value.

    Raises:
        UsageError: it is empty, or is no URL that could name a place in an object store.
    """
    given = f"{flag}={text}"
    if not text:
        raise UsageError(f"{flag} is empty; give a directory, or {_EXAMPLES}")
    if _ALMOST_URL.fullmatch(text):
        raise UsageError(f"{given}: a URL has two slashes behind the colon; give {_EXAMPLES}")
    if not is_url(text):
        return
    scheme, _, rest = text.partition("://")
    bucket, _, prefix = rest.rstrip("/").partition("/")
    if "@" in bucket or ":" in bucket:
        raise UsageError(  # without the value: it may have a secret
            f"{flag}={scheme}://…: the name of a bucket has no : and no @. Credentials come from "
            "the store's own SDK (environment, profile or the machine's role), and an endpoint "
            "from the file of --storage_config"
        )
    if scheme == "file":
        raise UsageError(f"{given}: give the directory alone, {rest or '/'}")
    if scheme not in _SCHEMES:
        meant = _OTHER_NAMES.get(scheme.lower(), scheme.lower())
        if meant in _SCHEMES:
            raise UsageError(f"{given}: write {meant}://{rest}")
        raise UsageError(f"{given}: no such kind of storage; give a directory, or {_EXAMPLES}")
    if not bucket:
        kind = "container" if scheme == "az" else "bucket"
        raise UsageError(f"{given}: the {kind} is missing; give {scheme}://{kind.upper()}/PREFIX")
    if any(name in ("", ".", "..") for name in prefix.split("/") if prefix):
        raise UsageError(
            f"{given}: a prefix has no empty name, no . and no .., since an object store has no "
            "directories; leave them out"
        )
    if set(text) & set("?#"):
        raise UsageError(
            f"{given}: ? and # are no part of a prefix here; options of a store go into the file "
            "of --storage_config"
        )


def place_of(args: argparse.Namespace, name: str) -> StoredPath:
    """Return the place that a flag of a command names, reached as `--storage_config` says.

    Args:
        args: the command's flags, `storage_config` among them.
        name: the flag without dashes.

    Raises:
        UsageError: the value or the file of `--storage_config` does not serve.
    """
    text = str(getattr(args, name))
    check_place(f"--{name}", text)
    if not is_url(text):
        return Path(text)
    return stored_path(text, read_storage_config(args.storage_config))


def path_of(args: argparse.Namespace) -> StoredPath:
    """Return the file or the tree that the word PATH of a command names; as `place_of`.

    The path of an object is relative to its bucket: the URL may be that of a file.
    """
    text = str(args.path)
    check_place("PATH", text)
    if not is_url(text):
        return Path(text)
    scheme, _, rest = text.rstrip("/").partition("://")
    bucket, _, key = rest.partition("/")
    root = stored_path(f"{scheme}://{bucket}", read_storage_config(args.storage_config))
    return root / key if key else root
