"""A bad link to another host, which is a network namespace of this machine: slow, late and lossy.

The kernel's netem does this too, where it is there. Two TUN devices, one here and one in the namespace, and
a thread that carries packets between them as netem would: a packet is lost or not, waits until the ones
before it are sent at the link's rate, and travels. TCP is the kernel's own on both sides. Needs root.
"""

import fcntl
import heapq
import os
import random
import selectors
import struct
import subprocess
import threading
import time
from dataclasses import dataclass

HERE, THERE = "10.77.0.1", "10.77.0.2"
"""Addresses of this host and of the one behind the link."""

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_LONGEST_QUEUE_S = 2.0
_IDLE_S = 0.05


@dataclass(frozen=True, kw_only=True)
class LinkConfig:
    """What a link is like, each way.

    Attributes:
        bits_per_s: Rate.
        delay_s: From one end to the other, beyond what the rate takes.
        loss: Share of packets.
    """

    bits_per_s: float
    delay_s: float
    loss: float


class LossyLink:
    """There while it is entered.

    Attributes:
        sent: Bytes of packets that each end has handed to its interface, (here, there).
    """

    def __init__(self, config: LinkConfig, namespace: str = "convoy-far", seed: int = 1) -> None:
        self.sent = [0, 0]
        self._config = config
        self._namespace = namespace
        self._random = random.Random(seed)
        self._is_cut = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._carry, name="lossy link")
        self._ends: list[int] = []

    def command(self, *arguments: str) -> list[str]:
        """A command line that runs on the far host."""
        return ["ip", "netns", "exec", self._namespace, *arguments]

    def cut(self) -> None:
        """Every packet is lost from now on."""
        self._is_cut.set()

    def mend(self) -> None:
        """As it was."""
        self._is_cut.clear()

    def __enter__(self) -> "LossyLink":
        _run("ip", "netns", "add", self._namespace)
        near, far = "convoy-near0", "convoy-far0"
        self._ends = [_tun(near), _tun(far)]
        _run("ip", "link", "set", far, "netns", self._namespace)
        for prefix, device, own, other in (
            ([], near, HERE, THERE),
            (self.command(), far, THERE, HERE),
        ):
            _run(*prefix, "ip", "address", "add", own, "peer", other, "dev", device)
            _run(*prefix, "ip", "link", "set", device, "up")
        _run(*self.command("ip", "link", "set", "lo", "up"))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        for end in self._ends:
            os.close(end)
        _run("ip", "netns", "delete", self._namespace)

    def _carry(self) -> None:
        travelling: list[tuple[float, int, int, bytes]] = []
        free_s, count = [0.0, 0.0], 0
        with selectors.DefaultSelector() as selector:
            for side, end in enumerate(self._ends):
                selector.register(end, selectors.EVENT_READ, side)
            while not self._over.is_set():
                due_s = travelling[0][0] - time.monotonic() if travelling else _IDLE_S
                for key, _ in selector.select(max(0.0, min(due_s, _IDLE_S))):
                    packet, side = os.read(key.fd, 65536), key.data
                    self.sent[side] += len(packet)
                    arrives_s = self._arrives_s(len(packet), side, free_s)
                    if arrives_s is not None:
                        count += 1
                        heapq.heappush(travelling, (arrives_s, count, 1 - side, packet))
                while travelling and travelling[0][0] <= time.monotonic():
                    _, _, side, packet = heapq.heappop(travelling)
                    if not self._is_cut.is_set():
                        os.write(self._ends[side], packet)

    def _arrives_s(self, length: int, side: int, free_s: list[float]) -> float | None:
        """When a packet comes out at the other end; None: it is lost."""
        now_s = time.monotonic()
        begin_s = max(now_s, free_s[side])
        full = begin_s - now_s > _LONGEST_QUEUE_S
        if full or self._is_cut.is_set() or self._random.random() < self._config.loss:
            return None
        free_s[side] = begin_s + 8.0 * length / self._config.bits_per_s
        return free_s[side] + self._config.delay_s


def _tun(name: str) -> int:
    """A new TUN device; it lives as long as its file is open."""
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return end


def _run(*arguments: str) -> None:
    subprocess.run(arguments, check=True, capture_output=True)
