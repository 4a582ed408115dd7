"""rdstool: protocol analyzer and traffic generator for RDS (Reliable Datagram Sockets, Linux AF_RDS)."""

__version__ = "0.1.0"
