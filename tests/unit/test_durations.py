"""Durations mean the same wherever people write them: in options of every command, and in scenarios."""

from __future__ import annotations

import pytest

from rdstool.durations import seconds_of
from tests.unit.cli.running import rdstool_here


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1", 1),
        (".5", 0.5),
        ("0.5s", 0.5),
        ("20ms", 0.02),
        ("20 msec", 0.02),
        ("100us", 1e-4),
        ("2m", 120),
        ("1.5 min", 90),
        ("1h", 3600),
        ("0", 0),
    ],
)
def test_a_duration_is_a_number_of_seconds_or_has_a_unit(text: str, seconds: float) -> None:
    assert seconds_of(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "soon", "s", "-1", "1 fortnight", "1e3", "1s 5ms", "nan"])
def test_anything_else_is_not_a_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        seconds_of(text)


TAKING_A_TIME_LIMIT = [
    ["listen", "127.0.0.1"],
    ["send", "127.0.0.2", "-m", "hello"],
    ["ping", "127.0.0.2"],
    ["rdma", "read", "127.0.0.2", "0x1", "8"],
    ["stress"],
]


@pytest.mark.parametrize("command", TAKING_A_TIME_LIMIT, ids=" ".join)
@pytest.mark.parametrize("text", ["soon", "5parsecs"])
def test_every_time_limit_refuses_what_is_not_a_duration_in_the_same_words(command: list[str], text: str) -> None:
    done = rdstool_here(*command, "--timeout", text)
    complaint = f"rdstool: error: --timeout: '{text}' is not a duration: write seconds, or 500ms, 2s, 1m\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", complaint)


@pytest.mark.parametrize("command", TAKING_A_TIME_LIMIT, ids=" ".join)
def test_a_time_limit_of_nothing_is_refused(command: list[str]) -> None:
    done = rdstool_here(*command, "--timeout", "0ms")
    assert done.returncode == 2
    assert "--timeout 0ms leaves no time" in done.stderr


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        (["stress", "-T", "1500ms"], "--time: 1500ms is not a whole number of seconds"),
        (["capture", "-i", "lo", "-d", "1500ms"], "--duration: 1500ms is not a whole number of seconds"),
        (["capture", "-i", "lo", "-d", "0"], "--duration 0 leaves no time"),
    ],
)
def test_rds_stress_and_dumpcap_count_in_whole_seconds(command: list[str], complaint: str) -> None:
    done = rdstool_here(*command)
    assert done.returncode == 2
    assert complaint in done.stderr
