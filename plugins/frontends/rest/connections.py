"""Which connections may stay: those that send and read at a reasonable pace, and no more than there is room for.

The server's loop calls `Connections.look` every second and asks about each new connection. A connection ends that does
not finish its headers or body in time, or does not read its answer. Where connections are short, those that wait for
nothing go first, the oldest before others, so that whoever comes finds a place, `/health` included.
"""

from __future__ import annotations

import ipaddress
import time
from contextlib import suppress
from ctypes import c_int64
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamakit.plugins.frontends.rest.options import ServeOptions

HEADER_SECONDS = 15.0  # from a request's first byte to the end of its headers, and until the first byte comes
PACE_SECONDS = 15.0  # over which the pace of a body is measured, and that an answer may wait to be read
LEAST_PACE = 1000.0  # bytes a second of a body
SPARE_FILES = 96  # descriptors that are kept for everything but connections
FEWEST = 16


def most_connections(wanted: int, per_connection: int = 1) -> int:
    """How many connections there is room for: as many as wanted, as far as the system gives descriptors."""
    try:
        import resource
    except ImportError:
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted * per_connection + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        more = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
            soft = more
    if soft == resource.RLIM_INFINITY:
        return wanted
    return min(wanted, max(FEWEST, (soft - SPARE_FILES) // per_connection))


class Connections:
    """The rules for the connections of one server. Everything runs on the thread of the server's loop."""

    def __init__(self, options: ServeOptions, most: int) -> None:
        self.most, self.timeout = most, options.timeout
        self.per_address = options.connections_per_address
        self._n_slow = c_int64()  # changed in place, as the numbers of `stats.Counters` are

    @property
    def n_slow(self) -> int:
        """Connections that were ended as too slow, or to make room while they waited for nothing."""
        return self._n_slow.value

    def admit(self, peer: Any, channels: dict[int, Any]) -> bool:
        """Whether a new connection may stay; makes room for it at the cost of one that waits for nothing."""
        if self.is_crowded(peer, channels):
            return False
        if len(channels) < self.most:
            return True
        idle = [each for each in channels.values() if not each.requests and not each.total_outbufs_len]
        if not idle:
            return False
        self._n_slow.value += 1
        close(min(idle, key=lambda each: each.since))
        return True

    def look(self, channels: dict[int, Any]) -> None:
        """End the connections that are too slow."""
        now = time.monotonic()
        for channel in list(channels.values()):
            if self._is_slow(channel, now):
                self._n_slow.value += 1
                close(channel)

    def is_crowded(self, peer: Any, channels: Mapping[int, Any]) -> bool:
        """Whether an address has all of its share. This machine's own has no bounds unless that was asked for."""
        address, limit = address_of(peer), self.per_address
        if not limit:
            limit = 0 if _is_ours(address) else max(FEWEST, self.most // 4)
        if not limit:
            return False
        return sum(address_of(each.addr) == address for each in channels.values()) >= limit

    def _is_slow(self, channel: Any, now: float) -> bool:
        """Whether a connection has kept us waiting for too long."""
        if channel.total_outbufs_len:
            return channel.blocked is not None and now - channel.blocked > PACE_SECONDS
        if channel.requests:
            return False  # its answer is being made
        request = channel.request
        if request is None or request.empty:
            first = not channel.n_received
            return now - channel.since > (min(HEADER_SECONDS, self.timeout) if first else self.timeout)
        if not request.headers_finished:
            return now - channel.since > HEADER_SECONDS
        return _is_below_pace(channel, now)


def _is_below_pace(channel: Any, now: float) -> bool:
    """Whether fewer bytes of a body came than should have since that was measured last."""
    if channel.pace is None:
        channel.pace = (now, channel.n_received)
        return False
    began, before = channel.pace
    if now - began < PACE_SECONDS:
        return False
    channel.pace = (now, channel.n_received)
    return (channel.n_received - before) / (now - began) < LEAST_PACE


def close(channel: Any) -> None:
    """End a connection at once; a thread that waits to write to it goes on with an error."""
    with suppress(OSError):
        channel.handle_close()


def address_of(peer: Any) -> str:
    """Whom the address of a peer stands for (`client_of`); empty behind a socket of this machine's own."""
    return client_of(str(peer[0])) if isinstance(peer, tuple) and peer else ""


@lru_cache(maxsize=4096)  # all that are connected are counted for each one that comes
def client_of(address: str) -> str:
    """Who is counted as one: an address in its usual spelling, of the Internet's IPv6 a network; empty for none.

    Whoever has one address there has the other 2^64 of its network too.
    """
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, 64), strict=False) if found.is_global else found)


def _is_ours(client: str) -> bool:
    """Whether somebody is on this machine, or nobody knows where."""
    return client in ("", "::1") or client.startswith("127.")
