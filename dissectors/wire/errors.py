"""The root of rdstool's exceptions, and the one that codecs raise."""


class RdsError(Exception):
    """Any error that rdstool reports: one line that says what is wrong and what to do."""


class CodecError(RdsError):
    """Bytes that cannot be the header they were read as, or a value that does not fit its field."""
