"""Captures with something missing give no finding that the whole capture does not give."""
