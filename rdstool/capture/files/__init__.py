"""Capture files to frames, whatever their format, compression and number."""
