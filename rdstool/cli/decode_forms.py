"""The forms that ``rdstool decode`` has for messages: which one its options ask for, and what writes it."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto
from typing import TYPE_CHECKING

from rdstool.cli.choices import one_of
from rdstool.errors import UsageError

if TYPE_CHECKING:
    from rdstool.cli.output import Results
    from rdstool.cli.views import FrameLabel, TextView, View
    from rdstool.export.selected import Selected
    from rdstool.export.times import TimeForm


class Form(Enum):
    """What becomes of each message."""

    LINE = auto()
    TREE = auto()
    """All fields, below one another."""
    LINE_AND_DUMP = auto()
    """With a hex dump of its bytes."""
    TREE_AND_DUMP = auto()
    JSON = auto()
    CSV = auto()
    PARQUET = auto()
    """A row of a file, instead of text."""


_DETAILED = {Form.TREE, Form.LINE_AND_DUMP, Form.TREE_AND_DUMP}
_OPTIONS = {Form.JSON: "--json", Form.CSV: "--csv", Form.PARQUET: "--parquet", **dict.fromkeys(_DETAILED, "-V or -x")}
_SEPARATORS = {Form.LINE: "\t", Form.CSV: ",", Form.JSON: None}
"""The forms that chosen fields can have, and what is between two of them."""
TIME_FORMS = ("relative", "epoch", "delta", "utc", "local")
"""Values of ``--time``."""
_TIMED = {Form.LINE, Form.CSV, *_DETAILED}
"""Forms whose times are as the user wants them; the others have seconds since 1970."""


def form_of(*, verbose: bool, dump: bool, json: bool, csv: bool, parquet: bool) -> Form:
    """The form that the options ask for. Raises ``UsageError`` where they ask for two."""
    text = {
        (False, False): Form.LINE,
        (True, False): Form.TREE,
        (False, True): Form.LINE_AND_DUMP,
        (True, True): Form.TREE_AND_DUMP,
    }[verbose, dump]
    given = ((Form.JSON, json), (Form.CSV, csv), (Form.PARQUET, parquet), (text, verbose or dump))
    wanted = [form for form, asked in given if asked]
    if len(wanted) > 1:
        raise UsageError(f"{_OPTIONS[wanted[0]]} and {_OPTIONS[wanted[1]]} exclude each other; take one of them")
    return wanted[0] if wanted else Form.LINE


def check_fields(form: Form) -> None:
    """Raise ``UsageError`` where ``--fields`` has no meaning in this form."""
    if form not in _SEPARATORS:
        raise UsageError(f"--fields and {_OPTIONS[form]} exclude each other; take one of them")


def time_form(form: Form, wanted: str | None, *, only_fields: bool) -> TimeForm:
    """How times are written: as ``--time`` says, or as is usual in this form. Raises ``UsageError``."""
    from rdstool.export.times import TimeForm  # noqa: PLC0415

    if wanted is None:
        return TimeForm.EPOCH if form is Form.CSV else TimeForm.RELATIVE
    one_of("--time", wanted, TIME_FORMS)
    if form not in _TIMED or only_fields:
        raise UsageError("--time is for lines and CSV; all else has seconds since 1970")
    return TimeForm(wanted)


def view_of(form: Form, fields: Sequence[Selected], results: Results, label: FrameLabel | None) -> View:
    """What writes messages in this form of text; only the ``fields``, if there are any.

    ``label`` names the file of each message, for several captures.
    """
    from rdstool.cli import views  # noqa: PLC0415

    if fields:
        return views.FieldsView(fields, _SEPARATORS[form])
    if form is Form.JSON:
        return views.JsonView(label)
    if form is Form.CSV:
        return views.CsvView(label)
    return _text_view(form, results, label)


def _text_view(form: Form, results: Results, label: FrameLabel | None) -> TextView:
    from rdstool.cli.hexdump import HexDump  # noqa: PLC0415
    from rdstool.cli.lines import LineWriter  # noqa: PLC0415
    from rdstool.cli.tree import TreeWriter  # noqa: PLC0415
    from rdstool.cli.views import TextView  # noqa: PLC0415

    return TextView(
        LineWriter(colour=results.colour, unicode=results.unicode),
        TreeWriter(unicode=results.unicode) if form in {Form.TREE, Form.TREE_AND_DUMP} else None,
        HexDump(colour=results.colour) if form in {Form.LINE_AND_DUMP, Form.TREE_AND_DUMP} else None,
        label,
    )
