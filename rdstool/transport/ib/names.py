"""The providers of InfiniBand, by the names that users choose them with."""

from __future__ import annotations

ROCE = "roce"
"""RoCE v2 in this process, over UDP, without a device."""
VERBS = "verbs"
"""A device of this machine, with pyverbs."""
PROVIDERS = (ROCE, VERBS)
"""The first is the usual one."""
