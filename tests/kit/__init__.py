"""Captures made by hand: conversations as scripts that tests edit, rendered to pcap files."""
