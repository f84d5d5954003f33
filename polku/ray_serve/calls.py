"""Call a deployment once for each event, and tell what its failures mean."""

from __future__ import annotations

import asyncio
from typing import Any

from polku.aio.threads import DaemonThreads
from polku.errors import EmitError, MisconfiguredError, RejectedError, RetryableError, UserCodeError
from polku.event.v1.event_pb2 import Event
from polku.ray_serve.deployment import Deployment
from polku.text import named, said

_DEATHS = 3  # replicas that may die of one event
_PAUSE, _LONGEST_PAUSE = 0.05, 1.0  # before a call that a full deployment refused is made again, in seconds


class Calls:
    """The calls of one deployment.

    A deployment that is full is called again after a pause. An event whose replica dies is handed to another one, alone
    among such events, so that the one that ends replicas is told from those that were there by chance.
    """

    def __init__(self, deployment: Deployment) -> None:
        self._to = deployment
        self._handle: Any = None
        self._looking = asyncio.Lock()
        self._suspects = asyncio.Lock()
        self._threads = DaemonThreads("polku-serve", 1)
        self.made = self.failed = self.waits = self.deaths = 0

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """The calls, those of an event that failed, the waits for room, and the replicas that died."""
        return self.made, self.failed, self.waits, self.deaths

    def close(self) -> None:
        """Let the thread end."""
        self._threads.shutdown()

    async def find(self) -> None:
        """Look the deployment up; raises `MisconfiguredError` where there is none now."""
        async with self._looking:
            if self._handle is None:
                self._handle = await self._threads.run(_look_up, self._to)

    async def call(self, event: Event) -> Any:
        """Return what the deployment returns for an event.

        Raises `RetryableError` where it may take the event later, `MisconfiguredError` where there is no such
        deployment now, `RejectedError` where it ends replicas, and what the deployment raised.
        """
        try:
            return await self._call(event)
        except BaseException:
            self.failed += 1
            raise

    async def _call(self, event: Event) -> Any:
        import ray.exceptions

        died = 0
        while True:
            try:
                if not died:
                    return await self._ask(event)
                async with self._suspects:
                    return await self._ask(event)
            except ray.exceptions.RayTaskError as error:
                raise _raised(error) from error
            except (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError) as error:
                died += 1
                self.deaths += 1
                if died == _DEATHS:
                    raise RejectedError(f"{died} replicas of {self._to} died of it: {said(error)}") from None
            except ray.exceptions.RayError as error:
                raise RetryableError(f"{self._to} does not answer: {named(error)}") from None

    async def _ask(self, event: Event) -> Any:
        """Call the deployment until it has room."""
        from ray.serve.exceptions import BackPressureError, RayServeException

        argument = event if self._to.request is None else self._to.request(event)
        give_up = asyncio.get_running_loop().time() + self._to.timeout
        pause = _PAUSE
        while True:
            await self.find()
            try:
                return await self._await(argument)
            except BackPressureError as error:
                asked = getattr(error, "retry_after_s", None)
                wait = pause if asked is None else float(asked)
                if asyncio.get_running_loop().time() + wait > give_up:
                    raise RetryableError(f"{self._to} is full: {said(error)}", retry_after=asked) from None
            except RayServeException as error:  # it was deleted, or could not be deployed
                self._handle = None
                raise MisconfiguredError(f"{self._to}: {named(error)}") from None
            self.waits += 1
            await asyncio.sleep(wait)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _await(self, argument: Any) -> Any:
        self.made += 1
        response = self._handle.remote(argument)
        try:
            async with asyncio.timeout(self._to.timeout):
                return await response
        except TimeoutError:
            response.cancel()
            raise RetryableError(f"{self._to} did not return within {self._to.timeout:g} s") from None
        except asyncio.CancelledError:
            response.cancel()
            raise


def _look_up(to: Deployment) -> Any:
    """Return the handle; raises `MisconfiguredError`."""
    import ray

    if not ray.is_initialized():
        raise MisconfiguredError(f"{to}: no Ray runs in this process, and Ray Serve is a part of one")
    from ray import exceptions, serve
    from ray.serve.exceptions import RayServeException

    try:
        handle: Any = serve.get_deployment_handle(to.deployment, to.app) if to.deployment else None
        handle = serve.get_app_handle(to.app) if handle is None else handle
    except (RayServeException, KeyError) as error:
        raise MisconfiguredError(f"{to}: {said(error)}") from None
    except exceptions.RayError as error:  # the Serve that it knew is gone; the next look finds the one that is there
        _forget_serve()
        raise MisconfiguredError(f"{to}: {named(error)}") from None
    return handle.options(method_name=to.method)


def _forget_serve() -> None:
    from ray.serve import context

    context._set_global_client(None)


def _raised(error: Any) -> Exception:
    """Return what the deployment raised: an error of POLKU's as it is, anything else as one that says so."""
    cause = getattr(error, "cause", error)
    return cause if isinstance(cause, EmitError) else UserCodeError(named(cause))
