"""rds-stress of rds-tools 2.0.7, in either role: requests and acks between tasks, each checked (protocol.md §12)."""
