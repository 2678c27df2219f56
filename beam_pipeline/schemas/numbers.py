"""Numbers of JSON that float64 can't hold: the digits that were sent, and decimals made of them."""

from __future__ import annotations

import decimal
import enum
import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class Digits(enum.IntEnum):
    """Which numbers with a fraction or an exponent are decoded exactly."""

    OF_NONE = 0
    OF_INTEGERS = 1
    """Those that are integers as doubles, since JSON Schema takes 2e3 for an integer."""
    OF_ALL = 2
    AS_SENT = 3
    """All, and each is known by its text."""


_MAY_BE_INTEGER = (
    r"[:,\[\s]-?[0-9]+(?:\.[0-9]+)?[eE]"  # an exponent
    r"|[0-9]{13}\."  # 13 digits before the point: its double has 3 digits behind it, or fewer
    r"|\.(?:000|999)[0-9]"  # close to an integer
)


BYTES_PER_CALL = 130
"""How many bytes `may_hold_inexact_integers` reads in the time of one call for a number by msgspec:
1.4 ns a byte, and 190 ns a call (docs/design/0037-exact-numbers.md)."""


def may_hold_inexact_integers(values: pa.Array) -> pa.Array:
    """Return which JSON objects and arrays may have an integer that its double is not.

    A text that has none may be decoded without a function that is called for each number. It pays
    for events of at most `BYTES_PER_CALL` bytes a double.

    >>> may_hold_inexact_integers(pa.array([b'{"a": 1.25}', b'{"a": 1e3}'])).to_pylist()
    [False, True]
    """
    return pc.match_substring_regex(values, _MAY_BE_INTEGER)


_SURE_DIGITS = 15
"""A decimal number of so many digits is the one that its float64 is printed as."""

_MAX_EXACT_INTEGER = 2**53


class ExactFloat(float):
    """A number that float64 can't hold: the nearest float, and the text that was sent.

    `int()` is exact, and Arrow calls it where a column has integers.

    >>> int(ExactFloat("9007199254740993.0"))
    9007199254740993
    """

    __slots__ = ("text",)

    def __new__(cls, text: str) -> ExactFloat:
        number = super().__new__(cls, text)
        number.text = text
        return number

    text: str

    @property
    def exact(self) -> Decimal:
        """The number; one whose exponent no Decimal can have is 0, or 1e-400 if it is not."""
        try:
            return Decimal(self.text)
        except decimal.InvalidOperation:
            digits = self.text.lower().partition("e")[0]
            return Decimal("1e-400") if digits.strip("-0.") else Decimal(0)

    @property
    def whole(self) -> int | None:
        """The integer that this number is; None if it has a fraction."""
        exact = self.exact
        if not exact:
            return 0
        # Without this test, digits are made for the whole range of a large exponent.
        return int(exact) if abs(self) >= 0.5 and exact == exact.to_integral_value() else None

    def __int__(self) -> int:
        whole = self.whole
        if whole is None:
            raise ValueError(f"{self.text[:100]} is not a whole number")
        return whole


def number_of(text: str) -> float:
    """Return a number with a fraction or an exponent, as an `ExactFloat` if float64 can't hold it.

    It can if the float is printed as the same number, and, from 2**53 on, where all floats are
    integers, if it is the same integer.

    Raises:
      ValueError: the number is beyond float64.

    >>> number_of("1.10"), type(number_of("0.12345678901234567890")).__name__
    (1.1, 'ExactFloat')
    """
    number = float(text)
    if len(text) <= _SURE_DIGITS and "e" not in text and "E" not in text:
        return number
    if math.isinf(number):
        raise ValueError("Number out of range")
    is_small = abs(number) < _MAX_EXACT_INTEGER
    if is_small and repr(number) == text:
        return number
    try:
        exact = Decimal(text)
    except decimal.InvalidOperation:  # an exponent of 19 digits or more
        return ExactFloat(text)
    is_held = Decimal(repr(number)) == exact
    if is_held and not is_small:
        is_held = Decimal(number) == exact
    return number if is_held else ExactFloat(text)


def decimals_of(values: Sequence[Any], kind: pa.Decimal128Type) -> pa.Array:
    """Return decoded numbers as decimals, rounded half to even from the digits that were sent.

    Args:
      values: int, float, ExactFloat or None; a float stands for the number that it is printed as.
      kind: the type of the result.

    Raises:
      ValueError: a number has more digits before its point than `kind` has room for.

    >>> [str(value) for value in decimals_of([0.285, 2.675, 7, None], pa.decimal128(5, 2))]
    ['0.28', '2.68', '7.00', 'None']
    """
    try:
        floats = pa.array(values, pa.float64())
    except pa.ArrowInvalid:  # an integer that float64 can't hold
        return pa.array([_rounded(value, kind) for value in values], kind)
    unscaled, is_sure = _unscaled(floats.to_numpy(zero_copy_only=False), kind.scale)
    if kind.precision < _INT64_DIGITS and np.any(np.abs(unscaled) >= 10**kind.precision):
        is_sure &= np.abs(unscaled) < 10**kind.precision  # what does not fit is refused below
        unscaled = np.where(is_sure, unscaled, 0)
    words = np.stack([unscaled, unscaled >> 63], axis=1)  # little-endian, 128 bits
    decimals = pa.Array.from_buffers(
        kind, len(floats), [floats.buffers()[0], pa.py_buffer(words)], floats.null_count
    )
    (unsure,) = np.nonzero(~is_sure)
    rows = [row for row in unsure.tolist() if values[row] is not None]
    if not rows:
        return decimals
    is_replaced = np.zeros(len(floats), np.bool_)
    is_replaced[rows] = True
    exact = pa.array([_rounded(values[row], kind) for row in rows], kind)
    return pc.replace_with_mask(decimals, pa.array(is_replaced), exact)


_INT64_DIGITS = 19
_MAX_EXACT_POWER = 22
"""The largest power of ten that float64 holds exactly."""

_ROUNDING_ERROR = 2.0**-51
"""How far the product may be from that of the decimal numbers, relative to itself: a number is
2**-53 from its float, and the product is rounded by 2**-53 again."""


def _unscaled(floats: Any, scale: int) -> tuple[Any, Any]:
    """Return numbers times 10**scale as int64, and where that is surely rounded correctly.

    It is not near a tie, from 2**50 on, and where there is no number (NaN); there it is 0.
    """
    if scale > _MAX_EXACT_POWER:
        return np.zeros(len(floats), np.int64), np.zeros(len(floats), np.bool_)
    with np.errstate(over="ignore", invalid="ignore"):
        product = floats * 10.0**scale
        nearest = np.rint(product)
        from_tie = np.abs(np.abs(product - nearest) - 0.5)
        is_sure = from_tie > np.abs(product) * _ROUNDING_ERROR
    return np.where(is_sure, nearest, 0).astype(np.int64), is_sure


def _rounded(value: Any, kind: pa.Decimal128Type) -> Decimal | None:
    if value is None:
        return None
    if isinstance(value, float):
        exact = value.exact if isinstance(value, ExactFloat) else Decimal(repr(value))
    else:
        exact = Decimal(value)
    context = decimal.Context(
        prec=kind.precision,
        rounding=decimal.ROUND_HALF_EVEN,
        Emin=decimal.MIN_EMIN,
        Emax=decimal.MAX_EMAX,
    )
    try:
        return exact.quantize(Decimal((0, (1,), -kind.scale)), context=context)
    except decimal.InvalidOperation:
        text = value.text if isinstance(value, ExactFloat) else str(value)
        raise ValueError(f"{text[:100]} needs more than {kind.precision} digits") from None
