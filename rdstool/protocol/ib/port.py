"""The engine's side towards an InfiniBand transport.

The transport tells what happens to reliable connections, and after that acts on the node's events and ready links, as
over TCP (:mod:`rdstool.protocol.node`): for each ready link it posts ``receives_to_post`` and ``work_to_post``.

- ``IbConnectWanted``: take ``receives_to_post``, ask for a connection with the private data; then ``established``,
  ``refused`` or ``node.connect_failed``.
- A request: ``requested`` gives a link, then take ``receives_to_post`` and accept with ``reply``; or it gives None,
  then reject with ``REJECT_DATA``. ``established`` when the peer is ready, else ``node.connection_lost``.
- Frames may be handed on before ``established``: the peer may be faster than the news of it.
- ``AbortWanted``: end the connection at once, then ``node.connection_lost``.
"""

from __future__ import annotations

from collections.abc import Sequence

from rdstool.protocol import events
from rdstool.protocol.addresses import canonical, same_but_for_scope
from rdstool.protocol.errors import SocketError
from rdstool.protocol.ib.connection import IbConnection
from rdstool.protocol.ib.link import IbLink
from rdstool.protocol.ib.private import INCOMPATIBLE, Greeting, agree_on_version, read_greeting, why_refused
from rdstool.protocol.ib.work import Work
from rdstool.protocol.reasons import RefuseReason
from rdstool.protocol.sockets import SocketHost

REJECT_DATA = INCOMPATIBLE
"""Private data of every rejection."""


class IbPort:
    """What an InfiniBand transport calls. Made by the node."""

    def __init__(self, node: SocketHost) -> None:
        self._node = node

    # ---- Connections

    def requested(self, local: str, peer: str, private_data: bytes, now: float) -> IbLink | None:
        """``peer`` asks ``local`` for a connection. None: reject it."""
        node = self._node
        node.check_clock(now)
        local, peer = canonical(local), canonical(peer)
        answer = self._judge(local, peer, read_greeting(private_data, local), now)
        if isinstance(answer, IbLink):
            return answer
        node.counters.refused_connections += 1
        node.emit(events.ConnectionRefused(local, peer, answer))
        return None

    def _judge(self, local: str, peer: str, said: Greeting | None, now: float) -> IbLink | RefuseReason:
        node = self._node
        if said is None or agree_on_version(said) is None:
            return RefuseReason.VERSION
        for wrong, reason in (
            (node.closed, RefuseReason.CLOSED),
            (local not in node.ports or not same_but_for_scope(said.destination, local), RefuseReason.NOT_OURS),
            (peer in node.ports, RefuseReason.OWN_ADDRESS),
            (not same_but_for_scope(said.source, peer), RefuseReason.FALSE_ADDRESS),
        ):
            if wrong:
                return reason
        try:
            connection = node.connection(local, peer, said.tos)
        except SocketError:
            return RefuseReason.TOO_MANY_CONNECTIONS
        assert isinstance(connection, IbConnection)
        return connection.requested(said, now)

    def reply(self, link: IbLink) -> bytes:
        """Private data of the answer to a request."""
        return link.owner.reply()

    def established(self, link: IbLink, private_data: bytes, now: float) -> None:
        """Both ends are ready; where we have asked, ``private_data`` is that of the answer."""
        self._node.check_clock(now)
        said = None if link.incoming else read_greeting(private_data, link.owner.local)
        link.owner.established(link, said, now)

    def refused(self, link: IbLink, private_data: bytes, now: float) -> None:
        """The peer has rejected our request. The engine asks again by itself."""
        self._node.check_clock(now)
        link.owner.lost(link, why_refused(private_data), now)

    # ---- Work

    def receives_to_post(self, link: IbLink) -> int:
        """How many receives of ``FRAME_BYTES`` to post."""
        due, link.receives_due = link.receives_due, 0
        if link.receives_known:
            link.owner.receives_posted(link, due)
        link.receives_known = True
        return due

    def work_to_post(self, link: IbLink) -> list[Work]:
        """Work requests to post, in this order. Empty where there is nothing; ``take_ready`` tells when there is."""
        return link.owner.work_to_post(link)

    def frames_received(self, link: IbLink, frames: Sequence[bytes], now: float) -> None:
        """Receives are completed. Whatever they brought, the worst that follows is the connection's end."""
        self._node.check_clock(now)
        link.owner.frames_received(link, frames, now)

    def work_completed(self, link: IbLink, work: int, status: int, now: float, original: int = 0) -> None:
        """A work request has ended; ``status`` as libibverbs numbers it, ``original`` is what an atomic found."""
        self._node.check_clock(now)
        link.owner.work_completed(link, work, status, original, now)
