"""ROS domains: seeing who is on one, reserving a free one."""

from __future__ import annotations

import socket

import pytest
from grape_policy import domain

UNUSED = 101  # outside of the domains that tests and runs take


def occupy(domain_id: int, participant: int) -> socket.socket:
    """Bind the port that a DDS participant of this number would bind."""
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bound.bind(("127.0.0.1", 7400 + 250 * domain_id + 10 + 2 * participant))
    return bound


def test_participants_are_counted_by_their_ports() -> None:
    assert domain.participants(UNUSED) == 0
    with occupy(UNUSED, 0), occupy(UNUSED, 3):
        assert domain.participants(UNUSED) == 2
        assert domain.participants(UNUSED - 1) == 0
    assert domain.participants(UNUSED) == 0


def test_reservations_differ_and_avoid_used_domains(monkeypatch: pytest.MonkeyPatch) -> None:
    with domain.reserved_domain() as first:
        monkeypatch.setattr(domain, "OWN_DOMAINS", range(first, 101))
        with domain.reserved_domain() as second:
            assert second > first
            with occupy(UNUSED, 1):
                monkeypatch.setattr(domain, "OWN_DOMAINS", range(UNUSED, UNUSED + 1))
                with pytest.raises(OSError, match="ROS_DOMAIN_ID"), domain.reserved_domain():
                    pass


def test_a_second_stack_on_a_domain_is_refused() -> None:
    with domain.claimed_by_stack(UNUSED):
        with (
            pytest.raises(OSError, match="another stack is running on ROS domain 101"),
            domain.claimed_by_stack(UNUSED),
        ):
            pass
        assert domain.participants(UNUSED) == 0  # the claim itself is no participant
    with domain.claimed_by_stack(UNUSED):
        pass
