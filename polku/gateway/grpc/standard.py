"""The services that every gRPC server is expected to have: `grpc.health.v1` and reflection (v1 and v1alpha)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any

from google.protobuf import descriptor_pool
from google.protobuf.message import DecodeError

from polku.gateway.grpc.calls import CallContext, Method, StreamCall, StreamMethod, UnaryMethod
from polku.rpc.status import CallError, Status, StatusCode

_MALFORMED = "not a valid message"


class HealthService:
    """Answer `Check` and `Watch`; the empty name stands for the whole server, that of a part for this part."""

    def __init__(self, services: Iterable[str]) -> None:
        self._serving = dict.fromkeys(["", *services], True)
        self._parts: Mapping[str, bool] = {}
        self._watching: dict[_Watch, str] = {}

    @cached_property
    def _messages(self) -> Any:
        from grpc_health.v1 import health_pb2  # by the first call: a gateway is ready sooner

        return health_pb2

    def methods(self) -> dict[bytes, Method]:
        """Return the service's methods by path."""
        return {
            b"/grpc.health.v1.Health/Check": UnaryMethod(self._check),
            b"/grpc.health.v1.Health/Watch": StreamMethod(lambda call: _Watch(self, call)),
        }

    def set_serving(self, serving: bool, parts: Mapping[str, bool] | None = None) -> None:
        """Tell all who watch; which parts are well stays as it is where nothing is said of them."""
        self._serving = dict.fromkeys(self._serving, serving)
        if parts is not None:
            self._parts = parts
        for watch, name in list(self._watching.items()):
            watch.tell(self.answer(name))

    def answer(self, name: str) -> bytes:
        """Return the serialised `HealthCheckResponse` about a service."""
        status = self._messages.HealthCheckResponse
        code = status.SERVICE_UNKNOWN
        serving = self._serving.get(name, self._parts.get(name))
        if serving is not None:
            code = status.SERVING if serving else status.NOT_SERVING
        answer: bytes = status(status=code).SerializeToString()
        return answer

    def watch(self, watch: _Watch, message: bytes) -> None:
        """Tell the state now, and each time that it changes."""
        name = self._name(message)
        self._watching[watch] = name
        watch.tell(self.answer(name))

    def forget(self, watch: _Watch) -> None:
        """Tell it nothing any more."""
        self._watching.pop(watch, None)

    async def _check(self, message: bytes, context: CallContext) -> bytes:
        name = self._name(message)
        if name not in self._serving and name not in self._parts:
            known = ", ".join(repr(service) for service in self._serving)
            raise CallError(Status(StatusCode.NOT_FOUND, f"service: {name!r} is not here; there are {known}"))
        return self.answer(name)

    def _name(self, message: bytes) -> str:
        try:
            name: str = self._messages.HealthCheckRequest.FromString(message).service
        except DecodeError:
            raise CallError(Status(StatusCode.INVALID_ARGUMENT, f"HealthCheckRequest: {_MALFORMED}")) from None
        return name


class _Watch:
    """One client that watches."""

    def __init__(self, service: HealthService, call: StreamCall) -> None:
        self._service = service
        self._call = call
        self._told = b""

    def messages(self, messages: list[bytes]) -> bool:
        try:
            self._service.watch(self, messages[-1])
        except CallError as error:
            self._call.finish(error.status)
        return True

    def tell(self, answer: bytes) -> None:
        if answer != self._told:
            self._told = answer
            self._call.send(answer)

    def ended(self) -> None:
        """The client has asked: it waits for answers."""

    def drained(self) -> None:
        """Nothing waits for it."""

    def leave(self, status: Status) -> None:
        self._call.finish(status)

    def lost(self) -> None:
        self._service.forget(self)


class Reflection:
    """Answer `ServerReflectionInfo` from the descriptors of this process."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = sorted({*services, "grpc.reflection.v1.ServerReflection", _ALPHA})
        self._pool = descriptor_pool.Default()

    @cached_property
    def _messages(self) -> Any:
        from grpc_reflection.v1alpha import reflection_pb2

        return reflection_pb2

    def methods(self) -> dict[bytes, Method]:
        """Return the methods of both versions by path: their messages have the same fields."""
        method = StreamMethod(lambda call: _Reflecting(call, self.answer))
        names = ("grpc.reflection.v1.ServerReflection", _ALPHA)
        return {f"/{name}/ServerReflectionInfo".encode(): method for name in names}

    def answer(self, message: bytes) -> bytes:
        """Answer one question; raises `CallError`."""
        try:
            request = self._messages.ServerReflectionRequest.FromString(message)
        except DecodeError:
            raise CallError(Status(StatusCode.INVALID_ARGUMENT, f"ServerReflectionRequest: {_MALFORMED}")) from None
        answer = self._messages.ServerReflectionResponse(valid_host=request.host, original_request=request)
        try:
            self._fill_in(request, answer)
        except KeyError:
            answer.error_response.error_code = StatusCode.NOT_FOUND
            answer.error_response.error_message = "it is not known here"
        serialised: bytes = answer.SerializeToString()
        return serialised

    def _fill_in(self, request: Any, answer: Any) -> None:
        match request.WhichOneof("message_request"):
            case "list_services":
                for name in self._services:
                    answer.list_services_response.service.add(name=name)
            case "file_by_filename":
                self._add_files(answer, self._pool.FindFileByName(request.file_by_filename))
            case "file_containing_symbol":
                self._add_files(answer, self._file_of(request.file_containing_symbol))
            case "file_containing_extension":
                asked = request.file_containing_extension
                owner = self._pool.FindMessageTypeByName(asked.containing_type)
                extension: Any = self._pool.FindExtensionByNumber(owner, asked.extension_number)
                self._add_files(answer, extension.file)
            case "all_extension_numbers_of_type":
                owner = self._pool.FindMessageTypeByName(request.all_extension_numbers_of_type)
                numbers = sorted(extension.number for extension in self._pool.FindAllExtensions(owner))
                answer.all_extension_numbers_response.base_type_name = owner.full_name
                answer.all_extension_numbers_response.extension_number.extend(numbers)
            case _:
                answer.error_response.error_code = StatusCode.INVALID_ARGUMENT
                answer.error_response.error_message = "message_request: none is set"

    def _file_of(self, symbol: str) -> Any:
        """Return the file that declares a symbol; raises `KeyError`. Protobuf's pool knows all of them but methods."""
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            name, _, method = symbol.rpartition(".")
            service: Any = self._pool.FindServiceByName(name)
            return service.methods_by_name[method].containing_service.file

    def _add_files(self, answer: Any, file: Any) -> None:
        """Add a file and all that it imports."""
        from google.protobuf.descriptor_pb2 import FileDescriptorProto

        waiting, seen = [file], set[str]()
        while waiting:
            file = waiting.pop()
            if file.name in seen:
                continue
            seen.add(file.name)
            proto = FileDescriptorProto()
            file.CopyToProto(proto)
            answer.file_descriptor_response.file_descriptor_proto.append(proto.SerializeToString())
            waiting.extend(file.dependencies)


_ALPHA = "grpc.reflection.v1alpha.ServerReflection"


class _Reflecting:
    """One client that asks."""

    def __init__(self, call: StreamCall, answer: Callable[[bytes], bytes]) -> None:
        self._call = call
        self._answer = answer

    def messages(self, messages: list[bytes]) -> bool:
        try:
            for message in messages:
                self._call.send(self._answer(message))
        except CallError as error:
            self._call.finish(error.status)
        return True

    def ended(self) -> None:
        self._call.finish(Status(StatusCode.OK))

    def drained(self) -> None:
        """Nothing waits for it."""

    def leave(self, status: Status) -> None:
        self._call.finish(status)

    def lost(self) -> None:
        """Nothing is kept of it."""


def service_methods(service: str, methods: Mapping[str, Any]) -> dict[bytes, Method]:
    """Return a service's unary methods by path; each is given as a handler, a parser and a serialiser."""
    return {f"/{service}/{name}".encode(): UnaryMethod(_Handler(*parts)) for name, parts in methods.items()}


class _Handler:
    """A handler of messages, for bytes."""

    def __init__(self, handle: Any, parse: Callable[[bytes], Any], serialise: Callable[[Any], bytes]) -> None:
        self._handle, self._parse, self._serialise = handle, parse, serialise

    async def __call__(self, message: bytes, context: CallContext) -> bytes:
        try:
            request = self._parse(message)
        except DecodeError as error:
            raise CallError(Status(StatusCode.INVALID_ARGUMENT, f"{_MALFORMED} ({error})")) from None
        return self._serialise(await self._handle(request, context))
