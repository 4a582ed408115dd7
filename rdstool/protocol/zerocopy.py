"""Zerocopy: a sender is told when its buffer is its own again (protocol.md §9.6; kernel ``send.c``, ``message.c``).

What the kernel does not copy it has to read until the peer has acknowledged it. Here ``bytes`` are never copied, since
nobody can change them; other buffers are, once, whether they are sent with zerocopy or without.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

from rdstool.protocol.control import RdmaControl, SendControl, ZerocopyCookie
from rdstool.protocol.errors import SocketError

MSG_ZEROCOPY = 0x4000000
"""Linux's number, a plain integer because sendmsg tests it for every message."""
COOKIE_BITS = 32


def take_cookie(
    control: Sequence[SendControl], length: int, transport: str, *, wanted: bool, enabled: bool
) -> tuple[int | None, Sequence[RdmaControl]]:
    """The cookie by which a message of ``length`` bytes is reported, and its other control messages.

    ``wanted`` is MSG_ZEROCOPY, ``enabled`` SO_ZEROCOPY. Raises ``SocketError`` as sendmsg(2): EOPNOTSUPP, EINVAL.
    """
    if wanted and enabled and transport == "ib":
        raise SocketError(errno.EOPNOTSUPP, "no zerocopy over ib: only TCP has it")
    cookies = [item.cookie for item in control if isinstance(item, ZerocopyCookie)]
    others = [item for item in control if not isinstance(item, ZerocopyCookie)]
    if wanted and not cookies:
        raise SocketError(errno.EINVAL, "MSG_ZEROCOPY needs a ZerocopyCookie")
    if cookies and not (wanted and enabled and length):
        raise SocketError(errno.EINVAL, "a ZerocopyCookie needs SO_ZEROCOPY, MSG_ZEROCOPY and a payload")
    if any(cookie >> COOKIE_BITS for cookie in cookies):
        raise SocketError(errno.EINVAL, f"a ZerocopyCookie is a number of {COOKIE_BITS} bits")
    return cookies[-1] if cookies else None, others
