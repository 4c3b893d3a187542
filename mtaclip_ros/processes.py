"""Child processes that end with their parent, and are asked before they are killed."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO

STDERR = 2
_ENDING = {signal.SIGINT, signal.SIGTERM}
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_DOMAINS = range(1, 102)  # those whose ports lie below Linux's ephemeral ones
_PORT_BASE, _PORTS_PER_DOMAIN, _UNICAST = 7400, 250, 10  # DDS-RTPS 9.6.2


@contextmanager
def child(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    stdout: int | IO[bytes] = STDERR,
    stderr: int | IO[bytes] = STDERR,
    patience: float = 5.0,
) -> Iterator[subprocess.Popen]:
    """Run a command for the length of a block; afterwards it has ended: by itself, by SIGTERM or by SIGKILL.

    It has a session of its own, so that Ctrl-C reaches the parent only, which then ends its children in order.

    Args:
        stdout, stderr: where they go; both to the parent's stderr, whose stdout is for its own result.
        patience: seconds it has to end after SIGTERM.
    """
    # A signal while the process is made would leave it running and unknown: it waits until we can end it.
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        process = subprocess.Popen(
            list(command),
            env=None if env is None else dict(env),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            preexec_fn=_begin,
        )
    except OSError:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
        raise
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
        yield process
    finally:
        stop(process, patience)


def stop(process: subprocess.Popen, patience: float = 5.0) -> int:
    """End a process, gently first; returns its exit status."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            break
        process.send_signal(number)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue
    return process.wait()


def exit_on_sigterm() -> None:
    """Have SIGTERM end this process as an exit does, through every `finally`, in silence; status 143.

    Ours is asked so, not by SIGINT: one that still imports its modules dies at once then, without a traceback.
    """

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)


def free_domain() -> int:
    """A ROS_DOMAIN_ID in 1..101 on which no DDS participant of this machine listens now."""
    start = os.getpid() % len(_DOMAINS)
    for domain in [*_DOMAINS[start:], *_DOMAINS[:start]]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("", _PORT_BASE + _PORTS_PER_DOMAIN * domain + _UNICAST))
            except OSError:
                continue
            return domain
    return _DOMAINS[start]


def die_with_parent() -> None:
    """Have the kernel end this process when its parent ends in whatever way (Linux; elsewhere nothing happens)."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _begin() -> None:
    die_with_parent()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
