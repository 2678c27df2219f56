"""Reading schema files: JSON or YAML, with the files they refer to, as one document."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

import yaml  # type: ignore[import-untyped]

from beam_pipeline.errors import UsageError

MAX_DEPTH = 250
"""How deep the objects and lists of a schema file may be nested. jsonschema-rs converts 255 levels,
and Python's stack bounds what walks a schema."""

YAML_SUFFIXES = frozenset({".yaml", ".yml"})

_DATA_KEYWORDS = frozenset({"const", "default", "enum", "examples"})
_KEYWORDS_OF_NAMES = frozenset(
    {"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"}
)


def read_schema(path: str | Path, flag: str = "--schema") -> tuple[dict[str, Any], str]:
    """Return the schema at `path` as one document, and the sha256 of the bytes of all its files.

    A `$ref` to a file beside it (`common.json#/$defs/money`) adds that file under `$defs`. A `$ref`
    that begins with the schema's own `$id` becomes local. Nothing is fetched.

    Raises:
      UsageError: a file can't be read, is neither JSON nor YAML, or refers to something else.
    """
    bundle = _Bundle(Path(path), flag)
    return bundle.document, bundle.sha256.hexdigest()


class _Bundle:
    """One document, and the names under `$defs` of the files that were added to it, by path."""

    def __init__(self, top: Path, flag: str) -> None:
        self._flag = flag
        self._top = top.resolve()
        self._named = top
        self._names: dict[Path, str] = {}
        self.sha256 = hashlib.sha256()
        document = self._read(top)
        self._own_id = document.get("$id", document.get("id"))
        definitions = document.get("$defs")
        self._taken = set(definitions) if isinstance(definitions, dict) else set()
        self._pending: list[Path] = []
        self.document: dict[str, Any] = self._localized(document, self._top)
        while self._pending:
            file = self._pending.pop(0)
            part = {
                keyword: value
                for keyword, value in self._read(file).items()
                if keyword not in ("$id", "id", "$schema")
            }
            self.document.setdefault("$defs", {})[self._names[file]] = self._localized(part, file)

    def _read(self, path: Path) -> dict[str, Any]:
        where = f"{self._flag}={self._named}" + ("" if path == self._named else f": {path}")
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise UsageError(
                f"{where}: {error.strerror}; give a readable JSON Schema file"
            ) from None
        self.sha256.update(raw)
        document = _parse_yaml(raw, where) if path.suffix in YAML_SUFFIXES else _parse(raw, where)
        if _is_too_deep(document):
            raise UsageError(
                f"{where}: is nested more than {MAX_DEPTH} levels deep; move what is deep inside "
                "to $defs, and refer to it"
            )
        if not isinstance(document, dict):
            kind = type(document).__name__
            raise UsageError(f"{where}: a JSON Schema is an object, not {kind}")
        return document

    def _localized(self, part: Any, file: Path, is_schema: bool = True, at_top: bool = True) -> Any:
        """Return `part` of `file` with its references made local to the document."""
        if isinstance(part, list):
            return [self._localized(child, file, at_top=False) for child in part]
        if not isinstance(part, dict):
            return part
        if not is_schema:
            return {
                name: self._localized(child, file, at_top=False) for name, child in part.items()
            }
        if isinstance(part.get("$id"), str) and not at_top:
            raise UsageError(
                f"{self._flag}={self._named}: $id {part['$id']!r} is not at the top; remove "
                "it, and write the $refs beside it relative to the file"
            )
        localized = {}
        for keyword, value in part.items():
            if keyword == "$ref" and isinstance(value, str):
                value = self._local_reference(value, file)
            elif keyword not in _DATA_KEYWORDS:
                is_schema = keyword not in _KEYWORDS_OF_NAMES
                value = self._localized(value, file, is_schema, at_top=False)
            localized[keyword] = value
        return localized

    def _local_reference(self, reference: str, file: Path) -> str:
        if file == self._top and isinstance(self._own_id, str) and self._own_id.strip("#"):
            own = self._own_id.rstrip("#")
            if reference == own or reference.startswith(f"{own}#"):
                reference = reference.removeprefix(own) or "#"
        location, _, fragment = reference.partition("#")
        if location:
            file = self._beside(reference, location, file)
        if file == self._top:
            return f"#{fragment}"
        if fragment and not fragment.startswith("/"):
            return f"#{fragment}"  # an $anchor; its name holds in the whole document
        name = self._names[file].replace("~", "~0").replace("/", "~1")
        return f"#/$defs/{name}{fragment}"

    def _beside(self, reference: str, location: str, file: Path) -> Path:
        if urlsplit(location).scheme or location.startswith("/"):
            raise UsageError(
                f"{self._flag}={self._named}: $ref {reference!r} points outside the file; "
                "copy its target under $defs, or into a file beside it (references are never "
                "fetched)"
            )
        target = (file.parent / unquote(location)).resolve()
        if not target.is_file():
            raise UsageError(
                f"{self._flag}={self._named}: $ref {reference!r} points outside the file, and "
                f"there is no {target}"
            )
        if target != self._top and target not in self._names:
            name = target.name
            while name in self._taken:
                name = f"_{name}"
            self._taken.add(name)
            self._names[target] = name
            self._pending.append(target)
        return target


def _is_too_deep(document: Any) -> bool:
    parts = [document]
    for _ in range(MAX_DEPTH + 1):
        parts = [
            child
            for part in parts
            if isinstance(part, dict | list)
            for child in (part.values() if isinstance(part, dict) else part)
        ]
    return bool(parts)


def _parse(raw: bytes, where: str) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not JSON ({error})") from None


def _parse_yaml(raw: bytes, where: str) -> Any:
    try:
        document = yaml.load(raw, _JsonOfYaml)
        json.dumps(document, allow_nan=False)  # no dates, no bytes, no alias inside itself
    except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{where}: not YAML with JSON's types only ({reason})") from None
    wrong = _key_that_is_no_text(document)
    if wrong is not None:
        raise UsageError(f"{where}: the key {wrong!r} is not a text; write it in quotes")
    return document


class _JsonOfYaml(yaml.SafeLoader):  # type: ignore[misc]
    """Loads YAML by the core schema of YAML 1.2: `no`, `on` and 2026-11-24 are texts."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", [*"~nN", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    ("int", r"[-+]?[0-9]+", [*"-+0123456789"]),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", [*"-+.0123456789"]),
):
    _JsonOfYaml.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first
    )


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(str(loader.construct_scalar(node)))


def _construct_float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return float(str(loader.construct_scalar(node)))


_JsonOfYaml.add_constructor("tag:yaml.org,2002:int", _construct_int)
_JsonOfYaml.add_constructor("tag:yaml.org,2002:float", _construct_float)


def _key_that_is_no_text(part: Any) -> Any | None:
    if isinstance(part, list):
        children: list[Any] = part
    elif isinstance(part, dict):
        for key in part:
            if not isinstance(key, str):
                return key
        children = list(part.values())
    else:
        return None
    for child in children:
        wrong = _key_that_is_no_text(child)
        if wrong is not None:
            return wrong
    return None
