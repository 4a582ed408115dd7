"""Options that would have no effect are refused, in one line that says where they belong."""

from __future__ import annotations

import pytest

from tests.unit.cli.running import rdstool_here

NO_EFFECT = [
    ("lua export --directory X", "--directory is for install, uninstall and status; export writes into -o DIR"),
    ("lua export --extcap X", "--extcap is for install and uninstall"),
    ("lua export --force", "--force is for files: name their directory with -o DIR"),
    ("lua status --force", "--force is for export, install and uninstall"),
    ("lua status --extcap X", "--extcap is for install and uninstall"),
    ("lua install -o X", "-o is for export; install takes --directory DIR"),
    ("lua status -o X", "-o is for export; status takes --directory DIR"),
    ("validate --explain RDS-SEQ-002 a.pcap", "--explain reads no captures: leave them out"),
    ("validate --rules a.pcap", "--rules reads no captures: leave them out"),
    ("validate --explain RDS-SEQ-002 --rules", "--explain and --rules exclude each other; take one of them"),
    ("validate --explain RDS-SEQ-002 --select RDS-DLV", "--explain names its rules: leave out --select and --ignore"),
    ("validate --explain RDS-SEQ-002 --ignore RDS-DLV", "--explain names its rules: leave out --select and --ignore"),
    ("send 127.0.0.1 --size 1M", "--size is for made-up messages: add --count N"),
    ("send 127.0.0.1 -m hello --pattern zeros", "--pattern is for made-up messages: add --count N"),
    ("send 127.0.0.1 -f x --distribution log", "--distribution is for made-up messages: add --count N"),
    ("send 127.0.0.1 --seed 0", "--seed is for made-up messages: add --count N"),
    ("send 127.0.0.1 -c 3 --distribution log", "--distribution log: one size has none; write --size MIN-MAX"),
    ("send 127.0.0.1 -f - -f -", "--file -: standard input can be read only once; name it once"),
    ("rdma atomic ::1 1 --add 1 --compare-mask 1", "--compare-mask is for --compare and --swap"),
    ("rdma atomic ::1 1 --add 1 --swap-mask 1", "--swap-mask is for --compare and --swap"),
    ("rdma atomic ::1 1 --compare 1 --swap 2 --nocarry-mask 3", "--nocarry-mask is for --add"),
    ("stress -s 127.0.0.1 -M 1", "-M is for RDMA: add --rdma-bytes BYTES"),
    ("stress -s 127.0.0.1 -I 2 --rdma-cache-mrs 1", "-I is for RDMA: add --rdma-bytes BYTES"),
    ("stress -r 127.0.0.1 --rdma-key-o-meter", "--rdma-key-o-meter is for RDMA: add --rdma-bytes BYTES"),
    ("craft --list garbage", "--list lists what comes with rdstool: leave the scenarios out, or see --show"),
    ("craft --list --show", "--list and --show exclude each other; take one of them"),
    ("craft --list --format junit", "--format junit is for verdicts; scenarios are listed as text or json"),
    ("craft --show garbage --json", "--show prints scenarios as they are: leave out --format and --json"),
    ("craft --show all", "'all' stands for what fits two addresses: name the scenarios to show"),
    ("craft all garbage --to ::1", "'all' stands for every scenario that fits: name no other beside it"),
    ("craft garbage --to ::1 --json --quiet", "--quiet is for text: leave it out, or --format json"),
    ("craft garbage --to ::1 --format junit -q", "--quiet is for text: leave it out, or --format junit"),
    ("lab fetch a --image i --modules m --again", "--again is for downloads: leave it out, or --image"),
    ("lab fetch a --image i --modules m --mirror x:", "--mirror is for downloads: leave it out, or --image"),
    ("crosscheck -", "crosscheck reads each capture twice: name a file instead of -"),
    ("crosscheck a.pcap -", "crosscheck reads each capture twice: name a file instead of -"),
    ("send 127.0.0.1 -m x --transport ib --paths 4", "--paths is for TCP: InfiniBand has no more than one"),
    ("ping 127.0.0.1 -c 1 --transport ib --paths 4", "--paths is for TCP: InfiniBand has no more than one"),
    ("listen 127.0.0.1 --transport ib --paths 4", "--paths is for TCP: InfiniBand has no more than one"),
    ("stress -r 127.0.0.1 --transport ib --paths 4", "--paths is for TCP: InfiniBand has no more than one"),
]


@pytest.mark.parametrize(("arguments", "told"), NO_EFFECT, ids=[arguments for arguments, _ in NO_EFFECT])
def test_an_option_without_effect_is_refused(arguments: str, told: str) -> None:
    done = rdstool_here(*arguments.split())
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"rdstool: error: {told}\n")


def test_a_plugin_is_exported_to_standard_output_by_its_usual_name() -> None:
    assert rdstool_here("lua", "export", "-o", "-").stdout == rdstool_here("lua", "export").stdout != ""
