"""What a run is to do: what can be asked for, and what the active side tells the passive one (protocol.md §12.1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from rdstool.errors import UsageError
from rdstool.stress.parameters import LONG_BYTES, SHORT_BYTES, Parameters, RdmaParameters, is_long, unpack
from tests.unit.stress.runs import RDMA_RUNS


@pytest.mark.parametrize("rdma", RDMA_RUNS.values(), ids=RDMA_RUNS)
def test_the_peer_is_told_what_rdma_to_do(rdma: RdmaParameters) -> None:
    parameters = Parameters(rdma=rdma)
    assert unpack(parameters.packed("10.0.0.1", "10.0.0.2")) == (parameters, "10.0.0.1")


@pytest.mark.parametrize(
    ("made", "complaint"),
    [
        (lambda: RdmaParameters(1 << 19, vector=3), "the bytes of one RDMA is 1572864"),
        (lambda: RdmaParameters(1, vector=513), "the number of RDMA buffers is 513"),
        (lambda: RdmaParameters(64, cache=True), "cannot be for one use"),
        (lambda: RdmaParameters(64, cache=True, use_once=False), "is registered before"),
        (lambda: Parameters(tasks=64, rdma=RdmaParameters(1 << 20)), "are more than"),
    ],
)
def test_rdma_that_cannot_be_done_is_refused(made: Callable[[], object], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        made()


@pytest.mark.parametrize("tos", [0, 9])
def test_the_options_come_over_whole(tos: int) -> None:
    parameters = Parameters(3, 2000, 100, 5000, 4, 60, verify=True, simplex=True, tos=tos, show=True, real_time=True)
    block = parameters.packed("10.0.0.1", "10.0.0.2")
    assert len(block) == (LONG_BYTES if tos else SHORT_BYTES)
    assert unpack(block) == (parameters, "10.0.0.1")


def test_what_stands_behind_the_version_of_rds_stress_does_not_matter() -> None:
    parameters = Parameters(tos=3)
    block = parameters.packed("10.0.0.1", "10.0.0.2")
    filled = block[:6] + b"\xff" * 10 + block[16:]  # As rds-stress 2.0.7 sends it.
    assert filled != block
    assert is_long(filled[:16])
    assert unpack(filled) == (parameters, "10.0.0.1")


def test_an_rds_stress_of_another_version_is_named() -> None:
    with pytest.raises(UsageError, match=r"runs rds-stress 2\.3\.9; 2\.0\.7 is understood"):
        is_long(b"2.3.9\0" + b"\xff" * 10)


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"request_bytes": 62}, "request size is 62, it can be 63 to 1048576"),
        ({"ack_bytes": (1 << 20) + 1}, "ack size"),
        ({"depth": 0}, "depth is 0"),
        ({"tasks": 257}, "number of tasks is 257"),
        ({"port": 65535}, "port is 65535"),
        ({"tasks": 200, "depth": 60000, "request_bytes": 100_000}, "buffers of .* choose less"),
    ],
)
def test_what_cannot_be_done_is_refused(changed: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        replace(Parameters(), **changed)


@pytest.mark.parametrize(("at", "complaint"), [(3, "depth"), (27, "tasks")], ids=["no depth", "no tasks"])
def test_a_hostile_option_block_is_refused(at: int, complaint: str) -> None:
    block = bytearray(Parameters().packed("10.0.0.1", "10.0.0.2"))
    block[at] = 0
    with pytest.raises(UsageError, match=complaint):
        unpack(bytes(block))
