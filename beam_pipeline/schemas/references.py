"""The references of a schema: where each leads, and which lead back to themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

DATA_KEYWORDS = frozenset({"const", "default", "enum", "examples"})
"""Keywords whose values are data, whatever these look like."""

KEYWORDS_OF_NAMES = frozenset(
    {
        "$defs",
        "definitions",
        "dependencies",
        "dependentSchemas",
        "patternProperties",
        "properties",
    }
)
"""Keywords whose values are objects with a schema for each name."""

KEYWORDS_OF_SCHEMAS = frozenset(
    {
        *("additionalItems", "additionalProperties", "allOf", "anyOf", "contains"),
        *("contentSchema", "else", "if", "items", "not", "oneOf", "prefixItems"),
        *("propertyNames", "then", "unevaluatedItems", "unevaluatedProperties"),
    }
)
"""Keywords whose values are schemas or lists of them."""


class References:
    """The references of one document.

    All answers are remembered, and the document is walked once, whatever the number of references.
    """

    def __init__(self, root: Mapping[str, Any]) -> None:
        self.root = root
        self._targets: dict[str, Any] = {}
        self._anchors: dict[str, Any] | None = None
        self._bits: dict[str, int] = {}
        self._reached: dict[int, int] = {}
        self._kept_alive: list[Any] = [root]
        self._find_recursive()

    def resolve(self, reference: Any) -> Any | None:
        """Return the target of a local reference, None if it has none or is not local.

        A local reference is a pointer (`#`, `#/$defs/name`; RFC 6901) or the name of an `$anchor`.
        """
        if not isinstance(reference, str):
            return None
        if reference not in self._targets:
            self._targets[reference] = self._find(reference)
        return self._targets[reference]

    def bit(self, reference: str) -> int:
        """Return the bit of a recursive reference, 0 for another.

        A reference is recursive if its target leads to the same reference again.
        """
        return self._bits.get(reference, 0)

    def reached_from(self, part: Any) -> int:
        """Return the bits of all recursive references that `part` leads to."""
        if not isinstance(part, Mapping | list):
            return 0
        reached = self._reached.get(id(part))
        if reached is None:  # a part that was merged, and is not in the document
            reached = 0
            for child in part.values() if isinstance(part, Mapping) else part:
                reached |= self.reached_from(child)
            reference = _reference_of(part)
            if reference is not None:
                reached |= self.bit(reference) | self.reached_from(self.resolve(reference))
            self._reached[id(part)] = reached
            self._kept_alive.append(part)  # so that its id is not used again
        return reached

    def _find(self, reference: str) -> Any | None:
        if not reference.startswith("#"):
            return None
        if reference[1:2] in ("", "/"):
            return resolve_steps(self.root, reference.split("/")[1:])
        if self._anchors is None:
            self._anchors = {}
            for part in schemas_in(self.root):
                for keyword in ("$anchor", "$dynamicAnchor"):
                    if isinstance(part.get(keyword), str):
                        self._anchors.setdefault(part[keyword], part)
        return self._anchors.get(reference[1:])

    def _find_recursive(self) -> None:
        """Find the recursive references by Tarjan's algorithm, without recursion of Python's.

        A container leads to its children and to the target of its `$ref`. A reference is recursive
        if a container that has it and its target lead to each other.
        """
        components = self._components()
        component_of = {
            id(part): number for number, parts in enumerate(components) for part in parts
        }
        for parts in components:
            for part in parts:
                reference = _reference_of(part)
                target = self.resolve(reference)
                if (
                    reference is not None
                    and component_of.get(id(target), -1) == component_of[id(part)]
                ):
                    self._bits.setdefault(reference, 1 << len(self._bits))
        reached_by: list[int] = []
        for number, parts in enumerate(components):  # what a component leads to comes before it
            reached = 0
            for part in parts:
                reached |= self.bit(_reference_of(part) or "")
                for child in self._leads_to(part):
                    if component_of[id(child)] != number:
                        reached |= reached_by[component_of[id(child)]]
            reached_by.append(reached)
            self._reached.update((id(part), reached) for part in parts)

    def _components(self) -> list[list[Any]]:
        """Return the containers that lead to each other, as lists; the last leads to all others."""
        order: dict[int, int] = {id(self.root): 0}
        lowest: dict[int, int] = {id(self.root): 0}
        open_parts: list[Any] = [self.root]
        is_open = {id(self.root)}
        components: list[list[Any]] = []
        way: list[tuple[Any, Iterator[Any]]] = [(self.root, self._leads_to(self.root))]
        while way:
            part, children = way[-1]
            for child in children:
                if id(child) not in order:
                    order[id(child)] = lowest[id(child)] = len(order)
                    open_parts.append(child)
                    is_open.add(id(child))
                    way.append((child, self._leads_to(child)))
                    break
                if id(child) in is_open:
                    lowest[id(part)] = min(lowest[id(part)], order[id(child)])
            else:
                way.pop()
                if way:
                    above = id(way[-1][0])
                    lowest[above] = min(lowest[above], lowest[id(part)])
                if lowest[id(part)] == order[id(part)]:
                    component: list[Any] = []
                    while not component or component[-1] is not part:
                        component.append(open_parts.pop())
                        is_open.discard(id(component[-1]))
                    components.append(component)
        return components

    def _leads_to(self, part: Any) -> Iterator[Any]:
        children = part.values() if isinstance(part, Mapping) else part
        for child in children:
            if isinstance(child, Mapping | list):
                yield child
        target = self.resolve(_reference_of(part))
        if isinstance(target, Mapping | list):
            yield target


def schemas_in(root: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the objects of a document that may be schemas; nothing that is data."""
    waiting: list[tuple[Any, bool]] = [(root, True)]
    while waiting:
        part, is_schema = waiting.pop()
        if isinstance(part, list):
            waiting.extend((child, True) for child in reversed(part))
        elif isinstance(part, Mapping):
            if is_schema:
                yield part
            waiting.extend(
                (child, not (is_schema and keyword in KEYWORDS_OF_NAMES))
                for keyword, child in reversed([*part.items()])
                if not (is_schema and keyword in DATA_KEYWORDS)
            )


def resolve_steps(root: Any, steps: list[str]) -> Any | None:
    """Return what the steps of a JSON pointer in a URI lead to, None if that is nothing."""
    target = root
    for step in steps:
        step = unquote(step).replace("~1", "/").replace("~0", "~")
        if isinstance(target, list) and _is_index(step) and int(step) < len(target):
            target = target[int(step)]
        elif isinstance(target, Mapping) and step in target:
            target = target[step]
        else:
            return None
    return target


def _is_index(step: str) -> bool:
    return step.isascii() and step.isdigit() and len(step) < 10


def _reference_of(part: Any) -> str | None:
    reference = part.get("$ref") if isinstance(part, Mapping) else None
    return reference if isinstance(reference, str) else None
