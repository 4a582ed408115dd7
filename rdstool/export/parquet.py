"""Messages as a Parquet file, written in row groups so that memory does not grow with the capture."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from rdstool.capture.columns import ChecksumStatus, Ints
from rdstool.errors import UsageError
from rdstool.export.parts import by_stream, by_value, extension_object, flag_names, sparse
from rdstool.field_columns import MessageColumns
from rdstool.protocol.kinds import MessageKind, Transport

ROW_GROUP_ROWS = 1 << 16
"""Messages in one row group."""
_NUMBERS = {
    "sequence": "uint64",
    "ack": "uint64",
    "length": "uint32",
    "sport": "uint16",
    "dport": "uint16",
    "credit": "uint8",
    "checksum": "uint16",
}


class ParquetFile:
    """Takes batches of messages for a file or stream; it is whole after :meth:`close`.

    A file that exists is replaced only by a whole one; what is no file, such as a FIFO, is written to as it is.
    Raises ``UsageError`` without pyarrow, and where the file cannot be made.
    """

    def __init__(self, out: Path | BinaryIO) -> None:
        try:
            import pyarrow  # noqa: PLC0415
            import pyarrow.parquet  # noqa: PLC0415
        except ImportError:
            raise UsageError("--parquet needs pyarrow, install it with: pip install 'rdstool[parquet]'") from None
        self._arrow: Any = pyarrow
        self._waiting: list[Any] = []
        self._rows = 0
        self._empty = True
        self._schema = self._make_schema()
        self._own = isinstance(out, Path)
        self._file, self._move = _opened(out)
        self._writer: Any = pyarrow.parquet.ParquetWriter(self._file, self._schema, compression="zstd")

    def _make_schema(self) -> Any:
        arrow = self._arrow
        label = arrow.dictionary(arrow.int32(), arrow.string())
        return arrow.schema(
            [
                ("number", arrow.int64()),
                ("frame", arrow.int64()),
                ("time", arrow.timestamp("ns", tz="UTC")),
                ("transport", label),
                ("src", label),
                ("dst", label),
                ("stream", arrow.int32()),
                ("path", arrow.int8()),
                ("kind", label),
                *((name, getattr(arrow, width)()) for name, width in _NUMBERS.items()),
                ("flags", label),
                ("checksum_status", label),
                ("extensions", arrow.string()),
                ("fragments", arrow.int32()),
                ("seen", arrow.int64()),
                ("complete", arrow.bool_()),
                ("sha256", arrow.string()),
            ]
        )

    def write(self, columns: MessageColumns, keep: Ints) -> None:
        """Add the rows ``keep``."""
        if not len(keep):
            return
        rows = columns.batch.rows[keep]
        header = rows["header"]
        extensions = [
            (row, json.dumps([extension_object(item) for item in parsed.items])) for row, parsed in columns.extensions()
        ]
        transports = {int(transport): transport.label for transport in Transport}
        values: dict[str, Any] = {
            **{name: np.ascontiguousarray(rows[name]) for name in ("number", "frame", "stream", "fragments", "seen")},
            **{name: header[name].astype(width) for name, width in _NUMBERS.items()},
            "time": rows["time"].astype("M8[ns]"),
            "complete": np.ascontiguousarray(rows["complete"]),
            "transport": by_value(rows["transport"], lambda transport: transports[transport]),
            "src": by_stream(columns, keep, lambda stream, direction: stream.ends(direction)[0].host),
            "dst": by_stream(columns, keep, lambda stream, direction: stream.ends(direction)[1].host),
            "kind": by_value(rows["kind"], lambda kind: MessageKind(kind).label),
            "flags": by_value(header["flags"], lambda flags: "|".join(flag_names(flags))),
            "checksum_status": by_value(rows["checksum_status"], lambda status: ChecksumStatus.LABELS[status]),
            "extensions": sparse(len(keep), keep, columns.count, extensions, "[]"),
        }
        arrays = []
        for name, kind in zip(self._schema.names, self._schema.types, strict=True):
            if name == "path":
                array = self._arrow.array(np.ascontiguousarray(rows["path"]), kind, mask=rows["path"] < 0)
            elif name == "sha256":
                array = self._arrow.array([columns.batch.digests.get(row) for row in keep.tolist()], kind)
            elif self._arrow.types.is_dictionary(kind):
                array = self._arrow.array(values[name], self._arrow.string()).dictionary_encode()
            else:
                array = self._arrow.array(values[name], kind)
            arrays.append(array)
        self._waiting.append(self._arrow.Table.from_arrays(arrays, schema=self._schema))
        self._rows += len(keep)
        self._empty = False
        if self._rows >= ROW_GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            table = self._arrow.concat_tables(self._waiting).unify_dictionaries()
            self._writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
        self._waiting, self._rows = [], 0

    def close(self) -> None:
        """Write what waits, and the end of the file. Raises ``OSError`` where it takes no more; it is gone then."""
        try:
            self._flush()
            self._writer.close()
            self._file.flush()
        except OSError:
            self._give_up()
            raise
        if self._own:
            self._file.close()
        if self._move is not None:
            self._move.part.replace(self._move.whole)

    def _give_up(self) -> None:
        self._writer.is_open = False  # or it would try once more when it is deleted
        if self._own:
            with suppress(OSError):
                self._file.close()
        if self._move is not None:
            self._move.part.unlink()

    def __enter__(self) -> ParquetFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or not (self._empty or issubclass(kind, OSError)):
            self.close()
        else:
            self._give_up()


class _Move(NamedTuple):
    """A file that is renamed once it is whole."""

    part: Path
    """Its name until then."""
    whole: Path


def _opened(out: Path | BinaryIO) -> tuple[BinaryIO, _Move | None]:
    """What is written to, and how it is renamed in the end: only a file is, and no FIFO or stream."""
    if not isinstance(out, Path):
        return out, None
    move = _Move(out.with_name(out.name + ".part"), out) if out.is_file() or not out.exists() else None
    try:
        return (move.part if move else out).open("wb"), move
    except OSError as problem:
        raise UsageError(f"{out}: {problem.strerror}; name another file for --parquet") from problem
