"""Scapy layers for rds-stress: its messages, which RDS recognises by their ports, and its control channel."""

from __future__ import annotations

from scapy.packet import Packet, Raw

from dissectors.layers import WireLayer, fields_of
from dissectors.wire.stress import Op, StressMessage, StressMore, StressOptions, StressVersion


class RDSStress(WireLayer):
    """Begins the payload of every message of rds-stress."""

    name = "rds-stress"
    wire = StressMessage
    fields_desc = fields_of(StressMessage)

    def guess_payload_class(self, payload: bytes) -> type[Packet]:
        """Filling, which ``dissectors.wire.stress.pattern`` gives where the run verifies."""
        return Raw

    def mysummary(self) -> str:
        """What it is, and its number."""
        named = self.op in set(Op)
        return f"rds-stress {Op(self.op).name.lower() if named else f'op {self.op}'} {self.seq}"


class RDSStressOptions(WireLayer):
    """What the active side tells the passive one, from TCP port 4000 on."""

    name = "rds-stress options"
    wire = StressOptions
    fields_desc = fields_of(StressOptions)


class RDSStressVersion(WireLayer):
    """Goes before the options where a type of service follows them."""

    name = "rds-stress version"
    wire = StressVersion
    fields_desc = fields_of(StressVersion)

    def guess_payload_class(self, payload: bytes) -> type[Packet]:
        """Choose the options as the next layer."""
        return RDSStressOptions if RDSStressOptions.fits(payload) else Raw


class RDSStressMore(WireLayer):
    """Follows the options where a version goes before them."""

    name = "rds-stress more options"
    wire = StressMore
    fields_desc = fields_of(StressMore)
