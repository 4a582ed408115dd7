"""What the kernel's RDS does, as pure functions and state machines: bytes and time in, bytes and events out."""
