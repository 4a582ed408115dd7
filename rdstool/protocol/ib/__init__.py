"""RDS over InfiniBand, sans I/O: connections, frames, acknowledgements, credits, RDMA (protocol.md §7, §8)."""
