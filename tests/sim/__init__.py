"""Nodes of the engine on a simulated network with faults: same seed, same story."""
