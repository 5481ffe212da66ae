"""ROS domains on this machine: who is on one, and a free one for a run of our own.

Fast DDS binds UDP ports 7400 + 250 x domain + offset (RTPS 2.5, section 9.6.1.1), and Linux lists every bound
port in /proc/net/udp, so no packet has to be sent to see whether a domain is in use.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PORT_BASE, DOMAIN_GAIN = 7400, 250
FIRST_UNICAST_OFFSET, LAST_UNICAST_OFFSET = 10, 247  # two ports for each of the domain's participants
STACK_OFFSET, RESERVATION_OFFSET = 248, 249  # ours: no participant gets that far
LAST_DOMAIN = 101  # above it the ports reach those Linux gives to clients
OWN_DOMAINS = range(70, LAST_DOMAIN)


def parse_domain(text: str) -> int:
    """Return the domain that ``ROS_DOMAIN_ID`` names; empty is 0, as in ROS.

    Raises:
        ValueError: not a domain that works on this machine.
    """
    if not (text or "0").isdecimal() or int(text or 0) > LAST_DOMAIN:
        raise ValueError(
            f"ROS_DOMAIN_ID={text} is no domain of this machine; export ROS_DOMAIN_ID=<0 to {LAST_DOMAIN}>"
        )
    return int(text or 0)


def participants(domain_id: int) -> int:
    """Return how many DDS participants on this machine are on the domain."""
    base = PORT_BASE + DOMAIN_GAIN * domain_id
    inside = range(base + FIRST_UNICAST_OFFSET, base + LAST_UNICAST_OFFSET + 1, 2)
    return len(_bound_udp_ports() & set(inside))


def _bound_udp_ports() -> set[int]:
    ports = set()
    for table in (Path("/proc/net/udp"), Path("/proc/net/udp6")):
        for line in table.read_text().splitlines()[1:] if table.exists() else []:
            ports.add(int(line.split()[1].rpartition(":")[2], 16))
    return ports


@contextmanager
def claimed_by_stack(domain_id: int) -> Iterator[None]:
    """Hold the domain for one stack: two on one domain would both move the arm.

    Raises:
        OSError: another stack on this machine runs on the domain.
    """
    with _bound_socket(domain_id, STACK_OFFSET) as bound:
        if not bound:
            raise OSError(
                f"another stack is running on ROS domain {domain_id}; stop it, or choose another domain "
                "(export ROS_DOMAIN_ID=<0 to 101>)"
            )
        yield


@contextmanager
def reserved_domain() -> Iterator[int]:
    """Give a domain nobody on this machine uses, and keep others who ask this way from taking it.

    Raises:
        OSError: all of our domains are in use.
    """
    for domain_id in OWN_DOMAINS:
        with _bound_socket(domain_id, RESERVATION_OFFSET) as bound:
            if bound and participants(domain_id) == 0:
                yield domain_id
                return
    raise OSError(
        f"ROS domains {OWN_DOMAINS.start} to {OWN_DOMAINS.stop - 1} are all in use; "
        "stop another ROS 2 program, or set ROS_DOMAIN_ID to a free domain"
    )


@contextmanager
def _bound_socket(domain_id: int, offset: int) -> Iterator[bool]:
    """Bind one of the domain's ports for the length of the block; gives False when it is taken."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        try:
            bound.bind(("127.0.0.1", PORT_BASE + DOMAIN_GAIN * domain_id + offset))
        except OSError:
            yield False
        else:
            yield True
