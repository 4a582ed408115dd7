"""Wireshark's tshark beside rdstool: the plugin put where it looks, its reading of a capture, and live captures."""
