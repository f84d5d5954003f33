"""The Kafka client: where it comes from, how it is configured, and what its errors mean."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

from polku import checks
from polku.errors import PlanError
from polku.log import RepeatedLog

LOG = RepeatedLog(logging.getLogger("polku.kafka"))
_CALLBACKS = ("error_cb", "logger", "log_cb", "on_commit", "on_delivery", "stats_cb", "throttle_cb")


class Kind(Enum):
    """Say what an error of Kafka's asks for."""

    RETRY = "retry"
    """The same record may be taken later."""
    TOPIC = "topic"
    """The topic is not there, or not for us: whoever named it has to mend that."""
    ACCESS = "access"
    """Nothing is taken until credentials, rights or encryption are mended."""
    RECORD = "record"
    """This record will never be taken."""


_TOPIC = ("UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC", "TOPIC_AUTHORIZATION_FAILED")
_ACCESS = (
    *("CLUSTER_AUTHORIZATION_FAILED", "GROUP_AUTHORIZATION_FAILED", "TRANSACTIONAL_ID_AUTHORIZATION_FAILED"),
    *("SASL_AUTHENTICATION_FAILED", "UNSUPPORTED_SASL_MECHANISM", "ILLEGAL_SASL_STATE", "SECURITY_DISABLED"),
    *("_AUTHENTICATION", "_SSL", "INVALID_REQUIRED_ACKS", "UNSUPPORTED_VERSION", "_UNSUPPORTED_FEATURE"),
)
_RECORD = (
    *("MSG_SIZE_TOO_LARGE", "RECORD_LIST_TOO_LARGE", "INVALID_RECORD", "INVALID_TIMESTAMP", "POLICY_VIOLATION"),
    *("TOPIC_EXCEPTION", "UNSUPPORTED_FOR_MESSAGE_FORMAT", "_BAD_MSG", "_INVALID_ARG", "_UNKNOWN_PARTITION"),
)
# Brokers refuse a request's records of one partition together: these may be about another record among them.
_SHARED = (
    *("MSG_SIZE_TOO_LARGE", "RECORD_LIST_TOO_LARGE", "INVALID_RECORD", "INVALID_TIMESTAMP"),
    "_INVALID_DIFFERENT_RECORD",
)
_KINDS = dict.fromkeys(_TOPIC, Kind.TOPIC) | dict.fromkeys(_ACCESS, Kind.ACCESS) | dict.fromkeys(_RECORD, Kind.RECORD)


class UnfitError(Exception):
    """Say why an event cannot become a record."""


def kind_of(error: Any) -> Kind:
    """Sort a `KafkaError` or an `UnfitError`; what is not known is worth another try."""
    if isinstance(error, UnfitError):
        return Kind.RECORD
    return _KINDS.get(error.name(), Kind.RETRY)


def is_too_large(error: Any) -> bool:
    """Return whether an error is about a size: that of the record, or of those that were sent with it."""
    if error is None or isinstance(error, UnfitError):
        return False
    return error.name() in ("MSG_SIZE_TOO_LARGE", "RECORD_LIST_TOO_LARGE")


def may_be_shared(error: Any) -> bool:
    """Return whether an error may be about another record that was sent together with this one."""
    return error is not None and not isinstance(error, UnfitError) and error.name() in _SHARED


def explain(error: Any) -> str:
    """Return a `KafkaError` as a sentence that keeps its name."""
    return f"{error.str()} ({error.name()})"


class ClientLog:
    """Take the lines that a client of librdkafka logs; those of one component and facility count as one kind."""

    def __init__(self, where: str) -> None:
        self._where = where

    def log(self, level: int, message: str, facility: str, *arguments: object) -> None:
        """Write a line, or count it where it repeats."""
        LOG.log(level, (self._where, facility), message, facility, *arguments)


class Alarm:
    """Know why no broker can be reached, from what a client says about its connections; empty while one can."""

    def __init__(self, where: str) -> None:
        self.text = ""
        self._where = where

    def hear(self, error: Any) -> None:
        """Take an error that concerns no record: that one broker of several is away is no alarm."""
        LOG.info((self._where, error.name()), "%s: %s", self._where, explain(error))
        if kind_of(error) is Kind.ACCESS:
            self.text = explain(error)
        elif error.name() in ("_ALL_BROKERS_DOWN", "_RESOLVE") or (error.name() == "_TRANSPORT" and self.text):
            self.text = f"no broker can be reached: {explain(error)}"

    def clear(self) -> None:
        """Know that a broker answered."""
        self.text = ""


def load(where: str) -> Any:
    """Import the client; raises `PlanError` with the command that installs it."""
    try:
        import confluent_kafka
    except ImportError as error:
        raise PlanError(f"needs confluent-kafka ({error}): pip install 'polku[kafka]'", where=where) from None
    return confluent_kafka


def open_client(where: str, make: Any, settings: Mapping[str, Any]) -> Any:
    """Make a client of librdkafka; raises `PlanError` for a property that it does not know or allow."""
    import confluent_kafka

    try:
        return make(dict(settings), logger=ClientLog(where))
    except (confluent_kafka.KafkaException, TypeError, ValueError) as error:
        inner = error.args[0] if error.args else error
        reason = explain(inner) if isinstance(inner, confluent_kafka.KafkaError) else str(error)
        raise PlanError(f"config: {reason}", where=where) from None


def checked_config(where: str, servers: object, config: object, ours: Iterable[str]) -> dict[str, Any]:
    """Return the properties for librdkafka, the servers among them; raises `PlanError`.

    `ours` are properties that cannot be chosen, because what the component promises depends on them.
    """
    if not isinstance(config, Mapping):
        raise checks.fault(where, "config", config, "must be a mapping of librdkafka's properties")
    checked: dict[str, Any] = {}
    for name, value in config.items():
        if not isinstance(name, str) or not isinstance(value, (str, int, float, bool)):
            raise PlanError(f"config: {name!r} must be a property's name, and its value text or a number", where=where)
        if name in ours or name in _CALLBACKS:
            raise PlanError(f"config: {name!r} cannot be chosen; leave it out", where=where)
        checked[name] = value
    if servers:
        checked["bootstrap.servers"] = servers
    given = checked.get("bootstrap.servers", "")
    if not isinstance(given, str) or not given.strip() or not all(map(str.strip, given.split(","))):
        fix = "name the brokers to begin with: 'host:9092', or several with commas between"
        raise checks.fault(where, "bootstrap_servers", given, fix)
    return checked
