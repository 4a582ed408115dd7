"""Wire formats as declarative tables, and the codecs made from them. Knows no Scapy, files or sockets."""
