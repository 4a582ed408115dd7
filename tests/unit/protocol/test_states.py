"""Every state with every input."""

from __future__ import annotations

import pytest

from rdstool.protocol.errors import LocalProtocolError
from rdstool.protocol.states import TRANSITIONS, Action, PathInput, PathState, step

TABLE = """
               DIAL        ACCEPT      ESTABLISHED DIAL_FAILED DROP   SHUT_DOWN     CLOSED
DOWN           CONNECTING  CONNECTING  -           -           ERROR  -             -
CONNECTING     -           RESETTING   UP          DOWN        ERROR  -             -
DISCONNECTING  -           -           -           -           ERROR  -             DOWN
UP             -           -           -           -           ERROR  DISCONNECTING -
RESETTING      -           -           UP          -           ERROR  DISCONNECTING -
ERROR          -           -           -           -           ERROR  DISCONNECTING -
"""
INPUTS, *ROWS = [line.split() for line in TABLE.strip().splitlines()]
CASES = [(row[0], given, after) for row in ROWS for given, after in zip(INPUTS, row[1:], strict=True)]


def test_the_table_has_every_state_and_every_input() -> None:
    assert {(old, given) for old, given, _ in CASES} == {
        (state.name, given.name) for state in PathState for given in PathInput
    }


@pytest.mark.parametrize(("old", "given", "after"), CASES)
def test_a_state_takes_the_inputs_of_its_row_and_refuses_all_others(old: str, given: str, after: str) -> None:
    state, what = PathState[old], PathInput[given]
    if after == "-":
        with pytest.raises(LocalProtocolError, match=f"{old} cannot take {given}"):
            step(state, what)
    else:
        assert step(state, what)[1] is PathState[after]


def test_going_up_starts_and_going_down_requeues() -> None:
    for action, new in TRANSITIONS.values():
        assert (action is Action.START) == (new is PathState.UP)
        assert (action is Action.REQUEUE) == (new is PathState.DOWN)


def test_numbers_are_the_kernels() -> None:
    assert [state.name for state in sorted(PathState)] == [
        "DOWN", "CONNECTING", "DISCONNECTING", "UP", "RESETTING", "ERROR",
    ]  # fmt: skip


def test_all_states_are_left_and_reached() -> None:
    assert {old for old, _ in TRANSITIONS} == set(PathState) == {new for _, new in TRANSITIONS.values()}
