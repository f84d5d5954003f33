"""Built-in middleware: immutable configurations, checked when they are made; a stage builds what runs from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polku.lazy import exports

if TYPE_CHECKING:
    from polku.middleware.aggregator import Aggregator
    from polku.middleware.batching import Batched, Batching
    from polku.middleware.checks import has_data, json_payload, max_size, non_empty
    from polku.middleware.combine import Strategy
    from polku.middleware.deduplicator import Deduplicator
    from polku.middleware.enricher import Enricher
    from polku.middleware.filter import Filter
    from polku.middleware.rate_limiter import RateLimiter
    from polku.middleware.router import Router
    from polku.middleware.sampler import Sampler
    from polku.middleware.throttle import Throttle
    from polku.middleware.transform import Transform
    from polku.middleware.validator import OnInvalid, Validator

__all__ = [
    "Aggregator",
    "Batched",
    "Batching",
    "Deduplicator",
    "Enricher",
    "Filter",
    "OnInvalid",
    "RateLimiter",
    "Router",
    "Sampler",
    "Strategy",
    "Throttle",
    "Transform",
    "Validator",
    "has_data",
    "json_payload",
    "max_size",
    "non_empty",
]

if not TYPE_CHECKING:
    __getattr__ = exports(
        __name__,
        {
            "polku.middleware.aggregator": ("Aggregator",),
            "polku.middleware.batching": ("Batched", "Batching"),
            "polku.middleware.checks": ("has_data", "json_payload", "max_size", "non_empty"),
            "polku.middleware.combine": ("Strategy",),
            "polku.middleware.deduplicator": ("Deduplicator",),
            "polku.middleware.enricher": ("Enricher",),
            "polku.middleware.filter": ("Filter",),
            "polku.middleware.rate_limiter": ("RateLimiter",),
            "polku.middleware.router": ("Router",),
            "polku.middleware.sampler": ("Sampler",),
            "polku.middleware.throttle": ("Throttle",),
            "polku.middleware.transform": ("Transform",),
            "polku.middleware.validator": ("OnInvalid", "Validator"),
        },
    )
