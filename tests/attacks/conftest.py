"""The gateways that are attacked: one of each door for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.attacks.lab import HUB, Gateway, check_stored, raise_own_descriptors
from tests.attacks.plugins import plugins

SIGNED = 'from polku import HmacVerifier\nhub.ingestor(HmacVerifier.github("secret", lambda data: []), source="hook")\n'
PLUGINS = """
from polku import ExternalEmitter, ExternalIngestor, Hub

{stored!r}
hub = Hub(runtime="{runtime}").ack("delivered").ingestor(ExternalIngestor("parsed", "ADDRESS"))
hub.emitter(ExternalEmitter("archive", "ADDRESS"))
"""
_ON_RAY = [pytest.param(name, marks=pytest.mark.slow) for name in ("native_on_ray", "grpcio_on_ray")]


@pytest.fixture(scope="package", params=["native", "grpcio", *_ON_RAY])
def gateway(request: pytest.FixtureRequest) -> Gateway:
    """Return a gateway with either server of gRPC; `make slow` has both runtimes."""
    gateway: Gateway = request.getfixturevalue(request.param)
    return gateway


@pytest.fixture(scope="package", params=["native", pytest.param("native_on_ray", marks=pytest.mark.slow)])
def ours(request: pytest.FixtureRequest) -> Gateway:
    """Return a gateway with our own server of gRPC; `make slow` has both runtimes."""
    gateway: Gateway = request.getfixturevalue(request.param)
    return gateway


@pytest.fixture(scope="package")
def native(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Yield a gateway with as few descriptors as many shells give."""
    raise_own_descriptors()
    gateway = Gateway(tmp_path_factory.mktemp("native"), "native", descriptors=1_024)
    yield gateway
    gateway.stop()
    check_stored(gateway)


@pytest.fixture(scope="package")
def grpcio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Yield a gateway with grpcio's server."""
    gateway = Gateway(tmp_path_factory.mktemp("grpcio"), "grpcio")
    yield gateway
    gateway.stop()
    check_stored(gateway)


@pytest.fixture(scope="package")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Yield a gateway that tells how long the turns of its event loop are."""
    gateway = Gateway(tmp_path_factory.mktemp("watched"), "native", watched=True, hub=HUB + SIGNED)
    yield gateway
    gateway.stop()


@pytest.fixture(scope="package")
def watched_grpcio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Yield one with grpcio's server."""
    gateway = Gateway(tmp_path_factory.mktemp("watched-grpcio"), "grpcio", watched=True, hub=HUB + SIGNED)
    yield gateway
    gateway.stop()


@pytest.fixture(scope="package")
def watched_on_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Yield one whose ports are in an actor of Ray."""
    gateway = Gateway(
        tmp_path_factory.mktemp("watched-on-ray"), "native", watched=True, hub=HUB + SIGNED, runtime="ray"
    )
    yield gateway
    gateway.stop()


@pytest.fixture(scope="package")
def watched_plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Yield one that waits for its plugins, which answer with much, before it answers itself."""
    with plugins() as address:
        hub = PLUGINS.replace("ADDRESS", address)
        gateway = Gateway(tmp_path_factory.mktemp("watched-plugins"), "native", watched=True, hub=hub)
        yield gateway
        gateway.stop()


@pytest.fixture(scope="package")
def native_on_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Yield a gateway whose ports are in an actor of Ray."""
    gateway = Gateway(tmp_path_factory.mktemp("native-on-ray"), "native", runtime="ray")
    yield gateway
    gateway.stop()
    check_stored(gateway)


@pytest.fixture(scope="package")
def grpcio_on_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Yield one with grpcio's server."""
    gateway = Gateway(tmp_path_factory.mktemp("grpcio-on-ray"), "grpcio", runtime="ray")
    yield gateway
    gateway.stop()
    check_stored(gateway)
