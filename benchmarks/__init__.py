"""Measurements, and the captures that they are made on."""
