"""The file that `--catalog` names: pyiceberg's properties of a catalog, secrets among them."""

from __future__ import annotations

from pathlib import Path

import yaml  # type: ignore[import-untyped]

from beam_pipeline.errors import UsageError
from beam_pipeline.settings.masking import MASK

_FLAG = "--catalog"

SHOWN = frozenset(
    {"type", "warehouse", "py-io-impl", "s3.endpoint", "s3.region", "s3.path-style-access"}
)
"""The properties whose values are shown in messages; any other may be a secret."""


class CatalogProperties(dict[str, str]):
    """pyiceberg's properties of a catalog; their values are masked in `repr` and `str`."""

    def __repr__(self) -> str:
        shown = {key: value if key in SHOWN else MASK for key, value in self.items()}
        return f"CatalogProperties({shown!r})"

    __str__ = __repr__


def read_catalog_file(path: Path) -> CatalogProperties:
    """Read a YAML file of pyiceberg's catalog properties, such as `type: rest` and `uri: …`.

    Raises:
        UsageError: the file can't be read, or a value is no text, number or truth value.
    """
    try:
        document = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{_FLAG}={path}: {error.strerror}; give a file") from None
    except yaml.YAMLError:  # its words have a part of the file, which may be a secret
        raise UsageError(
            f"{_FLAG}={path} is not YAML: expected lines such as `type: rest`"
        ) from None
    if not isinstance(document, dict) or not document:
        raise UsageError(
            f"{_FLAG}={path}: expected pyiceberg's properties of one catalog, such as `type: rest` "
            "and `uri: https://…`"
        )
    properties = CatalogProperties()
    for name, value in document.items():
        if isinstance(value, bool):
            value = str(value).lower()
        if not isinstance(name, str) or not isinstance(value, str | int | float):
            raise UsageError(f"{_FLAG}={path}: {name} must be a text; write a line `NAME: VALUE`")
        properties[name] = str(value)
    if not {"type", "uri", "py-catalog-impl"} & properties.keys():
        raise UsageError(f"{_FLAG}={path}: type is missing, such as `type: rest` or `type: sql`")
    return properties
