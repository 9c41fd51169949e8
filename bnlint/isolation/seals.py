"""Seals: the mark of what bnlint itself says, which the checked code in the same process does not have at hand.

That code may write to any descriptor that is open. What it writes there must neither pass for an answer nor spoil one.
"""

from __future__ import annotations

import json
import os
from typing import Any


class Seal:
    """A secret that stands before every line of one sender, with the length of the line."""

    def __init__(self, secret: str | None = None) -> None:
        self.secret = secret or os.urandom(16).hex()
        self._start = self.secret.encode() + b" "

    def on(self, message: Any, /, dumps: Any = json.dumps, default: Any = str) -> bytes:
        """The line that says a message."""
        text = dumps(message, default=default).encode()
        return b"%s%d %s\n" % (self._start, len(text), text)

    def is_on(self, beginning: bytes | bytearray) -> bool:
        """Whether a line that begins like this may bear the seal."""
        length = len(self._start)
        return beginning[:length] == self._start[: len(beginning)]

    def off(self, line: bytes | bytearray) -> bytes | None:
        """The message of a whole line, None where it is not as it was sealed."""
        if not line.startswith(self._start):
            return None
        length, _, text = bytes(line[len(self._start) :]).partition(b" ")
        return text if length == b"%d" % len(text) else None
