"""Rules of RDS-DLV, and those of RDS-SEQ and RDS-RTX that span connections."""

from __future__ import annotations

from rdstool.validate.rule import BOTH, ERROR, NOTE, WARNING, Rule

_SOURCE = "net/rds/send.c, recv.c, tcp_listen.c"

UNFLAGGED = Rule(
    "RDS-RTX-001",
    ERROR,
    "A message is sent again without RETRANSMITTED",
    BOTH,
    "4.7",
    _SOURCE,
    "What was sent on an earlier connection comes again on a later one, with the same number, ports and length, but "
    "without the flag.",
    "The duplicate filter looks at flagged messages only: the receiver delivers it again.",
    "The application gets the message twice, if the first copy arrived. Fault of the sending kernel.",
    unbroken=True,
)
DIFFERENT = Rule(
    "RDS-RTX-002",
    ERROR,
    "A retransmitted message is not the same as the original",
    BOTH,
    "4.6",
    _SOURCE,
    "Length, ports and payload of a message that is sent again equal those of its first copy. Payloads are compared "
    "where the capture can be read twice.",
    "The receiver cannot know: it keeps whichever copy comes first.",
    "Two messages share a number, or memory changed while it waited to be sent (zero-copy). Check the sender.",
    unbroken=True,
)
NUMBERING = Rule(
    "RDS-SEQ-006",
    WARNING,
    "Numbering does not go on over a reconnect",
    BOTH,
    "4.6, 5.5",
    _SOURCE,
    "Numbers live as long as the kernel's connection, over all reconnects. Only a restarted kernel begins again, and "
    "tells so by another GEN_NUM (7.0 and later). Where none is announced this is a note: it may be a restart.",
    "The receiver accepts any message without RETRANSMITTED and goes on from its number.",
    "Look for a restart of the sender, or a reload of its module, between the two connections.",
    unbroken=True,
)
TWICE = Rule(
    "RDS-DLV-001",
    ERROR,
    "A message is delivered twice",
    BOTH,
    "4.7, 13",
    _SOURCE,
    "A flagged copy arrives where the receiver expects no higher number, although the first copy was acknowledged: the "
    "reconnected TCP connection serves another path there, with a numbering of its own.",
    "Kernels up to 6.x put a new connection on the lowest path that is down, so paths are exchanged. 7.x keeps them "
    "apart by the TCP source port.",
    "Applications must tolerate doubled messages on these kernels, or use a single path.",
    unbroken=True,
)
LOST = Rule(
    "RDS-DLV-002",
    ERROR,
    "A message is acknowledged and lost",
    BOTH,
    "4.7, 13",
    _SOURCE,
    "The only copy that reached the receiver is flagged and its number is below what the receiver's path expects: it "
    "is dropped as a duplicate, although there was no other. TCP has acknowledged it, so the sender forgets it. A copy "
    "that comes by less than a round trip before the receiver's RST did not reach it in time.",
    "Happens up to 6.x when a reconnected connection joins different paths of the two ends.",
    "The message will never be delivered: the application has to notice by itself.",
    unbroken=True,
)
REORDERED = Rule(
    "RDS-DLV-003",
    ERROR,
    "A message is delivered behind a later one of its socket",
    BOTH,
    "4.7, 5.4",
    _SOURCE,
    "Messages between two sockets are delivered in the order of sending. Here a higher number of the path was "
    "delivered before, or path 0 still carries what a socket had queued before the handshake, while its own path is "
    "in use already.",
    "The receiver checks no order: it delivers as messages arrive. Since 7.0 other paths wait until path 0 has caught "
    "up (RDS-MPR-008).",
    "Applications see the messages in the wrong order. Fault of the sending kernel.",
    unbroken=True,
)
MAYBE_LOST = Rule(
    "RDS-DLV-004",
    WARNING,
    "A message may be lost: its repetition is dropped",
    BOTH,
    "4.7, 13",
    _SOURCE,
    "The first copy was sent, but not acknowledged before the connection was cut; the second is dropped as a duplicate "
    "because the receiver's path expects a higher number. Where the receiver had reset the connection before the first "
    "copy can have reached it, this is RDS-DLV-002.",
    "As RDS-DLV-002, but the first copy may have arrived.",
    "Compare with what the application received; a capture at the receiver's end tells more.",
    unbroken=True,
)
MAYBE_TWICE = Rule(
    "RDS-DLV-005",
    NOTE,
    "A message was sent again to a path that takes it as new",
    BOTH,
    "4.7, 13",
    _SOURCE,
    "As RDS-DLV-001, but the first copy was not acknowledged before the connection was cut. Most often it had not "
    "arrived, and all is well; if it had, the message is delivered twice. The capture does not tell which.",
    "A flagged copy is accepted where no higher number is expected.",
    "Compare with what the application received; a capture at the receiver's end tells more.",
    unbroken=True,
)
NOT_RESENT = Rule(
    "RDS-DLV-006",
    NOTE,
    "No acknowledgement of a message was seen, and it was not sent again",
    BOTH,
    "4.6",
    _SOURCE,
    "The connection was cut before the message was acknowledged. Later messages of the same path follow on the next "
    "connection, this one does not.",
    "Every unacknowledged message is put back and sent again, unless it was cancelled or its socket was closed.",
    "If its socket was still open the message is lost, unless the first copy arrived, or only the capture lacks the "
    "acknowledgement.",
    unbroken=True,
)
NEVER_SEEN = Rule(
    "RDS-DLV-007",
    NOTE,
    "Numbers are missing between two connections of a path",
    BOTH,
    "4.6, 4.7",
    _SOURCE,
    "Messages of these numbers appear on neither connection, or only in part.",
    "A message that was cut off in the middle is sent again whole; cancelled ones leave holes.",
    "Messages of sockets that stayed open are lost.",
    unbroken=True,
)
REFUSED = Rule(
    "RDS-DLV-009",
    ERROR,
    "A message is acknowledged on a connection that its receiver gave up unread",
    BOTH,
    "4.2, 4.3, 13",
    _SOURCE,
    "The connection ends without the receiver having sent even its congestion bitmap: RDS never took it up. Its TCP "
    "has acknowledged the message all the same, so the sender forgets it, and it is not seen again. On paths above 0, "
    "where a bitmap need not come first, this is a warning, given where the receiver ended the connection as soon as "
    "it can have accepted it.",
    "Happens up to 6.x when both ends dial at the same time: TCP acknowledges what arrives until RDS closes the "
    "socket.",
    "The message will never be delivered: the application has to notice by itself.",
    unbroken=True,
)
EXCHANGED = Rule(
    "RDS-DLV-008",
    NOTE,
    "A reconnected connection joins different paths of the two ends",
    BOTH,
    "4.3, 13",
    "net/rds/tcp_listen.c",
    "Each end's messages show by number and port which of its paths the connection serves; here they are not the two "
    "that belonged together before.",
    "Up to 6.x the acceptor takes the lowest path that is down, in the order in which connections arrive.",
    "Expect messages to be lost, doubled or reordered here: see the other findings of RDS-DLV.",
    unbroken=True,
)
