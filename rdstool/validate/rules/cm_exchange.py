"""The messages of RDMA-CM as the rules of RDS-CMR look at them."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from dissectors.wire.cm import (
    IP_CM,
    RDS_PRIVATE_V4,
    RDS_PRIVATE_V6,
    SERVICE_ID_TCP,
    CmRej,
    CmRep,
    CmReq,
    RdsPrivateV4,
    RdsPrivateV6,
    RejectReason,
    reject_code,
)
from dissectors.wire.rds import IB_CM_PORT, TCP_PORT
from rdstool.capture.events import CmMessage
from rdstool.capture.streams import V4_PREFIX, address_text
from rdstool.validate.reporter import Reporter
from rdstool.validate.rule import Rule, Severity
from rdstool.validate.rules.cm_rules import (
    ACK_CREDIT,
    ADDRESSES,
    ANSWER,
    IP_HEADER,
    PARAMETERS,
    PRIVATE,
    REJECTED,
    RESERVED,
    SERVICE,
    TOS,
    VERSION,
)

MAX_REQUESTS = 4096
"""Requests that are remembered for their reply."""
RETRY_COUNT = 1
RNR_RETRY = 7
UEK_REFUSED = 0x04010020
"""Reject data of Oracle's kernel: refused by its access list."""

Private = RdsPrivateV4 | RdsPrivateV6


@dataclass(frozen=True, slots=True)
class _Request:
    event: CmMessage
    private: Private | None


class CmExchange:
    """Judges each message by itself, and replies by their requests."""

    def __init__(self, report: Reporter) -> None:
        self.report = report
        self._requests: OrderedDict[tuple[int, bytes], _Request] = OrderedDict()
        self._unreadable: set[tuple[int, bytes]] = set()
        """Requests to the wrong service, so that their replies are not read either."""

    def message(self, event: CmMessage) -> None:
        """Take the next one."""
        match event.body:
            case CmReq():
                self._request(event, event.body)
            case CmRep():
                self._reply(event, event.body)
            case CmRej():
                self._reject(event, event.body)
            case _:
                pass

    def _say(self, rule: Rule, event: CmMessage, text: str, severity: Severity | None = None) -> None:
        stream = event.stream if event.stream >= 0 else None
        self.report.at(rule, text, event.frame, event.time, stream=stream, severity=severity)

    def _request(self, event: CmMessage, body: CmReq) -> None:
        if event.cut:
            return
        private, ip = event.private, event.ip or IP_CM.unpack_from(body.private)
        port = body.service_id & 0xFFFF
        v4 = ip.saddr[:12] in (bytes(12), V4_PREFIX) and ip.daddr[:12] in (bytes(12), V4_PREFIX)
        known = body.service_id in (SERVICE_ID_TCP | IB_CM_PORT, SERVICE_ID_TCP | TCP_PORT)
        if not known or (port == IB_CM_PORT) != v4:
            # The private data are laid out for the other family: nothing in them can be read.
            self._say(SERVICE, event, f"service port {port} with {'IPv4' if v4 else 'IPv6'} addresses")
            if len(self._unreadable) < MAX_REQUESTS:
                self._unreadable.add((event.transaction_id, event.src))
            return
        if ip.version or ip.ip_version != (4 if v4 else 6):
            text = f"header version {ip.version}, IP version {ip.ip_version} to port {port}"
            self._say(IP_HEADER, event, text)
        self._parameters(event, body)
        self._private(event, private, body.private, IP_CM.size, "request")
        self._requests[event.transaction_id, event.src] = _Request(event, private)
        if len(self._requests) > MAX_REQUESTS:
            self._requests.popitem(last=False)
        if private is None or not private.major:
            return
        proposed = (private.major, private.minor) == (3, 1)
        if not proposed and not (private.major == 4 and private.minor_mask & 3):
            text = f"version {private.major}.{private.minor}, mask 0x{private.minor_mask:04x}"
            self._say(VERSION, event, text)
        if (ip.saddr[-len(private.saddr) :], ip.daddr[-len(private.daddr) :]) != (private.saddr, private.daddr):
            text = f"RDS addresses {_pair(private)}, IP header {_texts(ip.saddr, ip.daddr, v4)}"
            self._say(ADDRESSES, event, text)

    def _parameters(self, event: CmMessage, body: CmReq) -> None:
        found = []
        if body.transport_service:
            found.append(f"transport service {body.transport_service}")
        if body.retry_count != RETRY_COUNT:
            found.append(f"retry count {body.retry_count}")
        if body.rnr_retry != RNR_RETRY:
            found.append(f"RNR retry {body.rnr_retry}")
        if found:
            self._say(PARAMETERS, event, ", ".join(found))

    def _private(self, event: CmMessage, private: Private | None, raw: bytes, offset: int, what: str) -> None:
        """What holds for requests and replies alike."""
        if private is None:
            self._say(PRIVATE, event, f"{what}: {event.problem or 'no private data of RDS'}")
            return
        if not private.major:
            self._say(PRIVATE, event, f"{what}: major version is 0")
        codec = RDS_PRIVATE_V4 if isinstance(private, RdsPrivateV4) else RDS_PRIVATE_V6
        rest = raw[offset + codec.size :]
        if private.fragment_size:
            self._say(RESERVED, event, f"{what}: fragment size {private.fragment_size} (UEK)")
        if private.reserved or private.tail or any(rest):
            self._say(RESERVED, event, f"{what}: reserved or tail bytes are not zero")
        if private.ack_seq or private.credit:
            self._say(ACK_CREDIT, event, f"{what}: ack_seq {private.ack_seq}, credit {private.credit}")

    def _reply(self, event: CmMessage, body: CmRep) -> None:
        if event.cut or (event.transaction_id, event.dst) in self._unreadable:
            return
        private = event.private
        self._private(event, private, body.private, 0, "reply")
        if body.rnr_retry != RNR_RETRY:
            self._say(PARAMETERS, event, f"RNR retry {body.rnr_retry} in the reply")
        request = self._requests.pop((event.transaction_id, event.dst), None)
        if request is None or request.private is None or private is None or not private.major:
            return
        asked, frame = request.private, request.event.frame
        if not asked.major:
            return
        if not _answers(asked, private):
            text = f"{private.major}.{private.minor} for {asked.major}.{asked.minor} in frame {frame}"
            self._say(ANSWER, event, text)
        if (private.saddr, private.daddr) != (asked.daddr, asked.saddr):
            self._say(ADDRESSES, event, f"reply has {_pair(private)}, the request in frame {frame} {_pair(asked)}")
        if private.tos != asked.tos:
            self._say(TOS, event, f"TOS {private.tos} for {asked.tos} in frame {frame}")

    def _reject(self, event: CmMessage, body: CmRej) -> None:
        reason = RejectReason(body.reason).name if body.reason in list(RejectReason) else str(body.reason)
        text = f"reason {reason}"
        if body.reason == RejectReason.CONSUMER:
            code = reject_code(body.private)
            swapped = int.from_bytes(body.private[:4], "big")
            meaning = {0: "no data", 1: "incompatible version or crossing requests"}.get(code, f"0x{code:08x}")
            if UEK_REFUSED in (code, swapped):
                meaning = "refused by the access list (UEK)"
            text += f": {meaning}"
        self._say(REJECTED, event, text)


def _answers(asked: Private, reply: Private) -> bool:
    if asked.major == 4:
        common = asked.minor_mask & 3
        return reply.major == 4 and reply.minor == max(common.bit_length() - 1, 0)
    return (reply.major, reply.minor) == (asked.major, asked.minor)


def _pair(private: Private) -> str:
    return _texts(private.saddr, private.daddr, len(private.saddr) == 4)


def _texts(source: bytes, destination: bytes, v4: bool) -> str:
    pad = V4_PREFIX if v4 else b""
    size = 4 if v4 else 16
    return " > ".join(address_text(pad + address[-size:]) for address in (source, destination))
