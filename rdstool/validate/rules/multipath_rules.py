"""Rules of RDS-MPR."""

from __future__ import annotations

from rdstool.validate.rule import NOTE, TCP, WARNING, Rule

_SOURCE = "net/rds/send.c, recv.c, tcp_listen.c"

PONG = Rule(
    "RDS-MPR-001",
    WARNING,
    "A ping was not answered",
    TCP,
    "6",
    "net/rds/recv.c, send.c",
    "Every ping, probes too, is answered at once on the connection it came on. It is concluded only where the pinging "
    "side went on for five seconds, nothing is missing from the answering one, and no port was congested.",
    "rds-ping reports a loss; an unanswered probe keeps the connection on a single path.",
    "See whether net.rds.ping_enable is 0 on the answering side.",
    unbroken=True,
)
COUNT = Rule(
    "RDS-MPR-002",
    WARNING,
    "More connections than paths",
    TCP,
    "5.2",
    _SOURCE,
    "Two addresses use at most min(8, NPATHS of both) connections at one time.",
    "The surplus connection is reset (6.x) or parked until a path is free (7.x).",
    "Check how the dialling side counts paths.",
)
EARLY = Rule(
    "RDS-MPR-003",
    WARNING,
    "A second connection before the multipath handshake",
    TCP,
    "5.2",
    _SOURCE,
    "Further connections appear only when a probe or its answer announced two paths or more.",
    "The acceptor, which knows of one path, resets or parks the connection.",
    "Check the dialling side: it must wait for the handshake.",
    unbroken=True,
)
PROBE_PATH = Rule(
    "RDS-MPR-004",
    NOTE,
    "A handshake message travels on a path other than 0",
    TCP,
    "5.1",
    _SOURCE,
    "Probes are sent on path 0, and answered where they came.",
    "The receiver processes them on any path.",
    "Up to 6.x path numbers of the two sides can differ after a reconnect; else check the sender.",
)
PORTS = Rule(
    "RDS-MPR-005",
    WARNING,
    "SPORT_IDX is announced, but the TCP source port does not fit",
    TCP,
    "4.4",
    "net/rds/tcp_connect.c",
    "A side that announces SPORT_IDX dials path p from a source port that is p modulo 8; the handshake runs on path 0. "
    "Two connections of one number are RDS-TCP-004.",
    "The acceptor puts the connection on the wrong path, and drops the one in slot 0 to have it made again.",
    "Do not announce SPORT_IDX unless ports are chosen so; address translation (NAT) breaks it too.",
)
ONE_PATH = Rule(
    "RDS-MPR-006",
    WARNING,
    "A socket's messages moved to another live path",
    TCP,
    "5.4",
    "net/rds/send.c",
    "All messages of one socket use the path that its port hashes to, which keeps them in order. Only messages from "
    "before the handshake use path 0.",
    "The receiver delivers by arrival: messages of one socket can overtake each other.",
    "Check how the sender chooses paths.",
    unbroken=True,
)
HASH = Rule(
    "RDS-MPR-007",
    NOTE,
    "A socket's path is not the one that its port hashes to",
    TCP,
    "5.4",
    "net/rds/rds.h",
    "path = jhash(port, 0) & (npaths - 1), for all but the socket that was bound first after the module was loaded. "
    "One socket of each host is exempt. Checked only where the path is known from the TCP source port.",
    "Receivers take any path.",
    "Nothing is wrong; the sender is another implementation.",
)
CATCH_UP = Rule(
    "RDS-MPR-008",
    NOTE,
    "A path started before path 0 had caught up",
    TCP,
    "5.6",
    "net/rds/send.c",
    "Since 7.0 paths above 0 transmit nothing until all that path 0 held at the handshake is acknowledged by TCP.",
    "Messages of one socket, some sent on path 0 before and some on its own path after, can overtake each other.",
    "Expect reordering around the handshake.",
    unbroken=True,
)
