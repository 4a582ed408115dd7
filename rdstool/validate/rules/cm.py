"""RDS-CMR: looks for the messages of RDMA-CM, which most captures have none of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdstool.capture.events import CmMessage
from rdstool.validate.check import Batch, Check, Context
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

if TYPE_CHECKING:
    from rdstool.validate.rules.cm_exchange import CmExchange


class CmCheck(Check):
    """Looks at RDMA-CM messages of RDS."""

    rules = (
        SERVICE,
        IP_HEADER,
        PRIVATE,
        VERSION,
        ANSWER,
        ADDRESSES,
        TOS,
        RESERVED,
        ACK_CREDIT,
        PARAMETERS,
        REJECTED,
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._exchange: CmExchange | None = None

    def feed(self, batch: Batch) -> None:
        """CM messages are events."""
        for event in batch.view.decoded.events:
            if isinstance(event, CmMessage):
                if self._exchange is None:
                    from rdstool.validate.rules.cm_exchange import CmExchange  # noqa: PLC0415 - most captures have none

                    self._exchange = CmExchange(self.report)
                self._exchange.message(event)
