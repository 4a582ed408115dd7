"""InfiniBand packets to RDS messages and RDMA operations."""
