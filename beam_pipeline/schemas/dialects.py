"""What the drafts of JSON Schema do differently."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jsonschema_rs

LATEST = 2020

_DRAFTS = {
    jsonschema_rs.Draft4Validator: 4,
    jsonschema_rs.Draft6Validator: 6,
    jsonschema_rs.Draft7Validator: 7,
    jsonschema_rs.Draft201909Validator: 2019,
    jsonschema_rs.Draft202012Validator: LATEST,
}


def draft_of(document: Mapping[str, Any]) -> int:
    """Return the draft of a document, as the library that decides takes it: 4, 6, 7, 2019 or 2020.

    >>> draft_of({"$schema": "http://json-schema.org/draft-07/schema#"})
    7
    """
    uri = document.get("$schema")
    return _draft_of(uri) if isinstance(uri, str) else LATEST


@functools.lru_cache(maxsize=64)
def _draft_of(uri: str) -> int:
    try:
        return _DRAFTS.get(jsonschema_rs.validator_cls_for({"$schema": uri}), LATEST)
    except (jsonschema_rs.ReferencingError, ValueError):
        return LATEST


_FORMATS_OF_4 = frozenset(
    {"date", "date-time", "email", "hostname", "idn-email", "ipv4", "ipv6", "regex", "time", "uri"}
)
_FORMATS_OF_6 = _FORMATS_OF_4 | {"json-pointer", "uri-reference", "uri-template"}
_FORMATS_OF_7 = _FORMATS_OF_6 | {
    *("idn-hostname", "iri", "iri-reference", "relative-json-pointer"),
}
_FORMATS_OF_2019 = _FORMATS_OF_7 | {"duration", "uuid"}
FORMATS = {
    4: _FORMATS_OF_4,
    6: _FORMATS_OF_6,
    7: _FORMATS_OF_7,
    2019: _FORMATS_OF_2019,
    2020: _FORMATS_OF_2019,
}
"""The formats that the library that decides checks, by draft."""

_SAME_IN_ALL_DRAFTS = (
    *("$ref", "additionalProperties", "allOf", "anyOf", "enum", "maxItems", "maxLength"),
    *("maxProperties", "minItems", "minLength", "minProperties", "multipleOf", "not", "oneOf"),
    *("pattern", "patternProperties", "properties", "required", "uniqueItems"),
)
_SINCE_6 = ("const", "exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "propertyNames")
_SINCE_7 = ("if", "then", "else")
_SINCE_2019 = ("unevaluatedItems", "unevaluatedProperties")


def normal(
    schema: Mapping[str, Any], draft: int, asserts_formats: bool = True, is_dynamic: bool = False
) -> dict[str, Any]:
    """Return the keywords of a schema that decide, in one form for all drafts.

    Annotations and what the draft does not know are left out. The parts of the schema stay as they
    are. The form is that of 2020-12, with these differences:

    - `type` is a list, in which draft 4's integers, which exclude 1.0, are `literal integer`;
    - a dynamic reference is a `$ref`, or with `is_dynamic` a keyword of its own;
    - the values of `dependentSchemas` are lists of schemas;
    - `content` has the encoding and the media type, which drafts 6 and 7 check together;
    - what two drafts decide differently has the draft in its name.
    """
    if "$ref" in schema and draft <= 7:
        return {"$ref": schema["$ref"]}
    form = {name: schema[name] for name in _SAME_IN_ALL_DRAFTS if name in schema}
    if "type" in schema:
        declared = schema["type"]
        names = [declared] if isinstance(declared, str) else declared
        form["type"] = [
            "literal integer" if name == "integer" and draft == 4 else name for name in names
        ]
    name = schema.get("format")
    if asserts_formats and isinstance(name, str) and name in FORMATS[draft]:
        form["format"] = f"hostname of draft {draft}" if name == "hostname" else name
    if draft == 4:
        for bound, exclusive in (
            ("minimum", "exclusiveMinimum"),
            ("maximum", "exclusiveMaximum"),
        ):
            if bound in schema:
                form[exclusive if schema.get(exclusive) is True else bound] = schema[bound]
    else:
        form |= {name: schema[name] for name in _SINCE_6 if name in schema}
        if "contains" in schema:
            form["contains"] = schema["contains"]
            if draft >= 2019:
                counts = ("minContains", "maxContains")
                form |= {name: schema[name] for name in counts if name in schema}
    content = [schema.get("contentEncoding"), schema.get("contentMediaType")]
    if draft in (6, 7) and content != [None, None]:
        form["content"] = content
    if draft >= 7:
        form |= {name: schema[name] for name in _SINCE_7 if name in schema}
    if draft >= 2019:
        for name in _SINCE_2019:
            if name in schema:
                form[f"{name} of {draft}"] = schema[name]
    _add_items(form, schema, draft)
    _add_dependencies(form, schema, draft)
    _add_dynamic(form, schema, draft, is_dynamic)
    return form


def _add_items(form: dict[str, Any], schema: Mapping[str, Any], draft: int) -> None:
    items = schema.get("items")
    if isinstance(items, list):
        form["prefixItems"] = items
        if "additionalItems" in schema:
            form["items"] = schema["additionalItems"]
        return
    if items is not None:
        form["items"] = items
    if draft == LATEST and "prefixItems" in schema:
        form["prefixItems"] = schema["prefixItems"]


def _add_dependencies(form: dict[str, Any], schema: Mapping[str, Any], draft: int) -> None:
    names: dict[str, list[str]] = {}
    parts: dict[str, list[Any]] = {}
    for name, needed in schema.get("dependencies", {}).items():
        if isinstance(needed, list):
            names.setdefault(name, []).extend(needed)
        else:
            parts.setdefault(name, []).append(needed)
    if draft >= 2019:
        for name, needed in schema.get("dependentRequired", {}).items():
            names.setdefault(name, []).extend(needed)
        for name, needed in schema.get("dependentSchemas", {}).items():
            parts.setdefault(name, []).append(needed)
    if names:
        form["dependentRequired"] = names
    if parts:
        form["dependentSchemas"] = parts


def _add_dynamic(
    form: dict[str, Any], schema: Mapping[str, Any], draft: int, is_dynamic: bool
) -> None:
    keyword = {2019: "$recursiveRef", 2020: "$dynamicRef"}.get(draft, "")
    if keyword not in schema:
        return
    reference = "#" if draft == 2019 else schema[keyword]
    if is_dynamic:
        form["dynamic reference"] = reference
    elif "$ref" in form:
        form["allOf"] = [*form.get("allOf", ()), {"$ref": reference}]
    else:
        form["$ref"] = reference
