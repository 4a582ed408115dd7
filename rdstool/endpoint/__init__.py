"""Speaking RDS: nodes for asyncio programs, and sockets for all others."""
