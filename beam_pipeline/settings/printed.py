"""The output of `--print_config`: YAML that `--config` takes, with the source of each value."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from beam_pipeline.settings.masking import masked
from beam_pipeline.settings.sources import Setting
from beam_pipeline.terminal import printable

_WIDEST_COLUMN = 60
# Texts that YAML reads as they are; all others are quoted.
_PLAIN = re.compile(r"[A-Za-z0-9_./](?:[\w./,+=@%-]|:(?=\S))*(?<!:)", re.ASCII)


def settings_text(settings: Sequence[Setting]) -> str:
    """Return a line `name: value  # source` for each flag: secrets masked, null for no value."""
    lines = [
        (f"{setting.name}: {_value_text(setting.name, setting.value)}", setting.source)
        for setting in settings
    ]
    column = min(_WIDEST_COLUMN, max((len(line) for line, _ in lines), default=0))
    return "".join(f"{line:<{column}}  # {printable(source)}\n" for line, source in lines)


def _value_text(name: str, value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_text(masked(name, str(item)), in_list=True) for item in value)}]"
    return _text(masked(name, _number(value) if isinstance(value, float) else str(value)))


def _number(value: float) -> str:
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _text(text: str, in_list: bool = False) -> str:
    if _PLAIN.fullmatch(text) and text.lower() != "null" and not (in_list and "," in text):
        return text
    return printable(json.dumps(text, ensure_ascii=False))
