"""InfiniBand's reliable connections in userspace, over UDP port 4791 (RoCE v2).

Sans-I/O: datagrams and time in, datagrams and events out. :class:`.device.Device` is the whole of it; the sockets
are in :mod:`rdstool.transport.ib.roce_udp`. No memory but registered regions is ever read or written for a peer.

The rules are those of the InfiniBand Architecture vol. 1, chapters 9 (transport) and 12 (communication management)
with Annexes A11 (IP CM header) and A17 (RoCE v2); where it leaves a choice, that of Linux's ``drivers/infiniband``
(``sw/rxe`` and ``core/cm.c``) is taken.
"""
