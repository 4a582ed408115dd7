"""What moves the engine's bytes: TCP, and InfiniBand's reliable connections."""
