"""All rules, in the order of their ids, and the areas that check them."""

from __future__ import annotations

from rdstool.errors import UsageError
from rdstool.validate.acknowledgement import AcknowledgementCheck
from rdstool.validate.app import StressCheck
from rdstool.validate.check import Check
from rdstool.validate.cm import CmCheck
from rdstool.validate.congestion import CongestionCheck
from rdstool.validate.credit import CreditCheck
from rdstool.validate.delivery import DeliveryCheck
from rdstool.validate.extensions import ExtensionCheck
from rdstool.validate.fragments import FragmentCheck
from rdstool.validate.header import HeaderCheck
from rdstool.validate.multipath import MultipathCheck
from rdstool.validate.pongs import PongCheck
from rdstool.validate.rdma import RdmaCheck
from rdstool.validate.retransmission import RetransmissionCheck
from rdstool.validate.rule import Rule
from rdstool.validate.selection import prefixes
from rdstool.validate.sequence import SequenceCheck
from rdstool.validate.tcp import TcpCheck

CHECKS: tuple[type[Check], ...] = (
    HeaderCheck,
    ExtensionCheck,
    SequenceCheck,
    RetransmissionCheck,
    AcknowledgementCheck,
    CongestionCheck,
    PongCheck,
    MultipathCheck,
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
