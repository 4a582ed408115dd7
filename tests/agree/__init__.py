"""Damaged captures, which the native decoder and tshark with the plugin read alike."""
