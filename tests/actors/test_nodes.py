"""Where lanes are put, and by which names the parts of a pipeline find each other."""

from __future__ import annotations

from polku import BufferStrategy, Deduplicator, Hub, StdoutEmitter
from polku.actors.names import Names
from polku.actors.nodes import LanePlace, Node, evenly, spread
from polku.actors.target import Target, route
from polku.plan import Plan

HERE = Node("10.0.0.9", "nine")
TWO, TEN = Node("10.0.0.2", "two"), Node("10.0.0.10", "ten")
NAMES = Names("run")


def hub(*, per_node: bool = False, chained: bool = False) -> Hub:
    def first(event: object) -> None:
        pass

    def slow(event: object) -> None:
        pass

    hub = Hub().lanes("per-node" if per_node else 2).buffer_strategy(BufferStrategy.durable("/journal.db"))
    hub = hub.chain() if chained else hub
    return hub.middleware(first).middleware(Deduplicator()).middleware(slow, replicas=2).emitter(StdoutEmitter())


def test_each_node_has_a_lane_the_first_on_this_one_then_by_address() -> None:
    assert spread([TEN, TWO, HERE], HERE) == [LanePlace(node, 1) for node in (HERE, TWO, TEN)]
    assert all(place.is_first for place in spread([TEN, TWO], HERE))


def test_nodes_on_one_machine_share_its_disk_and_two_of_one_address_are_one() -> None:
    local, other = Node("127.0.0.2", "nine"), Node("127.0.0.3", "nine")
    places = spread([other, TWO, HERE, local, Node("10.0.0.2", "two", "again")], HERE)
    assert [place.node.address for place in places] == ["10.0.0.9", "10.0.0.2", "127.0.0.2", "127.0.0.3"]
    assert [place.number for place in places] == [1, 1, 2, 3]
    assert not places[-1].is_first


def test_machines_that_are_called_the_same_are_still_two() -> None:
    pi, other = Node("10.0.0.3", "raspberrypi"), Node("10.0.0.4", "raspberrypi")
    assert [place.number for place in spread([pi, other], HERE)] == [1, 1]


def test_a_node_that_joins_is_given_a_lane_and_one_that_came_back_has_its_own() -> None:
    local, other = Node("127.0.0.2", "nine"), Node("127.0.0.3", "nine")
    before = spread([HERE, TWO, local, other], HERE)
    assert spread([HERE, TWO._replace(identity="another life")], HERE, before) == []
    assert spread([TEN, local], HERE, before) == [LanePlace(TEN, 1)]
    without = [place for place in before if place.node != local]
    assert spread([TEN, local], HERE, without) == [LanePlace(TEN, 1), LanePlace(local, 2)]  # the place that is free


def test_lanes_by_need_go_where_there_are_the_fewest_first_to_this_node_then_by_address() -> None:
    nodes = [TEN, TWO, HERE]
    places = evenly(nodes, HERE, range(1, 6))
    assert [place.node for place in places] == [HERE, TWO, TEN, HERE, TWO]
    assert [place.number for place in places] == [1, 2, 3, 4, 5]
    [more] = evenly(nodes, HERE, [2], [places[0], places[3], places[2]])
    assert (more.node, more.number) == (TWO, 2)
    assert [place.node for place in evenly([TWO], HERE, [1, 2])] == [TWO, TWO]  # this one has no CPUs, or is drained
    assert evenly([], HERE, [1]) == []


def test_the_first_lane_on_a_machine_looks_whether_its_ports_are_free() -> None:
    local = Node("127.0.0.2", "nine")
    places = evenly([HERE, local, TWO], HERE, range(1, 5))
    assert [(p.node, p.checks_ports) for p in places] == [(HERE, True), (TWO, True), (local, False), (HERE, False)]
    assert [place.is_first for place in places] == [True, False, False, False]  # what is there once is in lane 1
    assert [place.checks_ports for place in spread([HERE, local, TWO], HERE)] == [True, True, False]


def test_the_journals_of_nodes_are_all_at_the_path_and_those_on_one_disk_beside_it() -> None:
    plan = hub(per_node=True).plan("ray")
    assert plan.lane(3, 1).buffer.path == "/journal.db"
    assert plan.lane(4, 2).buffer.path == "/journal.db.lane-2"
    assert plan.lane(4, 2).name == "polku/lane-4"
    assert [hub().plan("ray").lane(n).buffer.path for n in (1, 2)] == ["/journal.db", "/journal.db.lane-2"]


def test_parts_find_what_comes_next_by_name_in_every_lane() -> None:
    plan = hub(per_node=True).plan("ray")
    way = route(plan, NAMES)
    assert [stage.shared for stage in plan.stages] == [False, True, False]
    assert way.front == Target("run/*/stage-1")
    assert way.behind["stage-1"] == Target("run/stage-2")
    last = way.behind["stage-2"].in_lane(12)
    assert last.workers == ("run/lane-12/stage-3/replica-1", "run/lane-12/stage-3/replica-2")
    assert last.then == way.behind["stage-3"].in_lane(12) == Target("run/lane-12/buffer")
    assert way.behind["stage-1"].in_lane(12) == Target("run/stage-2")


def test_in_a_chained_lane_its_own_actor_takes_what_others_hand_on() -> None:
    way = route(hub(chained=True).plan("ray"), NAMES)
    assert way.front is None
    assert way.behind["stage-2"].then == Target("run/*/lane", "stage-3")
    assert "stage-1" not in way.behind


def test_the_plan_of_a_lane_is_the_plan_itself_where_there_is_one() -> None:
    plan: Plan = Hub().emitter(StdoutEmitter()).plan("ray")
    assert plan.lane(1) is plan
