"""Synthetic events of `schema/commerce_event.schema.json`: the same seed gives the same events."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from random import Random
from typing import Any

from mimesis import Development, Internet, Locale, Text

Event = dict[str, Any]

# (country, currency, offset from UTC in minutes, price level (Germany: 1), digits of a price)
_MARKETS = (
    ("DE", "EUR", 60, 1.0, 2),
    ("FR", "EUR", 60, 1.05, 2),
    ("ES", "EUR", 60, 0.95, 2),
    ("IT", "EUR", 60, 1.0, 2),
    ("IE", "EUR", 0, 1.15, 2),
    ("GB", "GBP", 0, 0.85, 2),
    ("CH", "CHF", 60, 1.25, 2),
    ("SE", "SEK", 60, 11.0, 2),
    ("PL", "PLN", 60, 4.0, 2),
    ("TR", "TRY", 180, 40.0, 2),
    ("US", "USD", -300, 1.1, 2),
    ("CA", "CAD", -300, 1.5, 2),
    ("BR", "BRL", -180, 6.0, 2),
    ("MX", "MXN", -360, 18.0, 2),
    ("ZA", "ZAR", 120, 18.0, 2),
    ("IN", "INR", 330, 80.0, 2),
    ("JP", "JPY", 540, 160.0, 0),
    ("AU", "AUD", 600, 1.6, 2),
    ("SG", "SGD", 480, 1.5, 2),
)
_SYSTEMS = {
    "desktop": ("Windows", "macOS", "Linux"),
    "mobile": ("Android", "iOS"),
    "tablet": ("Android", "iPadOS"),
    "tv": ("Tizen", "webOS"),
}
_KINDS_WITH_APP = ("mobile", "tablet")
_LANGUAGES = (Locale.DE, Locale.EN, Locale.JA, Locale.PL, Locale.TR)
_EXPERIMENTS = ("checkout-a", "Checkout-B", " search-boost ")
_SHOP = "https://shop.example"

_EVENT_TYPES = ("page_view", "product_view", "add_to_cart", "purchase", "refund")
_CUMULATIVE_WEIGHTS = (50, 76, 88, 97, 100)
ORDER_TYPES = frozenset({"purchase", "refund"})


@dataclass(slots=True)
class _Visitor:
    """One visitor; `session_id` changes when a new visit begins."""

    user_id: str
    country: str
    currency: str
    clock_offset: timezone
    price_level: float
    price_digits: int
    user_agent: str
    device: dict[str, str]
    session_id: str


@dataclass(frozen=True, slots=True)
class _Product:
    sku: str
    slug: str
    price: float


class EventFactory:
    """Generates valid events of a shop's visitors.

    Args:
        seed: the same seed gives the same events for the same times.
        visitors: how many different visitors there are.
        products: how many different products there are.
        max_jitter_ms: how much older than its creation an event is at most, as if it had been in
            transit for that time.
    """

    def __init__(
        self, seed: int, *, visitors: int = 500, products: int = 200, max_jitter_ms: int = 50
    ) -> None:
        self._random = Random(seed)
        self._max_jitter_ms = max_jitter_ms
        internet, development = Internet(seed=seed), Development(seed=seed)
        english = Text(Locale.EN, seed=seed)
        self._visitors = [self._visitor(internet, development) for _ in range(visitors)]
        self._products = [self._product(english) for _ in range(products)]
        self._searches = [
            " ".join(Text(language, seed=seed + i).words(2))
            for i in range(8)
            for language in _LANGUAGES
        ]
        self._referrers = [internet.url() for _ in range(50)]

    def make(self, now_ms: int, *, event_type: str | None = None, late_ms: int = 0) -> Event:
        """Return a new event as a JSON object, which the caller may change.

        Args:
            now_ms: the time of its creation, in milliseconds since 1970.
            event_type: its type; None picks one, mostly page views.
            late_ms: how much older than its creation the event is, in addition to the jitter.
        """
        rng = self._random
        visitor = rng.choice(self._visitors)
        if rng.random() < 0.05:
            visitor.session_id = _uuid4(rng)
        if event_type is None:
            event_type = rng.choices(_EVENT_TYPES, cum_weights=_CUMULATIVE_WEIGHTS)[0]
        product = rng.choice(self._products)
        event_time_ms = now_ms - late_ms - int(rng.random() * (self._max_jitter_ms + 1))
        event: Event = {
            "event_id": _uuid4(rng),
            "event_type": event_type,
            "event_time": _rfc3339(event_time_ms, visitor.clock_offset),
            "user_id": visitor.user_id,
            "session_id": visitor.session_id,
            "country": visitor.country,
            "page_url": _page_url(event_type, product),
            "user_agent": visitor.user_agent,
            "device": dict(visitor.device),
        }
        if event_type in ORDER_TYPES:
            event["purchase"] = self._purchase(visitor)
        self._add_optional_fields(event)
        return event

    def _add_optional_fields(self, event: Event) -> None:
        rng = self._random
        chance = rng.random()
        if chance < 0.5:
            event["referrer"] = rng.choice(self._referrers) if chance < 0.3 else None
        if rng.random() < 0.8:
            event["consent"] = rng.random() < 0.7
        if rng.random() < 0.3:
            event["experiment"] = rng.choice(_EXPERIMENTS)
        # Not in the schema: a field that a client adds.
        if rng.random() < 0.1:
            event["search_query"] = rng.choice(self._searches)

    def _purchase(self, visitor: _Visitor) -> Event:
        rng = self._random
        items: list[Event] = [
            {
                "sku": product.sku,
                "quantity": 1 + int(rng.random() ** 3 * 5),
                "unit_price": round(product.price * visitor.price_level, visitor.price_digits),
            }
            for product in rng.sample(self._products, 1 + int(rng.random() ** 2 * 5))
        ]
        amount = sum(item["quantity"] * item["unit_price"] for item in items)
        return {
            "order_id": f"ord-{rng.randrange(10**10):010d}",
            "amount": round(amount, visitor.price_digits),
            "currency": visitor.currency,
            "items": items,
        }

    def _visitor(self, internet: Internet, development: Development) -> _Visitor:
        rng = self._random
        country, currency, offset_minutes, price_level, price_digits = rng.choice(_MARKETS)
        kind = rng.choice(tuple(_SYSTEMS))
        device = {"kind": kind, "os": rng.choice(_SYSTEMS[kind])}
        if kind in _KINDS_WITH_APP:
            device["app_version"] = development.version()
        if rng.random() < 0.2:
            country, currency = country.lower(), currency.lower()
        return _Visitor(
            user_id=f"u-{rng.getrandbits(48):012x}",
            country=country,
            currency=currency,
            clock_offset=timezone(timedelta(minutes=offset_minutes)),
            price_level=price_level,
            price_digits=price_digits,
            user_agent=internet.user_agent(),
            device=device,
            session_id=_uuid4(rng),
        )

    def _product(self, english: Text) -> _Product:
        rng = self._random
        words = english.words(2)
        group = "".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=3))
        return _Product(
            sku=f"{group}-{rng.randrange(10**5):05d}",
            slug="-".join(words).lower(),
            price=round(1 + rng.random() ** 3 * 249, 2),
        )


def _uuid4(rng: Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def _rfc3339(time_ms: int, offset: timezone) -> str:
    seconds, milliseconds = divmod(time_ms, 1000)
    moment = datetime.fromtimestamp(seconds, offset).replace(microsecond=milliseconds * 1000)
    return moment.isoformat(timespec="milliseconds")


def _page_url(event_type: str, product: _Product) -> str:
    if event_type == "page_view":
        return f"{_SHOP}/c/{product.sku[:3].lower()}"
    if event_type in ORDER_TYPES:
        return f"{_SHOP}/orders"
    return f"{_SHOP}/p/{product.slug}/{product.sku}"
