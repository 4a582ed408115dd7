"""RDS over TCP port 16385, with the operating system's sockets."""
