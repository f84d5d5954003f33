"""The Ray that a pipeline runs on: which one, whether it is ours to stop, and whether it is still there.

A Ray is joined only where somebody says so: the program has initialised it, `RAY_ADDRESS` (or `polku run --ray`) names
it, or this is a job of it. Otherwise the pipeline starts its own, whatever else happens to run on the machine.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import ray

from polku.actors.options import SYSTEM_CONFIG
from polku.actors.ray_token import ask_for_token
from polku.actors.worker_log import keep_errors_off_output, relay_as_json
from polku.errors import NotRunningError, SettingError, UnavailableError
from polku.log_format import is_json
from polku.runtime.drain import drain_seconds
from polku.text import said

_LOG = logging.getLogger(__name__)
SHUT_DOWN = "Ray was shut down, and the pipeline with it; start the pipeline again"

_KNOCK_SECONDS = 5.0  # a Ray that is being started listens soon
_VERSIONS = "Version mismatch"
_TOKEN_LOG = "ray._private.authentication.authentication_token_setup"
_LATE = "node timed out during startup"
_GUARDED = "Token authentication is enabled"
_STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"  # of the node that runs the job; the job's program inherits it
_JOB = ("RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_JOB_ID")  # what a job, and what a program that a worker starts, finds


class Choice(NamedTuple):
    """An address for `ray.init`, and who named it; an empty address starts a Ray of its own."""

    address: str
    named_by: str


def choose(environment: Mapping[str, str]) -> Choice:
    """Return which Ray a program that has initialised none is to use; raises `SettingError`."""
    address = environment.get("RAY_ADDRESS", "").strip()
    if "://" in address:
        fix = (
            "Ray Client cannot carry a pipeline; name HOST:PORT of the cluster on one of its nodes, or submit a Ray job"
        )
        raise SettingError("RAY_ADDRESS", address, fix)
    if address and address != "local":
        return Choice(address, "RAY_ADDRESS")
    if not address and any(name in environment for name in _JOB):
        return Choice("auto", "this program is a job of it")
    return Choice("", "")


def job_notice(environment: Mapping[str, str]) -> str:
    """Return what a Ray job is to be warned of: one that is stopped is killed sooner than a drain may end."""
    text = environment.get(_STOP_WAIT, "")
    seconds = int(text) if text.isdecimal() else 3
    drain = drain_seconds(None, environment)
    if not any(name in environment for name in _JOB) or seconds > drain:
        return ""
    return (
        f"; a Ray job that is stopped is killed after {seconds} s, and a drain may take {drain:g} s: start the nodes "
        f"of Ray with {_STOP_WAIT}={drain + 15:.0f}"
    )


class Attachment(NamedTuple):
    """This process and a Ray: `connection` is of this process and this `ray.init`, `text` is for people."""

    connection: str
    address: str
    is_ours: bool
    text: str

    @property
    def is_there(self) -> bool:
        """Whether this process is still connected to that Ray; nothing of Ray may be called where it is not.

        Ray would start, or join, another one by itself.
        """
        return connection() == self.connection

    def has_ended(self) -> bool:
        """Return whether the Ray that was started for the pipeline does not even listen any more; blocks.

        One that was joined may come back: Ray itself ends the process where it does not within a minute.
        """
        if not self.is_ours:
            return False
        try:
            _knock(self.address, 0.0)
        except ConnectionError:
            return True
        return False

    def check(self) -> None:
        """Raise `NotRunningError` where this process is no longer connected to that Ray."""
        if not self.is_there:
            raise NotRunningError(SHUT_DOWN)

    def release(self) -> None:
        """Stop the Ray that was started for the pipeline; another one is left as it is."""
        if self.is_ours and self.is_there:
            ray.shutdown()


def attach() -> Attachment:
    """Use the Ray of this program, join the one that was named, or start one.

    Raises `SettingError` for an address that can never work, and `UnavailableError` where no Ray, or one of another
    version, answers there, and where one that is started could not ask for a token.
    """
    if ray.is_initialized():
        relay_as_json()
        return _attached("initialised by this program")
    choice = choose(os.environ)
    if choice.address:
        _join(choice)
        relay_as_json()
        keep_errors_off_output()
        return _attached(f"at {ray.get_runtime_context().gcs_address} ({choice.named_by})")
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's workers are 15 steps nicer than other programs
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")  # 6 to 10 MB less in each actor; overloads add less too
    ask_for_token(os.environ)
    with _without_hangups(), _without_token_notice():
        _start()
    relay_as_json()
    keep_errors_off_output()
    return _attached("started for this pipeline", is_ours=True)


def _start() -> None:
    """Start a Ray; raises `UnavailableError` where it does not come up.

    It asks its own GCS about the new node with a minute's deadline and gives the node half a minute: on a busy machine
    one lost answer ends the start. So it is tried again, once.
    """
    for is_last in (False, True):
        try:
            ray.init(
                address="local",
                namespace="polku",
                include_dashboard=False,
                logging_level=logging.WARNING,
                configure_logging=not is_json(),  # Ray's own format
                _system_config=SYSTEM_CONFIG,
            )
        except Exception as error:
            if _LATE not in str(error):
                raise
            if is_last:
                fix = "try again where the machine is less busy, or run without it: runtime='inline', --runtime inline"
                raise UnavailableError(f"Ray did not start in time; {fix}") from None
            _LOG.warning("Ray did not start in time; it is started again")
            ray.shutdown()
        else:
            return


def _join(choice: Choice) -> None:
    where = f"{choice.named_by}={choice.address!r}" if choice.named_by == "RAY_ADDRESS" else choice.named_by
    try:
        _knock(choice.address, _KNOCK_SECONDS)
        ray.init(
            address=choice.address,
            namespace="polku",
            log_to_driver=True,
            logging_level=logging.WARNING,
            configure_logging=not is_json(),
        )
    except ConnectionError as error:
        raise UnavailableError(f"{where}: no Ray answers there ({first_line(error)})") from None
    except ValueError as error:
        raise SettingError("RAY_ADDRESS", choice.address, f"write HOST:PORT, auto or local ({error})") from None
    except RuntimeError as error:
        if _VERSIONS not in str(error):
            raise
        raise UnavailableError(f"{where}: {_versions(str(error))}") from None


def _knock(address: str, seconds: float) -> None:
    """Raise `ConnectionError` where nobody listens for so long: Ray itself would wait for many minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_SECONDS).close()
            return
        except (OSError, OverflowError) as error:
            if time.monotonic() > deadline:
                raise ConnectionError(said(error)) from None
        time.sleep(0.2)


def _attached(text: str, *, is_ours: bool = False) -> Attachment:
    sentence = f"Ray {ray.__version__} {text}{job_notice(os.environ)}"
    return Attachment(connection(), ray.get_runtime_context().gcs_address, is_ours, sentence)


def connection() -> str:
    """Return what only this process has, and only until Ray is shut down; empty where it is not connected to one."""
    if not ray.is_initialized():
        return ""
    worker: str = ray.get_runtime_context().get_worker_id()
    return worker


def _versions(message: str) -> str:
    """Return in one sentence what Ray says about versions in several lines."""
    there, _, here = " ".join(message.removeprefix(f"{_VERSIONS}: ").split()).partition(" This process ")
    theirs = there.removeprefix("The cluster was started with: ")
    ours = here.partition("was started with: ")[2]
    return f"the cluster has {theirs}, this program {ours}; both need the same Ray and Python"


def first_line(error: Exception) -> str:
    """Return the first line of what Ray says, which may be a page."""
    return said(error).partition("\\n")[0]


@contextlib.contextmanager
def _without_token_notice() -> Iterator[None]:
    """Leave out that Ray asks for a token; that it asks for none is still said."""

    def is_news(record: logging.LogRecord) -> bool:
        return _GUARDED not in record.getMessage()

    log = logging.getLogger(_TOKEN_LOG)
    log.addFilter(is_news)
    try:
        yield
    finally:
        log.removeFilter(is_news)


@contextlib.contextmanager
def _without_hangups() -> Iterator[None]:
    """Keep SIGHUP from the processes that are started meanwhile: they inherit what is blocked.

    A terminal that closes sends it to all of them, and they must outlive the drain. For this process it waits.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
