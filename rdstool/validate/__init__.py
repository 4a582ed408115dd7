"""Rules of the protocol, each with a stable id, checked on decoded messages; a hole in a capture is never a fault."""
