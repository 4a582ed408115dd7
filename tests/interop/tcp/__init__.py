"""rdstool and real kernels speak RDS over TCP with each other."""
