"""Reading schema files: JSON or YAML, with the files they refer to, as one document."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, unquote, urljoin, urlsplit

import yaml  # type: ignore[import-untyped]

from beam_pipeline.errors import UsageError
from beam_pipeline.schemas.dialects import draft_of
from beam_pipeline.schemas.references import (
    DATA_KEYWORDS,
    KEYWORDS_OF_NAMES,
    KEYWORDS_OF_SCHEMAS,
)

MAX_DEPTH = 250
"""How deep the objects and lists of a schema file may be nested. jsonschema-rs converts 255 levels,
and Python's stack bounds what walks a schema."""

YAML_SUFFIXES = frozenset({".yaml", ".yml"})


def read_schema(path: str | Path, flag: str = "--schema") -> tuple[dict[str, Any], str]:
    """Return the schema at `path` as one document, and the sha256 of the bytes of all its files.

    A `$ref` to a file beside it (`common.json#/$defs/money`) adds that file under `$defs`. All
    references become JSON pointers, and an `$id` or `$anchor` below the top is then left out. Only
    a document that has both several `$id`s and dynamic references stays as it is. Nothing is
    fetched.

    Raises:
      UsageError: a file can't be read, is neither JSON nor YAML, or refers to something else.
    """
    bundle = _Bundle(Path(path), flag)
    return bundle.document, bundle.sha256.hexdigest()


def with_pointers_only(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a document that `read_schema` made, with JSON pointers as references."""
    resources = Resources(document)
    if not resources.has_inner_ids:
        return document
    localized: Mapping[str, Any] = _localized(document, resources, resources.pointer_to)
    return localized


class _Bundle:
    """One document, and the names under `$defs` of the files that were added to it, by path."""

    def __init__(self, top: Path, flag: str) -> None:
        self._flag = flag
        self._top = top.resolve()
        self._named = top
        self._names: dict[Path, str] = {}
        self.sha256 = hashlib.sha256()
        document = self._read(top)
        definitions = document.get("$defs")
        self._taken = set(definitions) if isinstance(definitions, dict) else set()
        self._pending: list[Path] = []
        resources = Resources(document)
        self.document: dict[str, Any] = self._local(document, resources, self._top)
        if resources.has_inner_ids and resources.is_dynamic:
            if self._pending:
                raise UsageError(
                    f"{flag}={top}: has dynamic references, several $ids and a $ref to a file "
                    f"beside it ({self._pending[0].name}); copy the file under $defs"
                )
            self.document = document
        while self._pending:
            file = self._pending.pop(0)
            part = {
                keyword: value
                for keyword, value in self._read(file).items()
                if keyword != "$schema"
            }
            definitions = self.document.setdefault("$defs", {})
            if not isinstance(definitions, dict):
                raise UsageError(f"{flag}={top}: $defs is not an object; make it one")
            definitions[self._names[file]] = self._local(part, Resources(part), file)

    def _read(self, path: Path) -> dict[str, Any]:
        where = f"{self._flag}={self._named}" + ("" if path == self._named else f": {path}")
        try:
            raw = path.read_bytes()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"{where}: {reason}; give a readable JSON Schema file") from None
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
        try:
            json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"{where}: has half of a surrogate pair; a text can't hold it"
            ) from None
        except ValueError:
            raise UsageError(f"{where}: has a number beyond the range of float64") from None
        return document

    def _local(self, part: dict[str, Any], resources: Resources, file: Path) -> dict[str, Any]:
        def pointer_to(reference: str, base: str) -> str:
            return self._pointer_to(reference, base, resources, file)

        localized: dict[str, Any] = _localized(part, resources, pointer_to, file == self._top)
        return localized

    def _pointer_to(self, reference: str, base: str, resources: Resources, file: Path) -> str:
        """Return a reference of `file` as one within the document."""
        pointer = resources.pointer_to(reference, base)
        location, _, fragment = reference.partition("#")
        if pointer is None and location:
            if _without_fragment(reference) in METASCHEMAS:
                return reference
            file = self._beside(reference, location, file)
            pointer = f"#{fragment}"
        elif pointer is None:
            return reference
        if file == self._top:
            return pointer
        if not pointer.startswith(("#/", "#")) or pointer[1:2] not in ("", "/"):
            return pointer  # an $anchor that is in another file; its name holds in the document
        return f"#/$defs/{_step(self._names[file])}{pointer[1:]}"

    def _beside(self, reference: str, location: str, file: Path) -> Path:
        where = f"{self._flag}={self._named}: $ref {_shown(reference)}"
        try:
            is_elsewhere = bool(urlsplit(location).scheme) or location.startswith("/")
        except ValueError as error:
            raise UsageError(f"{where} is no URI ({error}); correct it") from None
        if is_elsewhere:
            raise UsageError(
                f"{where} points outside the file; copy its target under $defs, or into a file "
                "beside it (references are never fetched)"
            )
        try:
            target = (file.parent / unquote(location)).resolve()
            is_file = target.is_file()
        except (OSError, ValueError):  # too long, or a zero byte
            raise UsageError(f"{where} names no file; correct it") from None
        if not is_file:
            raise UsageError(f"{where} points outside the file, and there is no {target}")
        if target != self._top and target not in self._names:
            name = target.name
            while name in self._taken:
                name = f"_{name}"
            self._taken.add(name)
            self._names[target] = name
            self._pending.append(target)
        return target


_MAX_SHOWN = 200


def _shown(reference: str) -> str:
    return repr(reference if len(reference) <= _MAX_SHOWN else f"{reference[:_MAX_SHOWN]}…")


class Resources:
    """The parts of a document that have an `$id`, and the anchors in them, as JSON pointers.

    In drafts up to 7, an `$id` that is only a fragment is an anchor, and one beside a `$ref` has no
    effect; draft 4 has `id` for `$id`.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        draft = draft_of(document)
        self._id = "id" if draft == 4 else "$id"
        self._is_old = draft <= 7
        self._pointers: dict[str, str] = {}
        self._anchors: dict[tuple[str, str], str] = {}
        self._bases: dict[int, str] = {}
        self._identified: set[int] = set()
        self.has_inner_ids = False
        self.is_dynamic = False
        own = document.get("$id", document.get("id"))
        base = _without_fragment(own) if isinstance(own, str) else ""
        self._pointers[""] = self._pointers[base] = "#"
        self._walk(document, "#", base, at_top=True)

    def base_of(self, part: Any, base: str) -> str:
        """Return the base URI in a part of the document that is inside one with `base`."""
        return self._bases.get(id(part), base)

    def is_identified(self, part: Any) -> bool:
        """Return whether the `$id` or `$anchor` of a part is one."""
        return id(part) in self._identified

    @property
    def id_keyword(self) -> str:
        """The keyword of this draft for the URI of a part."""
        return self._id

    def pointer_to(self, reference: str, base: str) -> str | None:
        """Return a reference as a pointer in the document; None if its target is not in it."""
        location, _, fragment = reference.partition("#")
        whole = _joined(base, location) if location else base
        if whole not in self._pointers:
            return None
        if fragment and not fragment.startswith("/"):
            return self._anchors.get((whole, unquote(fragment)))
        return f"{self._pointers[whole]}{fragment}"

    def _walk(self, part: Any, pointer: str, base: str, at_top: bool = False) -> None:
        if isinstance(part, list):
            for position, child in enumerate(part):
                self._walk(child, f"{pointer}/{position}", base)
            return
        if not isinstance(part, Mapping):
            return
        if not at_top:
            base = self._identify(part, pointer, base)
        self._bases[id(part)] = base
        for keyword in ("$anchor", "$dynamicAnchor"):
            if isinstance(part.get(keyword), str) and not self._is_old:
                self._identified.add(id(part))
                self._anchors.setdefault((base, part[keyword]), pointer)
        self.is_dynamic = self.is_dynamic or not part.keys().isdisjoint(_DYNAMIC)
        for keyword, child in part.items():
            below = f"{pointer}/{_step(keyword)}"
            if keyword in KEYWORDS_OF_NAMES:
                if isinstance(child, Mapping):
                    for name, named in child.items():
                        self._walk(named, f"{below}/{_step(name)}", base)
            elif keyword in KEYWORDS_OF_SCHEMAS:
                self._walk(child, below, base)

    def _identify(self, part: Mapping[str, Any], pointer: str, base: str) -> str:
        own = part.get(self._id)
        if not isinstance(own, str) or (self._is_old and "$ref" in part):
            return base
        self._identified.add(id(part))
        location, _, fragment = own.partition("#")
        if location:
            self.has_inner_ids = True
            base = _joined(base, location)
            self._pointers.setdefault(base, pointer)
        if fragment and self._is_old:
            self._anchors.setdefault((base, unquote(fragment)), pointer)
        return base


_DYNAMIC = frozenset({"$dynamicAnchor", "$dynamicRef", "$recursiveAnchor", "$recursiveRef"})

METASCHEMAS = frozenset(
    {
        *(f"http://json-schema.org/draft-0{number}/schema" for number in (4, 6, 7)),
        *(f"https://json-schema.org/draft/{name}/schema" for name in ("2019-09", "2020-12")),
    }
)
"""The schemas of schemas, which the libraries have built in."""


def _localized(
    part: Any,
    resources: Resources,
    pointer_to: Callable[[str, str], str | None],
    keeps_id: bool = True,
    is_schema: bool = True,
    base: str = "",
    at_top: bool = True,
) -> Any:
    """Return `part` with its references as pointers, and without the names that they had."""
    if isinstance(part, list):
        return [_localized(child, resources, pointer_to, base=base, at_top=False) for child in part]
    if not isinstance(part, Mapping):
        return part
    if not is_schema:
        return {
            name: _localized(child, resources, pointer_to, base=base, at_top=False)
            for name, child in part.items()
        }
    base = resources.base_of(part, base)
    localized = {}
    for keyword, value in part.items():
        if at_top and keyword in ("$id", "id"):
            if not keeps_id:
                continue
        elif resources.is_identified(part) and (
            keyword == resources.id_keyword or (keyword == "$anchor" and not resources.is_dynamic)
        ):
            continue
        elif keyword == "$ref" and isinstance(value, str):
            value = pointer_to(value, base) or value
        elif keyword not in DATA_KEYWORDS:
            value = _localized(
                value,
                resources,
                pointer_to,
                is_schema=keyword not in KEYWORDS_OF_NAMES,
                base=base,
                at_top=False,
            )
        localized[keyword] = value
    return localized


def _joined(base: str, reference: str) -> str:
    try:
        return urljoin(base, reference)
    except ValueError:
        return reference


def _without_fragment(uri: str) -> str:
    return uri.partition("#")[0]


def _step(name: str) -> str:
    """Return a name as a step of a JSON pointer in a URI."""
    return quote(name.replace("~", "~0").replace("/", "~1"), safe="$-._~!&'()*+,;=:@")


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
        return json.loads(raw, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not JSON ({error})") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


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
