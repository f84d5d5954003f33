"""A bad line: `python bad_line.py LOSS DELAY SEED` lets the packets of this host pass late, or not at all.

The kernel hands packets over (NFQUEUE) and is told what becomes of each; it needs no traffic control of its own.
It ends with its standard input.
"""

from __future__ import annotations

import random
import select
import socket
import struct
import sys
import time
from collections import deque

NUMBERS = {"INPUT": "1", "OUTPUT": "2"}
_NETFILTER = 12
_QUEUE = 3 << 8  # the subsystem, in the upper byte of a message's kind
_PACKET, _VERDICT, _CONFIG = _QUEUE, _QUEUE | 1, _QUEUE | 2
_DROP, _ACCEPT = 0, 1
_LENGTH = 8192  # packets that may wait
_SEGMENTS = struct.pack("!I", 4)  # packets may be as large as the sender's kernel makes them


class Queues:
    """The queues of this host, each of which is asked for its packets' heads only."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 20)
        self.socket.bind((0, 0))
        for number in map(int, NUMBERS.values()):
            self._tell(_CONFIG, number, 1, struct.pack("!BxH", 1, socket.AF_INET))  # bind
            self._tell(_CONFIG, number, 2, struct.pack("!IB", 64, 1))  # copy nothing but what a packet is called
            self._tell(_CONFIG, number, 3, struct.pack("!I", _LENGTH))
            self._tell(_CONFIG, number, 5, _SEGMENTS, mask=_SEGMENTS)

    def packets(self) -> list[tuple[int, int]]:
        """Return the packets that have come, each as its queue and its number there."""
        found: list[tuple[int, int]] = []
        try:
            data = self.socket.recv(1 << 20)
        except OSError:  # the kernel has dropped some by itself: there were too many
            return found
        while len(data) >= 16:
            length, kind = struct.unpack_from("=IH", data)
            if kind == _PACKET:
                (queue,) = struct.unpack_from("!H", data, 18)
                found.append((queue, _packet_number(data[20:length])))
            data = data[(length + 3) & ~3 :]
        return found

    def decide(self, queue: int, packet: int, verdict: int) -> None:
        """Tell the kernel what becomes of a packet."""
        self._tell(_VERDICT, queue, 2, struct.pack("!II", verdict, packet))

    def _tell(self, kind: int, queue: int, attribute: int, value: bytes, mask: bytes = b"") -> None:
        body = struct.pack("!BBH", socket.AF_UNSPEC, 0, queue) + _attribute(attribute, value)
        body += _attribute(4, mask) if mask else b""
        self.socket.send(struct.pack("=IHHII", 16 + len(body), kind, 1, 0, 0) + body)


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _packet_number(attributes: bytes) -> int:
    while len(attributes) >= 4:
        length, kind = struct.unpack_from("=HH", attributes)
        if kind == 1:
            (number,) = struct.unpack_from("!I", attributes, 4)
            return int(number)
        attributes = attributes[(length + 3) & ~3 :]
    raise ValueError("a packet has no number")


def main(loss: float, delay: float, seed: int) -> None:
    queues, chance = Queues(), random.Random(seed)
    waiting: deque[tuple[float, int, int]] = deque()
    print("up", flush=True)
    while True:
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            queues.decide(*waiting.popleft()[1:], _ACCEPT)
        ready, _, _ = select.select([queues.socket, sys.stdin], [], [], waiting[0][0] - now if waiting else None)
        if sys.stdin in ready:
            return
        for queue, packet in queues.packets() if ready else ():
            if chance.random() < loss:
                queues.decide(queue, packet, _DROP)
            else:
                waiting.append((time.monotonic() + delay, queue, packet))


if __name__ == "__main__":
    main(float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
