"""Runs in a guest with Debian's Python: plain verbs, for what rping does not do.

``python3 verbs_program.py GID_INDEX`` waits for a TCP connection, over which both ends tell each other numbers, keys
and addresses as lines of JSON. Then it adds 7 to the peer's value, swaps it, fails to swap it, and tells what it found;
when the peer answers with a line of its own, it tells what its own memory holds.
"""
# mypy: ignore-errors

from __future__ import annotations

import json
import socket
import struct
import sys

import pyverbs.enums as e
from pyverbs.addr import GID, AHAttr, GlobalRoute
from pyverbs.cq import CQ
from pyverbs.device import Context
from pyverbs.mr import MR
from pyverbs.pd import PD
from pyverbs.qp import QP, QPAttr, QPCap, QPInitAttr
from pyverbs.wr import SGE, SendWR

PORT = 7175
PSN = 0xFFFFFE
ALL = e.IBV_ACCESS_LOCAL_WRITE | e.IBV_ACCESS_REMOTE_READ | e.IBV_ACCESS_REMOTE_WRITE | e.IBV_ACCESS_REMOTE_ATOMIC


class End:
    """A queue pair, its memory, and the completion queue of both."""

    def __init__(self) -> None:
        self.context = Context(name="rxe0")
        self.domain = PD(self.context)
        self.completions = CQ(self.context, 16, None, None, 0)
        self.memory = MR(self.domain, 64, ALL)
        self.memory.write(struct.pack("=Q", 100).ljust(64, b"\0"), 64)
        capabilities = QPCap(8, 8, 1, 1)
        wanted = QPInitAttr(qp_type=e.IBV_QPT_RC, scq=self.completions, rcq=self.completions, cap=capabilities)
        self.pair = QP(self.domain, wanted)

    def join(self, peer: dict, index: int) -> None:
        """Bring the queue pair to RTS."""
        path = GlobalRoute(dgid=GID(peer["gid"]), sgid_index=index)
        wanted = QPAttr(port_num=1)
        wanted.qp_access_flags = ALL
        wanted.ah_attr = AHAttr(gr=path, is_global=1, port_num=1)
        wanted.dest_qp_num, wanted.rq_psn, wanted.sq_psn = peer["number"], peer["psn"], PSN
        wanted.path_mtu = e.IBV_MTU_1024
        wanted.max_dest_rd_atomic = wanted.max_rd_atomic = 4
        wanted.min_rnr_timer, wanted.timeout, wanted.retry_cnt, wanted.rnr_retry = 10, 18, 7, 7
        self.pair.to_rts(wanted)

    def atomic(self, opcode: int, peer: dict, first: int, second: int) -> int:
        """One atomic operation on the peer's memory; the value before."""
        target = SGE(self.memory.buf + 8, 8, self.memory.lkey)
        request = SendWR(sg=[target], num_sge=1, opcode=opcode, send_flags=e.IBV_SEND_SIGNALED)
        request.set_wr_atomic(peer["key"], peer["address"], first, second)
        self.pair.post_send(request)
        done = []
        while not done:
            _, done = self.completions.poll(1)
        if done[0].status:
            raise SystemExit(f"an atomic operation ended with status {done[0].status}")
        return struct.unpack("=Q", self.memory.read(8, 8))[0]


def main() -> None:
    """Do it."""
    end = End()
    with socket.create_server(("", PORT)) as server:
        wire, _ = server.accept()
    with wire, wire.makefile("rw") as lines:

        def tell(**what: object) -> None:
            lines.write(json.dumps(what) + "\n")
            lines.flush()

        tell(number=end.pair.qp_num, psn=PSN, address=end.memory.buf, key=end.memory.rkey)
        peer = json.loads(lines.readline())
        end.join(peer, int(sys.argv[1]))
        tell(ready=True)
        lines.readline()
        found = [end.atomic(e.IBV_WR_ATOMIC_FETCH_AND_ADD, peer, 7, 0)]
        found.append(end.atomic(e.IBV_WR_ATOMIC_CMP_AND_SWP, peer, found[0] + 7, 1 << 40))
        found.append(end.atomic(e.IBV_WR_ATOMIC_CMP_AND_SWP, peer, 5, 6))
        tell(found=found)
        lines.readline()
        tell(value=struct.unpack("=Q", end.memory.read(8, 0))[0])


if __name__ == "__main__":
    main()
