"""Calls of the agent that the kernel lets wait for ever end in time."""

from __future__ import annotations

import signal
import threading
from queue import SimpleQueue

import pytest

from rdstool.lab.agent import alarms
from rdstool.lab.agent.alarms import Alarms

TIMEOUT_S = 60.0


@pytest.fixture
def signalled(monkeypatch: pytest.MonkeyPatch) -> SimpleQueue[int]:
    """The threads that got a signal, in order."""
    seen: SimpleQueue[int] = SimpleQueue()
    monkeypatch.setattr(signal, "pthread_kill", lambda thread, number: seen.put(thread))
    monkeypatch.setattr(alarms, "_AGAIN_S", 0.0)
    return seen


def test_a_call_is_interrupted_until_it_ends(signalled: SimpleQueue[int]) -> None:
    with Alarms().after(0.0):
        for _ in range(3):
            assert signalled.get(timeout=TIMEOUT_S) == threading.get_ident()


def test_the_call_whose_time_is_up_first_is_interrupted_first_whichever_began_first(
    signalled: SimpleQueue[int],
) -> None:
    made = Alarms()
    begun, over = threading.Event(), threading.Event()

    def wait_long() -> None:
        with made.after(TIMEOUT_S):
            begun.set()
            over.wait()

    other = threading.Thread(target=wait_long)
    other.start()
    assert begun.wait(TIMEOUT_S)
    with made.after(0.0):
        assert signalled.get(timeout=TIMEOUT_S) == threading.get_ident()
    over.set()
    other.join()
