"""InfiniBand below RDS: reliable connections, RDMA and atomics, behind one interface (:mod:`.provider`)."""
