"""Where the lanes of a pipeline are.

Lanes stand on the node on which the pipeline is started, as its address is where clients look for the gateway and its
disk is where a journal is; or on every node; or, as many as are needed, evenly over the nodes.
"""

from __future__ import annotations

import ipaddress
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

import ray
from ray._private.state import state

from polku.errors import NotRunningError, PlanError
from polku.host import is_loopback
from polku.plan import Plan
from polku.runtime.orphaned_journals import check_left

_SLIVER = 0.0001  # of a node: it has one, and this is the least that Ray counts


class Node(NamedTuple):
    """A node of the cluster; `identity` is of this life of it."""

    address: str
    host: str
    identity: str = ""

    @property
    def needs(self) -> dict[str, float]:
        """What only this node has: an actor that needs it is here, and comes back with the node if that is lost.

        Ray gives every node a resource that is called after its address; a node's identity would change.
        """
        return {f"node:{self.address}": _SLIVER}

    def shares_disk_with(self, other: Node) -> bool:
        """Return whether two nodes are on one machine: one has an address of the loopback network, which only tests do.

        Names of hosts alone do not tell: two machines may be called the same.
        """
        alike = self.host == other.host and (is_loopback(self.address) or is_loopback(other.address))
        return alike or self.address == other.address


class LanePlace(NamedTuple):
    """A lane's node and its number: among the lanes of one disk, from 1, or, where lanes are spread, among all.

    `has_company` says of lanes that are spread whether another one was on the machine before.
    """

    node: Node
    number: int
    has_company: bool | None = None

    @property
    def is_first(self) -> bool:
        """Whether the lane stands for all of its machine in what these share: dead letters."""
        return self.number == 1

    @property
    def checks_ports(self) -> bool:
        """Whether somebody else may have the ports that lanes of a machine share."""
        return self.is_first if self.has_company is None else not self.has_company


def this_node() -> Node:
    """Return the node on which this process is."""
    here = ray.get_runtime_context().get_node_id()
    return next(_node(each) for each in _nodes() if each["NodeID"] == here)


def places(plan: Plan, here: Node) -> list[LanePlace]:
    """Return where the lanes of a plan are to be; raises `PlanError` where no node can have one."""
    numbers = range(1, plan.lanes + 1)
    if not plan.over_nodes:
        return [LanePlace(here, number) for number in numbers]
    found = evenly(workers(), here, numbers) if plan.spread else spread(workers(), here)
    if not found:
        raise PlanError("no node of the cluster has CPUs; start one with some, or use lanes(1)", where="lanes")
    return found


def check_journals(plan: Plan, where: Sequence[LanePlace], here: Node) -> None:
    """Raise `JournalError` where lanes that were on this node, and are no more, have left events behind.

    This is looked at once, before any of them is there: lanes of nodes may come in any order, and while the pipeline
    runs there may be more than its plan says, which leave.
    """
    if plan.buffer.path:
        check_left(plan.buffer.path, sum(place.node.shares_disk_with(here) for place in where))


def workers() -> list[Node]:
    """Return the nodes that live, have CPUs and stay; one that is to hold no work is started with `--num-cpus=0`."""
    leaving = draining()
    nodes = [each for each in _nodes() if each["Alive"] and each["Resources"].get("CPU", 0) > 0]
    return [_node(each) for each in nodes if each["NodeManagerAddress"] not in leaving]


def draining() -> dict[str, float]:
    """Return the addresses of the nodes that Ray is going to take away, with when: seconds since 1970, or infinite."""
    nodes = {each["NodeID"]: each["NodeManagerAddress"] for each in _nodes() if each["Alive"]}
    marked: Mapping[str, int] = state.get_draining_nodes()
    return {nodes[node]: when / 1000 if when else math.inf for node, when in marked.items() if node in nodes}


def living() -> frozenset[str]:
    """Return the addresses of the nodes that live."""
    return frozenset(each["NodeManagerAddress"] for each in _nodes() if each["Alive"])


def spread(nodes: Sequence[Node], here: Node, taken: Sequence[LanePlace] = ()) -> list[LanePlace]:
    """Return a place on every node that has none of those that are `taken`: first on this node, then by address."""
    known = {place.node.address for place in taken}
    new = {node.address: node for node in nodes if node.address not in known}
    found: list[LanePlace] = []
    for node in sorted(new.values(), key=lambda node: (node.address != here.address, _by_number(node.address))):
        beside = {place.number for place in (*taken, *found) if place.node.shares_disk_with(node)}
        number = next(number for number in count(1) if number not in beside)
        found.append(LanePlace(node, number))
    return found


def evenly(
    nodes: Sequence[Node], here: Node, numbers: Iterable[int], taken: Sequence[LanePlace] = ()
) -> list[LanePlace]:
    """Return a place for a lane of each number, besides those `taken`: on the node that has the fewest lanes.

    Of several nodes that is this one, else the first by address. Nothing is returned where there is no node.
    """
    counts = Counter(place.node.address for place in taken)
    found: list[LanePlace] = []
    for number in numbers if nodes else ():
        node = min(nodes, key=lambda n: (counts[n.address], n.address != here.address, _by_number(n.address)))
        counts[node.address] += 1
        has_company = any(place.node.shares_disk_with(node) for place in (*taken, *found))
        found.append(LanePlace(node, number, has_company))
    return found


def _nodes() -> list[Mapping[str, Any]]:
    if not ray.is_initialized():  # or Ray would start itself
        raise NotRunningError("Ray has been shut down")
    nodes: list[Mapping[str, Any]] = ray.nodes()
    return nodes


def _node(each: Mapping[str, Any]) -> Node:
    return Node(each["NodeManagerAddress"], each["NodeManagerHostname"], each["NodeID"])


def _by_number(address: str) -> tuple[int, int, str]:
    """Order addresses as numbers, and names after them."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return 9, 0, address
    return parsed.version, int(parsed), ""


def is_pending(actor: Any) -> bool:
    """Return whether an actor waits for a node that has room for it; blocks."""
    try:
        return str(state.actor_table(actor._actor_id.hex()).get("State")) == "PENDING_CREATION"
    except Exception:  # whatever Ray raises where its own service does not answer
        return False
