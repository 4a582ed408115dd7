"""The rules of RDS-CMR: how RDMA-CM sets up a connection of RDS over InfiniBand."""

from __future__ import annotations

from rdstool.validate.rule import ERROR, IB, NOTE, WARNING, Rule

_SOURCE = "net/rds/ib_cm.c, rdma_transport.c"

SERVICE = Rule(
    "RDS-CMR-001",
    WARNING,
    "A connection request goes to the wrong service for its addresses",
    IB,
    "7.1",
    _SOURCE,
    "RDS listens on RDMA-CM port 18634 for IPv4 and on 16385 for IPv6.",
    "Nobody listens there for that address family, or the private data are read in the wrong layout.",
    "Check the port that the active side resolves.",
)
IP_HEADER = Rule(
    "RDS-CMR-002",
    WARNING,
    "The IP header of the request has the wrong version",
    IB,
    "7.1",
    "drivers/infiniband/core/cma.c",
    "RDMA-CM puts 36 bytes in front: version 0, and an IP version of 4 or 6 that fits the addresses and the port.",
    "The request is rejected before RDS sees it.",
    "Check the sender's RDMA-CM.",
)
PRIVATE = Rule(
    "RDS-CMR-003",
    ERROR,
    "The private data of RDS are missing or without a version",
    IB,
    "7.1, 7.2",
    _SOURCE,
    "REQ and REP carry the whole structure, and major is not 0.",
    "No data at all are rejected; a structure without version is treated as 4.0, which may not fit the sender.",
    "Check the sender: it may not be RDS, or be older than version 3.1.",
)
VERSION = Rule(
    "RDS-CMR-004",
    ERROR,
    "The proposed protocol version is not understood",
    IB,
    "7.2",
    _SOURCE,
    "Understood are exactly 3.1, and major 4 with a mask that names minor 0 or 1.",
    "Anything else is rejected with reason 28 and the number 1.",
    "Let the sender propose 3.1.",
)
ANSWER = Rule(
    "RDS-CMR-005",
    ERROR,
    "The reply names a version that the request did not offer",
    IB,
    "7.2",
    _SOURCE,
    "The answer to 3.1 is 3.1; to major 4 it is 4 with the highest common minor.",
    "The active side takes the version over, and drops the connection where it is below 3.1.",
    "Check the passive side.",
)
ADDRESSES = Rule(
    "RDS-CMR-006",
    ERROR,
    "Addresses of the connection set-up contradict each other",
    IB,
    "7.1",
    _SOURCE,
    "A request's RDS addresses are those of its IP header; the reply has them swapped.",
    "The passive side looks for the connection by the RDS addresses: it sets up one that nobody uses.",
    "Check the sender's address binding.",
)
TOS = Rule(
    "RDS-CMR-007",
    ERROR,
    "Request and reply name different types of service",
    IB,
    "7.1, 7.7",
    _SOURCE,
    "Each TOS has its own connection; the reply repeats the request's.",
    "Each side files the connection under its own value: replies take another connection, or none.",
    "Check the passive side.",
)
RESERVED = Rule(
    "RDS-CMR-008",
    NOTE,
    "Reserved bytes of the private data are set",
    IB,
    "7.1",
    "net/rds/ib.h",
    "Bytes 13 to 15 and the tail are zero from mainline. Oracle's kernel (UEK) puts its fragment size at 14.",
    "Mainline ignores them.",
    "Another kernel is at work; a fragment size above 4096 works only between two UEKs.",
)
ACK_CREDIT = Rule(
    "RDS-CMR-009",
    NOTE,
    "The private data carry an acknowledgement or credits",
    IB,
    "7.1, 7.6",
    _SOURCE,
    "Mainline always sends ack_seq 0 and credit 0.",
    "ack_seq is treated like h_ack; credits switch flow control on where the local side wants it.",
    "Another kernel is at work. Flow control then has its own rules: RDS-CRD.",
)
PARAMETERS = Rule(
    "RDS-CMR-010",
    NOTE,
    "Connection parameters differ from the kernel's",
    IB,
    "7.1",
    _SOURCE,
    "Kernels ask for a reliable connection, retry count 1 (module parameter rds_ib_retry_count) and RNR retry 7.",
    "With a finite RNR retry a receiver without buffers breaks the connection.",
    "Check the module parameter.",
)
REJECTED = Rule(
    "RDS-CMR-011",
    NOTE,
    "A connection request was rejected",
    IB,
    "7.2, 7.3",
    _SOURCE,
    "With reason 28: 1 means an incompatible version or crossing requests, 0x04010020 that the access list of an "
    "Oracle kernel refused it.",
    "The active side drops its attempt and tries again after a random delay.",
    "A few are normal when both sides connect at once; many in a row are not.",
)
