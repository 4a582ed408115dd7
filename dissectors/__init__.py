"""What is on the wire: field tables, codecs made from them, and Scapy layers on top.

``dissectors.wire`` holds the tables and the ``struct`` codecs and imports no Scapy.
``dissectors.rds``, ``dissectors.infiniband`` and ``dissectors.cm`` are Scapy layers for
people: ``from dissectors.rds import RDS`` works in plain Scapy.
"""
