"""Where the lanes of a pipeline are.

Lanes stand on the node on which the pipeline is started, as its address is where clients look for the gateway and its
disk is where a journal is; or on every node.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ray

from polku.errors import PlanError
from polku.plan import Plan

_SLIVER = 0.0001  # of a node: it has one, and this is the least that Ray counts


class Node(NamedTuple):
    """A node of the cluster; two on one `host` share its disk and its ports."""

    address: str
    host: str

    @property
    def needs(self) -> dict[str, float]:
        """What only this node has: an actor that needs it is here, and comes back with the node if that is lost.

        Ray gives every node a resource that is called after its address; a node's id would change.
        """
        return {f"node:{self.address}": _SLIVER}


class Place(NamedTuple):
    """Where a lane is: on a node, as which of how many lanes of its host, from 1."""

    node: Node
    number: int
    lanes: int

    @property
    def is_first(self) -> bool:
        """Whether the lane stands for all of its host in what these share: the check of the ports, dead letters."""
        return self.number == 1


def this_node() -> Node:
    """Return the node on which this process is."""
    here = ray.get_runtime_context().get_node_id()
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return next(_node(each) for each in nodes if each["NodeID"] == here)


def places(plan: Plan) -> list[Place]:
    """Return where the lanes of a plan are to be; raises `PlanError` where no node can have one."""
    here = this_node()
    if not plan.per_node:
        return [Place(here, number, plan.lanes) for number in range(1, plan.lanes + 1)]
    found = spread(workers(), here)
    if not found:
        raise PlanError("no node of the cluster has CPUs; start one with some, or use lanes(1)", where="lanes")
    return found


def workers() -> list[Node]:
    """Return the nodes that live and have CPUs; one that is to hold no work is started with `--num-cpus=0`."""
    nodes: list[Mapping[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [_node(each) for each in nodes if each["Alive"] and each["Resources"].get("CPU", 0) > 0]


def spread(nodes: Sequence[Node], here: Node, taken: Sequence[Place] = ()) -> list[Place]:
    """Return a place on every node that has none of those that are `taken`: first on this node, then by address."""
    known = {place.node.address for place in taken}
    new = {node.address: node for node in nodes if node.address not in known}
    numbers = Counter(place.node.host for place in taken)
    numbered: list[tuple[Node, int]] = []
    for node in sorted(new.values(), key=lambda node: (node != here, _by_number(node.address))):
        numbers[node.host] += 1
        numbered.append((node, numbers[node.host]))
    return [Place(node, number, numbers[node.host]) for node, number in numbered]


def _node(each: Mapping[str, Any]) -> Node:
    return Node(each["NodeManagerAddress"], each["NodeManagerHostname"])


def _by_number(address: str) -> tuple[int, int, str]:
    """Order addresses as numbers, and names after them."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return 9, 0, address
    return parsed.version, int(parsed), ""
