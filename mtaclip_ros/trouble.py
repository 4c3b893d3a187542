"""A trouble that lasts: one line in the log when it begins, again every 30 s, and one when it is over."""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.impl.rcutils_logger import RcutilsLogger

_REPEAT = 30.0


class Trouble:
    """Attributes:
    line: what is wrong and what to change, empty while all is well.
    """

    def __init__(self, logger: RcutilsLogger) -> None:
        self._logger = logger
        self._told = 0.0
        self.line = ""

    def report(self, describe: Callable[[], str]) -> None:
        """It is there. `describe` makes the line, and is called only when one is due."""
        now = time.monotonic()
        if not self.line or now - self._told >= _REPEAT:
            self._told = now
            self.line = describe()
            self._logger.warning(self.line)

    def over(self, line: str) -> None:
        """It is not there (any more)."""
        if self.line:
            self.line = ""
            self._logger.info(line)

    def renew(self) -> None:
        """It may have another reason now: the next report is told at once."""
        self._told = float("-inf")

    def forget(self) -> None:
        """It is over without a line, or not looked at any more."""
        self.line = ""
