"""Decode through tshark and the plugin, by way of pyshark: a second opinion, in the form of the native decoder's."""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

from rdstool.capture.columns import NS_PER_S, MessageBatch
from rdstool.capture.decoding import CaptureOptions, Decoded
from rdstool.capture.files.source import STANDARD_INPUT
from rdstool.capture.merge import Merger
from rdstool.capture.pipeline import Capture
from rdstool.capture.streams import StreamTable
from rdstool.capture.tcp.paths import PathMap
from rdstool.errors import CaptureError, TsharkError, UsageError
from rdstool.export.lua import PLUGIN_FILE, plugin_text
from rdstool.tshark.program import Tshark, find_tshark
from rdstool.tshark.records import LAYERS, Records
from rdstool.version import __version__

SHOWN = "rds || rds.stream.event || rds_cm || rds_rdma || (rds_part && _ws.expert)"
"""Display filter for frames that the plugin has something to say about."""
_NO_PLUGIN = "rds.settle:TRUE"
"""In what tshark says of the preferences that it does not know."""
INSTALL_PYSHARK = "pip install 'rdstool[tshark]'"
_NOT_IN_XML = bytes(set(range(0x20)) - set(b"\t\n\r"))
_NO_CHARACTERS = ("\ufffe".encode(), "\uffff".encode())
"""XML has no place for these either."""


class TsharkCapture(Capture):
    """A capture as tshark reads it. The plugin is that of this rdstool, whichever the user has installed.

    Raises ``UsageError`` where it is not one file, ``CaptureError`` where there is no such file, and ``TsharkError``
    where there is no tshark that can do it.
    """

    counts_frames = False

    def __init__(self, paths: Sequence[str], options: CaptureOptions, tshark: Tshark | None = None) -> None:
        if len(paths) != 1 or paths[0] == STANDARD_INPUT or options.follow:
            raise UsageError("--engine tshark reads one file, not several, standard input or a growing one")
        if options.tcp_checksums:
            raise UsageError("--tcp-checksums is for the native engine; the plugin takes segments as they are")
        if not Path(paths[0]).is_file():
            raise CaptureError(f"{paths[0]}: there is no such file")
        super().__init__(paths, options)
        self.findings: Counter[tuple[int, str]] = Counter()
        """(frame, rule) -> how often the plugin tells that it is broken there; complete once all was read."""
        self._tshark = tshark or find_tshark()

    @property
    def size(self) -> int | None:
        """None: tshark tells of no progress."""
        return None

    def batches(self) -> Iterator[Decoded]:
        """Everything in one batch: tshark's messages are in the order in which it could tell them.

        Raises ``CaptureError`` where tshark cannot read the file, ``TsharkError`` where it fails otherwise.
        """
        self.streams = StreamTable()
        records = Records(self.streams, self.options.payloads, self.options.digests)
        with tempfile.TemporaryDirectory(prefix="rdstool-") as directory:
            self._read(records, Path(directory))
        self.findings = records.findings
        self._complete_times(records)
        part = Merger().merge([records.part()], None)
        paths = PathMap(self.streams)
        paths.observe(part.rows, part.events)
        for row in part.rows:
            row["path"] = self.streams[int(row["stream"])].path
        yield Decoded(MessageBatch(part.rows, part.payloads, part.digests, part.rdma), part.acks, part.events)

    def _read(self, records: Records, home: Path) -> None:
        """Have tshark read the file, with ``home`` for the user's directory, and take what the plugin shows."""
        scripts = _scripts(self._tshark, home)
        ports = ",".join(map(str, sorted(self.options.tcp_ports)))
        loop = asyncio.new_event_loop()
        capture = _patient_capture(self._tshark, home)(
            self.paths[0],
            keep_packets=False,
            override_prefs={"rds.settle": "TRUE", "rds.tcp_ports": ports},
            custom_parameters=["-2", *_loading(scripts), "-Y", SHOWN, "-J", " ".join(("frame", *LAYERS))],
            eventloop=loop,
        )
        try:
            for packet in capture:
                frame = int(packet.number)
                time = records.times[frame] = _nanoseconds(packet.sniff_timestamp)
                if self.streams.began is None:
                    self.streams.began = time - _nanoseconds(packet.frame_info.time_relative)
                for layer in packet.layers:
                    if layer.layer_name in LAYERS:
                        records.add(layer.layer_name, _values(layer), frame)
            capture.close()
        finally:
            loop.run_until_complete(capture.give_up())
            loop.close()
        if _NO_PLUGIN in capture.complaint:
            how = "have root's tshark load the plugin with those of all users: rdstool lua install"
            raise TsharkError(f"{self._tshark.path} has loaded no plugin; {how}")
        if capture.status:
            raise CaptureError(f"{self.paths[0]}: tshark says: {capture.complaint}")

    def _complete_times(self, records: Records) -> None:
        """Times of frames that messages name, though what tells of these stands in later frames."""
        missing = records.wanted - records.times.keys()
        if not missing:
            return
        command = [self._tshark.path, "-n", "-r", self.paths[0], "-T", "fields"]
        command += ["-e", "frame.number", "-e", "frame.time_epoch"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - the user's tshark
        for line in done.stdout.splitlines():
            number, _, time = line.partition("\t")
            if int(number) in missing:
                records.times[int(number)] = _nanoseconds(time)
        if records.wanted - records.times.keys():
            raise TsharkError(f"{self.paths[0]}: tshark does not tell the times of all frames")


def _scripts(tshark: Tshark, home: Path) -> list[Path]:
    """What tshark is to load beside the plugins of all users: the plugin of this rdstool, written to ``home``.

    Raises ``TsharkError`` where it would take the plugin of another rdstool all the same.
    """
    text = plugin_text(__version__)
    shared = tshark.shared / PLUGIN_FILE
    if not shared.exists():
        script = home / PLUGIN_FILE
        script.write_text(text, "utf-8")
        return [script]
    if shared.read_text("utf-8", "replace") != text:
        replace = f"sudo rdstool lua install --force --directory {shlex.quote(str(tshark.shared))}"
        raise TsharkError(f"{shared} is not the plugin of this rdstool, {__version__}; to replace it: {replace}")
    return []


def _loading(scripts: Sequence[Path]) -> list[str]:
    return [part for script in scripts for part in ("-X", f"lua_script:{script}")]


def _patient_capture(tshark: Tshark, home: Path) -> Any:
    """A ``FileCapture`` of pyshark that runs this tshark for a user whose home is ``home``, where nothing is his own.

    It tells the exit status of tshark: pyshark would kill a tshark that is about to end.
    """
    try:
        import lxml.objectify  # type: ignore[import-untyped]  # noqa: PLC0415 - what pyshark reads XML with
        import pyshark  # type: ignore[import-untyped]  # noqa: PLC0415 - an extra, and slow to import
        from pyshark.tshark.output_parser.tshark_xml import TsharkXmlParser  # type: ignore[import-untyped]  # noqa: PLC0415
    except ImportError as problem:
        raise TsharkError(f"--engine tshark needs pyshark; install it: {INSTALL_PYSHARK}") from problem

    parser = lxml.objectify.makeparser(huge_tree=True, recover=True, encoding="utf-8")

    class LegalXml(TsharkXmlParser):  # type: ignore[misc]
        """Takes out by bytes what XML may not have; pyshark does so by characters, which is a third of all its time."""

        def _parse_single_packet(self, packet: bytes) -> Any:
            return super()._parse_single_packet(lxml.objectify.fromstring(_legal(packet), parser))

    class PatientCapture(pyshark.FileCapture):  # type: ignore[misc]
        """Waits for tshark to end."""

        status = 0
        complaint = ""

        async def _get_tshark_process(self, packet_count: int | None = None, stdin: Any = None) -> Any:
            # Wireshark has no option for another home directory, pyshark none for another environment.
            parameters = [tshark.path, "-l", "-n", "-T", "pdml", *self.get_parameters(packet_count=packet_count)]
            process = await asyncio.create_subprocess_exec(
                *parameters,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, "HOME": str(home), "XDG_CONFIG_HOME": str(home)},
            )
            self._create_stderr_handling_task(process.stderr)
            self._created_new_process(parameters, process)
            return process

        def _setup_tshark_output_parser(self) -> LegalXml:
            return LegalXml()

        async def _cleanup_subprocess(self, process: Any) -> None:
            if self._eof_reached:
                self.status = await process.wait()
                await asyncio.gather(*self._stderr_handling_tasks)
                self.complaint = str(self._last_error_line or "nothing").removeprefix("tshark: ")
            else:
                with suppress(ProcessLookupError):
                    process.kill()
                # asyncio tells of a process's end only when all that it wrote was read; Ctrl-C leaves a read waiting.
                waiting = asyncio.all_tasks() - {asyncio.current_task()}
                for task in waiting:
                    task.cancel()
                await asyncio.gather(*waiting, return_exceptions=True)
                await process.stdout.read()
                await process.wait()
            self._running_processes.discard(process)

        async def give_up(self) -> None:
            """End a tshark that still runs."""
            for process in tuple(self._running_processes):
                await self._cleanup_subprocess(process)

    return PatientCapture


def _legal(text: bytes) -> bytes:
    """XML without bytes that are no UTF-8, and without characters that it may not have."""
    text = text.translate(None, _NOT_IN_XML).decode(errors="ignore").encode()
    for character in _NO_CHARACTERS:
        text = text.replace(character, b"")
    return text


def _values(layer: Any) -> dict[str, list[Any]]:
    return {name: list(layer.get_field(name).all_fields) for name in layer._all_fields}


def _nanoseconds(text: str) -> int:
    return int(Decimal(text) * NS_PER_S)
