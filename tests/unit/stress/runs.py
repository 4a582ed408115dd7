"""Runs that several modules of tests play."""

from __future__ import annotations

from dissectors.wire.stress import RdmaMode
from rdstool.stress.parameters import RdmaParameters

RDMA_RUNS = {
    "one use": RdmaParameters(10_000),
    "freed": RdmaParameters(4096, use_once=False, fence=False),
    "registered before": RdmaParameters(100, use_get_mr=True, key_meter=True),
    "kept": RdmaParameters(8192, use_once=False, use_get_mr=True, cache=True, mode=RdmaMode.WRITE_ONLY),
    "vectors": RdmaParameters(2_500, vector=3, mode=RdmaMode.READ_ONLY),
}
