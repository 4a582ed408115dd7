"""Limits that commands name too, in a module that costs nothing to import."""

from __future__ import annotations

MAX_PROCESSES = 8
"""Processes that share the work at most: each takes memory, and more would wait for the one that orders all."""
