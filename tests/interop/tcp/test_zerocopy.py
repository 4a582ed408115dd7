"""Zerocopy: sockets of rdstool and of a kernel answer alike (protocol.md §9.6)."""

from __future__ import annotations

import errno
import struct
from itertools import product

from rdstool.afrds.numbers import SOL_RDS, Control
from rdstool.endpoint import constants as c
from rdstool.endpoint.node import AsyncSocket
from rdstool.lab import Message, RdsSocket
from rdstool.lab.channel import GuestError
from rdstool.protocol.control import ZerocopyCookie
from rdstool.protocol.errors import SocketError
from rdstool.protocol.received import ZerocopyCompletion
from tests.interop.tcp.meeting import Ground, Meeting, expected, read

Case = tuple[bool, bool, bool, int]
"""SO_ZEROCOPY is set, MSG_ZEROCOPY is given, a cookie is given; bytes of payload."""
CASES = list(product((False, True), (False, True), (False, True), (0, 10_000)))
TAKEN: Case = (True, True, True, 10_000)
COOKIE = 0x8000_0001


async def the_kernel_answers(
    meeting: Meeting, there: RdsSocket, here: AsyncSocket, case: Case, cookie: int = COOKIE
) -> str | None:
    enabled, wanted, with_cookie, size = case
    rds = meeting.guest.rds
    await meeting.ask(rds.set_option, there, c.SOL_SOCKET, c.SO_ZEROCOPY, int(enabled))
    flags = ["nonblocking", *["zerocopy"] * wanted]
    control = [(SOL_RDS, Control.ZCOPY_COOKIE, struct.pack("=I", cookie))] * with_cookie
    try:
        await meeting.ask(rds.send, there, here.getsockname(), size=size, flags=flags, control=control)
    except GuestError as problem:
        return problem.errno
    return None


async def rdstool_answers(here: AsyncSocket, there: RdsSocket, case: Case, cookie: int = COOKIE) -> str | None:
    enabled, wanted, with_cookie, size = case
    here.setsockopt(c.SOL_SOCKET, c.SO_ZEROCOPY, int(enabled))
    control = [ZerocopyCookie(cookie)] * with_cookie
    try:
        await here.sendmsg(bytes(size), there.end, flags=c.MSG_ZEROCOPY * wanted, control=control)
    except SocketError as problem:
        return errno.errorcode[problem.errno or 0]
    return None


async def test_what_sendmsg_takes_and_refuses(ground: Ground) -> None:
    async with ground.meeting("smaller") as meeting:
        await meeting.agree_on_paths()
        here, there = meeting.node.socket(4000), await meeting.open()
        answers = {case: await the_kernel_answers(meeting, there, here, case) for case in CASES}
        assert answers == {case: await rdstool_answers(here, there, case) for case in CASES}
        assert answers[TAKEN] is None
        assert answers[True, True, True, 0] == "EINVAL"


def cookies_in(message: Message) -> list[int]:
    """What the kernel tells in a control message of its own: a count, and room for eight."""
    ((level, kind, told),) = message.control
    assert (message.source, level, kind) == (None, SOL_RDS, Control.ZCOPY_COMPLETION)
    number, *cookies = struct.unpack("=9I", told)
    return cookies[:number]


async def test_both_tell_by_the_cookies_which_messages_the_peer_has(ground: Ground) -> None:
    async with ground.meeting("smaller") as meeting:
        await meeting.agree_on_paths()
        here, there = meeting.node.socket(4000), await meeting.open()
        rds = meeting.guest.rds
        cookies = list(range(COOKIE, COOKIE + 11))
        for cookie in cookies:
            assert await the_kernel_answers(meeting, there, here, TAKEN, cookie) is None
        assert await read(here, len(cookies)) == expected([(0, 10_000)]) * len(cookies)
        found: list[int] = []
        while len(found) < len(cookies):
            found += cookies_in(await meeting.ask(rds.receive, there))
        assert found == cookies
        for cookie in cookies:
            assert await rdstool_answers(here, there, TAKEN, cookie) is None
        assert len(await meeting.ask(rds.receive_many, [there], len(cookies))) == len(cookies)
        await here.drain()
        told = [(await here.recvmsg(flags=c.MSG_DONTWAIT)).control for _ in range(2)]
        assert told == [(ZerocopyCompletion(tuple(cookies[:8])),), (ZerocopyCompletion(tuple(cookies[8:])),)]
