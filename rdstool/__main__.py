"""Entry point of the command ``rdstool``."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
