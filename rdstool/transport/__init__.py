"""What moves the bytes of the engine: TCP sockets, connections of InfiniBand, or memory within one process."""
