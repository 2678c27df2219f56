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
