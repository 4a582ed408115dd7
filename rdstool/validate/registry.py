"""All rules, in the order of their ids, and the areas that check them."""

from __future__ import annotations

from rdstool.errors import UsageError
from rdstool.validate.check import Check
from rdstool.validate.rule import Rule
from rdstool.validate.rules.acknowledgement import AcknowledgementCheck
from rdstool.validate.rules.app import StressCheck
from rdstool.validate.rules.cm import CmCheck
from rdstool.validate.rules.congestion import CongestionCheck
from rdstool.validate.rules.credit import CreditCheck
from rdstool.validate.rules.delivery.check import DeliveryCheck
from rdstool.validate.rules.extensions import ExtensionCheck
from rdstool.validate.rules.fragments import FragmentCheck
from rdstool.validate.rules.header import HeaderCheck
from rdstool.validate.rules.multipath import MultipathCheck
from rdstool.validate.rules.pongs import PongCheck
from rdstool.validate.rules.rdma import RdmaCheck
from rdstool.validate.rules.retransmission import RetransmissionCheck
from rdstool.validate.rules.sequence import SequenceCheck
from rdstool.validate.rules.socket_paths import SocketPathCheck
from rdstool.validate.rules.tcp import TcpCheck
from rdstool.validate.selection import prefixes

CHECKS: tuple[type[Check], ...] = (
    HeaderCheck,
    ExtensionCheck,
    SequenceCheck,
    RetransmissionCheck,
    AcknowledgementCheck,
    CongestionCheck,
    PongCheck,
    MultipathCheck,
    SocketPathCheck,
    TcpCheck,
    CmCheck,
    FragmentCheck,
    CreditCheck,
    RdmaCheck,
    DeliveryCheck,
    StressCheck,
)
AREAS = {
    "RDS-HDR": "Message header",
    "RDS-EXT": "Extension headers",
    "RDS-SEQ": "Sequence numbers",
    "RDS-RTX": "Retransmission",
    "RDS-ACK": "Acknowledgement (InfiniBand)",
    "RDS-CNG": "Congestion bitmaps",
    "RDS-MPR": "Multipath (TCP)",
    "RDS-TCP": "TCP connections",
    "RDS-DLV": "Delivery over reconnects",
    "RDS-CMR": "Connection set-up by RDMA-CM",
    "RDS-FRG": "Fragments (InfiniBand)",
    "RDS-CRD": "Credit flow control (InfiniBand)",
    "RDS-RDM": "RDMA operations",
    "RDS-APP": "Application protocols",
}
"""Areas in the order of the reference, with their titles."""


def _all() -> tuple[Rule, ...]:
    order = list(AREAS)
    rules = [rule for check in CHECKS for rule in check.rules]
    return tuple(sorted(rules, key=lambda rule: (order.index(rule.area), rule.id)))


RULES = _all()


def rule_of(name: str) -> Rule:
    """The rule of that id, in any case. Raises ``UsageError`` where there is none."""
    for rule in RULES:
        if rule.id == name.strip().upper():
            return rule
    prefixes([name], RULES)
    raise UsageError(f'"{name}" is an area, not a rule; `rdstool validate --rules` lists the rules')
