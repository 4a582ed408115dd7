"""RDS-DLV: what becomes of messages when a connection is cut and made again."""
