"""Flag values without passwords, whatever flag they were put into."""

from __future__ import annotations

import re

MASK = "***"

_SECRET_NAME = re.compile(r"password|passwd|passphrase|secret|token|credential|api_?key", re.I)
# user:password@ in an address, alone or behind a scheme; a name alone is no secret.
_LOGIN = re.compile(r"(?P<scheme>[A-Za-z][\w+.-]*://)?(?P<login>[^\s,/?#@]*:(?!//).*)@")
_PARAMETER = re.compile(
    r"(?P<name>[\w.-]*(?:password|passwd|secret|token|credential|signature)[\w.-]*\s*[=:]\s*)"
    r"""(?P<value>"[^"]*"|'[^']*'|[^\s&;,]+)""",
    re.I,
)


def is_secret(name: str) -> bool:
    """Return whether a flag of that name holds a secret, whatever its value."""
    return _SECRET_NAME.search(name) is not None


def masked(name: str, text: str) -> str:
    """Replace what may be a secret in a flag's value, or in a message about it, by `***`.

    That is the whole text where the flag's name says so, logins in addresses, and parameters such
    as password=….
    """
    if is_secret(name):
        return MASK
    text = _LOGIN.sub(lambda match: f"{match['scheme'] or ''}{MASK}@", text)
    return _PARAMETER.sub(lambda match: f"{match['name']}{MASK}", text)
