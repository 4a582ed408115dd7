"""Statistics on hand-made traffic."""
