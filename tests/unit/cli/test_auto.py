"""``--transport auto``: a listener has both transports, a sender takes the one by which the peer answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.kit.loopback import own_addresses
from tests.unit.cli.background import background
from tests.unit.cli.running import rdstool, rdstool_here


def test_a_listener_hears_both_transports_on_one_port_and_records_both(tmp_path: Path) -> None:
    near, other, far = own_addresses(3)
    file = tmp_path / "heard.pcapng"
    with background("listen", f"{far}:4000", "--transport", "auto", "-c", "2", "--pcap", file, "--json") as listening:
        listening.wait_for("listening on")
        for own, transport in ((near, "tcp"), (other, "ib")):
            sent = rdstool("send", f"{far}:4000", "--from", own, "--transport", transport, "-m", transport)
            assert (sent.returncode, sent.stderr) == (0, "")
        done = listening.end()
    assert done.returncode == 0
    assert [json.loads(line)["source"] for line in done.stdout.splitlines()] == [near, other]
    decoded = rdstool_here("decode", file, "-Y", "rds.kind == data", "--json").stdout.splitlines()
    assert sorted(json.loads(line)["transport"] for line in decoded) == ["ib", "tcp"]


@pytest.mark.parametrize(("there", "taken"), [("tcp", "tcp"), ("ib", "ib"), ("auto", "ib")])
def test_a_sender_takes_the_transport_that_answers_and_infiniband_of_two(there: str, taken: str) -> None:
    near, far = own_addresses(2)
    with background("listen", f"{far}:4000", "--transport", there, "-c", "1") as listening:
        listening.wait_for("listening on")
        sent = rdstool("send", f"{far}:4000", "--from", near, "--transport", "auto", "-m", "hello")
        assert (sent.returncode, sent.stderr) == (0, f"auto: {far} over {taken}\n")
        assert listening.end().returncode == 0


def test_a_ping_takes_the_transport_that_answers() -> None:
    near, far = own_addresses(2)
    with background("listen", f"{far}:4000", "--transport", "ib") as listening:
        listening.wait_for("listening on")
        pinged = rdstool("ping", far, "-I", near, "-c", "1", "--transport", "auto")
    assert pinged.returncode == 0
    assert f"auto: {far} over ib" in pinged.stderr
