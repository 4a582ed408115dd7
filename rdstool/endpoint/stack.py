"""The nodes that a process's blocking sockets share, run by an event loop in a thread of its own.

An address belongs to the first socket that binds to it, and is given up with the last: as with a kernel, the
programmer sees sockets only.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import random
import threading
from collections.abc import Callable, Coroutine
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Self, TypeVar

from rdstool.endpoint.core import Core, NodeOptions
from rdstool.endpoint.starting import started
from rdstool.protocol import events
from rdstool.protocol.addresses import canonical
from rdstool.protocol.inbox import Inbox
from rdstool.protocol.kinds import Transport
from rdstool.protocol.node import Node as Engine
from rdstool.transport.driver import Driver
from rdstool.transport.scopes import named

STACK_GRACE_S = 0.5
"""How long giving up an address waits for its peers."""

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Residence:
    """An address of this process, with the node that serves it."""

    core: Core
    transport: Transport
    changed: threading.Condition
    """Notified of everything that may end a wait; made of the driver's lock."""
    sockets: int = 0
    """Sockets that keep it."""
    watchers: dict[Inbox, Callable[[], None]] = field(default_factory=dict)
    """Told, under the lock, whenever there may be news for a socket."""

    def wait(self, timeout_s: float | None) -> None:
        """Wait until something may have changed. One of the threads that wait serves the connections meanwhile."""
        if self.core.driver.attend(timeout_s):
            self.changed.notify()
        else:
            self.changed.wait(timeout_s)

    def wake(self) -> None:
        """Let all threads that wait look again."""
        self.changed.notify_all()
        self.core.driver.wake()


class Stack:
    """All nodes of blocking sockets. ``default_stack`` gives the one that plain sockets use."""

    def __init__(self, options: NodeOptions | None = None) -> None:
        self._options = options or NodeOptions()
        self._homes: dict[tuple[str, Transport], Residence] = {}
        self._guard = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread: threading.Thread | None = None
        nowhere = Engine(random=random.SystemRandom(), settings=self._options.settings, transport=None, name=named)
        self.nowhere = Driver(nowhere, self._loop)
        """Where sockets are until they bind."""

    def close(self) -> None:
        """Give up all addresses and end the thread. Sockets that are still open are of no more use.

        Raises ``TransportError``, when all is done, where a recording (``pcap``) is not complete.
        """
        with self._guard, ExitStack() as to_do:
            to_do.callback(self._end)
            for home in self._homes.values():
                to_do.callback(self._run, home.core.finish(0))
            self._homes.clear()

    def close_unused(self, process: int) -> None:
        """At the end of ``process``, which made it: close the event loop if no socket is open any more.

        A copy of the process would take from the original, whose selector it shares, what it closes.
        """
        if not self._homes and self._thread is None and os.getpid() == process:
            self._loop.close()

    def _end(self) -> None:
        self._rest()
        self._loop.close()

    def _rest(self) -> None:
        """End the thread, until another address is had: programs with threads cannot start copies of themselves."""
        if self._thread is not None:
            self._run(_settled())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._thread = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def enter(self, address: str, transport: Transport | None = None) -> Residence:
        """A place on the node of ``address`` with a transport (None: the stack's own), started where there is none.

        Raises ``TransportError`` where the address cannot be had, ``SocketError`` where it is none.
        """
        with self._guard:
            with suppress(ValueError):  # the engine says what is wrong with it
                address = canonical(named(address))
            key = address, self._options.transport if transport is None else transport
            home = self._homes.get(key)
            if home is None:
                home = self._homes[key] = self._run(self._start(*key))
            home.sockets += 1
            return home

    def leave(self, home: Residence) -> None:
        """Count one socket less. An address without sockets is given up, and without addresses the thread ends."""
        with self._guard:
            home.sockets -= 1
            if home.sockets:
                return
            for address in home.core.addresses:
                self._homes.pop((address, home.transport), None)
            self._run(home.core.finish(STACK_GRACE_S))
            if not self._homes:
                self._rest()

    async def _start(self, address: str, transport: Transport) -> Residence:
        home: Residence

        def hear(event: events.Event) -> None:
            match event:
                case events.SocketReadable() | events.SocketWritable():
                    watcher = home.watchers.get(event.socket)
                    if watcher is not None:
                        watcher()
                    home.wake()
                case events.CongestionChanged() | events.PathsAgreed():
                    for watcher in home.watchers.values():
                        watcher()
                    home.wake()
                case _:
                    pass

        options = replace(self._options, transport=transport)
        core = started((address,), options, hear, threaded=True)
        home = Residence(core, transport, threading.Condition(core.driver.lock))
        return home

    def _run(self, job: Coroutine[Any, Any, T]) -> T:
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop.run_forever, name="rdstool", daemon=True)
            self._thread.start()
        return asyncio.run_coroutine_threadsafe(job, self._loop).result()


async def _settled() -> None:
    """Wait until the loop has done with what was closed, which takes it a turn."""
    for _ in range(2):
        await asyncio.sleep(0)


@cache
def default_stack() -> Stack:
    """The stack of this process, as the kernel has one."""
    stack = Stack()
    atexit.register(stack.close_unused, os.getpid())
    return stack
