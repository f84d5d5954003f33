"""What the supervisor sees of a part, and what health makes of it."""

from __future__ import annotations

from typing import Any, NamedTuple

from polku.actors.shell import Vitals
from polku.buffer.statistics import BufferStatistics
from polku.emit.delivery import DeliveryStatistics
from polku.gateway.intake_statistics import IntakeStatistics
from polku.runtime.lane import LaneStatistics
from polku.runtime.watch import Watch


class Observation(NamedTuple):
    """What was last seen of one part: its vitals and statistics, or why they could not be had.

    `ended`: its process has ended, or cannot be reached.
    """

    vitals: Vitals | None
    statistics: Any
    complaint: str
    ended: bool = False


def out_of_reach(error: BaseException) -> str:
    """Return what is wrong with a part that Ray cannot call."""
    return f"does not answer: it has ended or is out of reach ({type(error).__name__})"


def judge(watch: Watch, name: str, sight: Observation) -> int:
    """Add what was seen of one part; return how many events it has taken in from clients."""
    match sight.statistics:
        case _ if sight.complaint:
            watch.add_absent(name, sight.complaint, ended=sight.ended)
        case LaneStatistics() as lane:
            watch.add_lane(lane)
            return lane.intake.received
        case IntakeStatistics() as intake:
            watch.add_ingest(intake)
            return intake.received
        case BufferStatistics() as buffer:
            watch.add_buffer(buffer)
        case DeliveryStatistics() as delivery:
            watch.add_delivery(name.partition(":")[2], delivery)
        case statistics:
            watch.add_stage(name, statistics)
    return 0
