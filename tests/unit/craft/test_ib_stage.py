"""Connections of a scenario over InfiniBand that the scenario itself ends."""

from __future__ import annotations

import rdstool
from rdstool.craft.judge import Match
from rdstool.craft.play import play
from rdstool.craft.reading import read
from rdstool.protocol.kinds import Transport
from tests.kit.loopback import own_addresses

FINISHED = """\
id = "finished"
title = "A connection that we end"
requirement = "Another one is taken after it."
source = "protocol.md §7.2"
transport = "ib"

[ports]
ours = 5000
theirs = 4000

[[step]]
"->" = "connect"

[[step]]
"<-" = "accepted"

[[step]]
"->" = "finish"

[[step]]
"->" = "connect"

[[step]]
"<-" = "accepted"

[[step]]
"->" = "ping"

[[step]]
"<-" = "pong"
dport = 5000
"""


async def test_what_is_flushed_when_we_end_a_connection_is_not_posted_anew() -> None:
    own, peer = own_addresses(2)
    async with rdstool.Node(peer, options=rdstool.NodeOptions(transport=Transport.IB)):
        verdict = await play(read("finished.toml", FINISHED), Match(own, peer, seed=1, transport=Transport.IB))
    assert verdict.difference == ""
