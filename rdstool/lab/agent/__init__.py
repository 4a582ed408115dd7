"""The process in a guest that does what the host asks: commands, AF_RDS sockets. It imports little: QEMU is slow."""
