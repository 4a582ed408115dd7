"""What Wireshark starts to offer nodes of rdstool as interfaces: ``python -m rdstool.tshark.extcap``.

It asks with ``--extcap-interfaces`` which there are, and with ``--capture --extcap-interface NAME --fifo FILE`` for the
frames of one; the dialogue is that of Wireshark's manual page extcap(4). Frames are what the node itself exchanges, so
no privileges are needed. It has no capture filter: with ``--extcap-capture-filter`` alone Wireshark asks whether one is
good, and takes what is printed for what is wrong with it.
"""

from __future__ import annotations

import argparse
import select
import signal
import sys
from pathlib import Path
from typing import BinaryIO

from rdstool.endpoint.running import RunningNode, running_nodes, tap
from rdstool.errors import RdsError, TransportError
from rdstool.version import __version__

PREFIX = "rdstool-"
"""What an interface's name begins with. The number of the node's process follows."""
READ_BYTES = 1 << 16
_NO_FILTER = "all frames of a node are captured: use a display filter in place of the capture filter"
ETHERNET = "dlt {number=1}{name=EN10MB}{display=Ethernet}"


def interfaces() -> list[str]:
    """A line about this program, and one for each node that runs."""
    nodes = [
        f"interface {{value={PREFIX}{node.pid}}}{{display=RDS node {', '.join(node.addresses)}}}"
        for node in running_nodes()
    ]
    return [f"extcap {{version={__version__}}}{{display=rdstool}}", *nodes]


def find_node(interface: str) -> RunningNode:
    """The node that an interface stands for. Raises ``TransportError`` where it does not run any more."""
    for node in running_nodes():
        if interface == f"{PREFIX}{node.pid}":
            return node
    raise TransportError(f"{interface} has ended; refresh the list of interfaces (F5)")


def copy(frames: BinaryIO, fifo: BinaryIO) -> None:
    """Hand on frames until the node ends, or nobody reads them any more."""
    waiting = select.poll()
    waiting.register(frames, select.POLLIN)
    waiting.register(fifo, 0)  # tells only that the other side is gone
    while True:
        ready = dict(waiting.poll())
        if fifo.fileno() in ready:
            return
        data = frames.read1(READ_BYTES)  # type: ignore[attr-defined]  # a BufferedReader
        if not data:
            return
        fifo.write(data)


def main(arguments: list[str]) -> int:
    """Answer one question of Wireshark's. Returns 0, or 1 with what is wrong on stderr, which Wireshark shows."""
    parser = argparse.ArgumentParser(prog="rdstool extcap", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--extcap-interfaces", action="store_true")
    parser.add_argument("--extcap-interface", default="")
    parser.add_argument("--extcap-dlts", action="store_true")
    parser.add_argument("--extcap-config", action="store_true")
    parser.add_argument("--capture", action="store_true")
    parser.add_argument("--extcap-capture-filter")
    parser.add_argument("--fifo", type=Path)
    asked, _ = parser.parse_known_args(arguments)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    try:
        if asked.extcap_interfaces:
            sys.stdout.write("".join(f"{line}\n" for line in interfaces()))
        elif asked.extcap_dlts:
            sys.stdout.write(f"{ETHERNET}\n")
        elif asked.capture and asked.fifo is not None:
            if asked.extcap_capture_filter:
                raise TransportError(_NO_FILTER)
            with tap(find_node(asked.extcap_interface)) as frames, asked.fifo.open("wb", buffering=0) as fifo:
                copy(frames, fifo)
        elif asked.extcap_capture_filter is not None:
            sys.stdout.write(f"{_NO_FILTER}\n" if asked.extcap_capture_filter else "")
        elif not asked.extcap_config:
            parser.print_help()
    except (BrokenPipeError, KeyboardInterrupt):
        return 0
    except (RdsError, OSError) as problem:
        sys.stderr.write(f"{problem}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
