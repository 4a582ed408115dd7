"""Frames to packets: the headers of links and networks, read as columns."""
