"""What all command lines share: one-line errors with exit code 2, sizes, key=value overrides."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable
from typing import NoReturn

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UserError(Exception):
    """Something the user got wrong: the text names it, what was expected and what to do, in one line."""


class Parser(argparse.ArgumentParser):
    """argparse with its usual `--help`, but a wrong argument costs one line, not the usage text."""

    def __init__(self, **kwargs: object) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**kwargs)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see --help)\n")


def size(text: str) -> tuple[int, int]:
    """`512x1024` -> (512, 1024): height x width in pixels. For argparse's `type=`."""
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(p.isdecimal() and int(p) > 0 for p in parts):
        raise argparse.ArgumentTypeError(f"'{text}' is not a size; write HEIGHTxWIDTH, for example 512x1024")
    return int(parts[0]), int(parts[1])


def positive(text: str) -> int:
    """A whole number of at least 1. For argparse's `type=`."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a positive whole number")
    return int(text)


def run(main: Callable[[list[str]], int | None]) -> NoReturn:
    """Run a command's `main(argv)` and exit: 0, 2 with one line for a `UserError` or a full disk, 130 after Ctrl-C."""
    try:
        sys.exit(main(sys.argv[1:]) or 0)
    except UserError as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        print(f"error: {error}: make room, or write elsewhere", file=sys.stderr)
        sys.exit(2)
