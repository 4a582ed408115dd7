"""What moves the engine's bytes: TCP sockets, or memory between nodes of one process."""
