"""What is wrong with a filter, and where."""

from __future__ import annotations

from rdstool.errors import UsageError

EXCERPT_CHARACTERS = 60
"""Characters of a long filter that are shown around the place that is wrong."""


class FilterError(UsageError):
    """A filter that cannot be understood. One line; a caret stands in front of what is wrong."""

    def __init__(self, problem: str, text: str, position: int) -> None:
        start = max(0, position - EXCERPT_CHARACTERS // 2)
        end = start + EXCERPT_CHARACTERS
        excerpt = (
            f"{'...' if start else ''}{text[start:position]}^{text[position:end]}{'...' if end < len(text) else ''}"
        )
        super().__init__(f"filter, column {position + 1}: {problem}: {excerpt}")
        self.problem = problem
        self.position = position
        """Characters in front of what is wrong."""
