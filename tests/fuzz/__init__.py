"""Damaged captures for the command line: `python -m tests.fuzz`, or `make fuzz SECONDS=600`."""
