"""The kernel's own RDS, where it is loaded: AF_RDS sockets for Python, and what rds-info shows."""
