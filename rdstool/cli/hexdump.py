"""Bytes in hexadecimal, each header field in a colour of its own, with a legend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dissectors.wire.extensions import EXTENSION_BYTES, TYPE_OF, parse_extensions
from dissectors.wire.rds import HEADER_BYTES, RDS_HEADER
from dissectors.wire.table import table_of

ROW_BYTES = 16
_COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "bright_cyan", "bright_green", "bright_yellow", "bright_red")
_PAYLOAD_COLOUR = "default"


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes that belong to one field."""

    start: int
    end: int
    name: str
    colour: str

    @property
    def place(self) -> str:
        """``8-15``, or ``24`` for a single byte."""
        return f"{self.start}-{self.end - 1}" if self.end - self.start > 1 else str(self.start)


def header_spans(header: bytes) -> list[Span]:
    """The fields of an RDS header, its extension headers one by one."""
    fields = [(row.offset, row.offset + row.size, f"rds.{row.name}") for row in RDS_HEADER.table.fields]
    start, _, name = fields.pop()
    at = start
    for item in parse_extensions(header[start : start + EXTENSION_BYTES]).items:
        kind = TYPE_OF.get(type(item))
        size = 1 + (table_of(type(item)).size if kind is not None else 0)
        fields.append((at, at + size, f"{name} {kind.name if kind is not None else 'unknown'}"))
        at += size
    if at < HEADER_BYTES:
        fields.append((at, HEADER_BYTES, f"{name} unused"))
    return [Span(*field, _COLOURS[index % len(_COLOURS)]) for index, field in enumerate(fields)]


class HexDump:
    """Writes hex dumps, in colour or plain."""

    def __init__(self, *, colour: bool) -> None:
        self._starts: dict[str, str] = {}
        if colour:
            from rich.color import ColorSystem  # noqa: PLC0415
            from rich.style import Style  # noqa: PLC0415

            for name in _COLOURS:
                painted = Style(color=name).render("|", color_system=ColorSystem.STANDARD)
                self._starts[name] = painted[: painted.index("|")]

    def message(self, header: bytes, payload: bytes | None) -> str:
        """Header with its legend, then the payload bytes that were seen; ends with an empty line."""
        spans = header_spans(header)
        lines = [*self._rows(header, spans, 0), f"      {self._legend(spans)}"]
        if payload:
            lines.extend(self._rows(payload, (), HEADER_BYTES))
        return "\n".join(lines) + "\n\n"

    def _legend(self, spans: Sequence[Span]) -> str:
        return "  ".join(self._painted(f"{span.place} {span.name}", span.colour) for span in spans)

    def _painted(self, text: str, colour: str) -> str:
        start = self._starts.get(colour)
        return f"{start}{text}\x1b[0m" if start else text

    def _rows(self, data: bytes, spans: Sequence[Span], base: int) -> Iterator[str]:
        """Rows of 16 bytes; offsets count from the first byte of the header."""
        colours = [_PAYLOAD_COLOUR] * len(data) if spans and self._starts else []
        for span in spans if colours else ():
            colours[span.start : span.end] = [span.colour] * (span.end - span.start)
        for at in range(0, len(data), ROW_BYTES):
            part = data[at : at + ROW_BYTES]
            if colours:
                digits = " ".join(self._painted(f"{byte:02x}", colours[at + n]) for n, byte in enumerate(part))
                digits += "   " * (ROW_BYTES - len(part))
            else:
                digits = f"{part.hex(' '):<{ROW_BYTES * 3 - 1}}"
            text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
            yield f"{base + at:06x}  {digits}  {text}"
