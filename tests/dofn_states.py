"""States and timers of one key, for a DoFn that a test calls itself."""

from __future__ import annotations

from typing import Any


class Cell:
    """A value state of one key."""

    def __init__(self) -> None:
        self.value: Any = None

    def read(self) -> Any:
        return self.value

    def write(self, value: Any) -> None:
        self.value = value

    def clear(self) -> None:
        self.value = None


class Bag:
    """A bag state of one key."""

    def __init__(self) -> None:
        self.items: list[Any] = []

    def add(self, item: Any) -> None:
        self.items.append(item)

    def read(self) -> list[Any]:
        return list(self.items)

    def clear(self) -> None:
        self.items = []


class Timer:
    """A timer; the rules fire it whenever they like."""

    def set(self, _time: Any) -> None: ...

    def clear(self) -> None: ...
