"""Entry point of the `rfctl` script. It imports next to nothing, so that Ctrl-C finds it ready."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # typing takes longer to import than this module to run
if TYPE_CHECKING:
    from typing import Never

EXIT_INTERRUPTED = 130


def run(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code. Never returns.

    While modules are imported, and again when all is done, Ctrl-C ends the process at once and in silence: an
    exception there would be a traceback out of the middle of an import. In between a command answers it.
    """
    try:
        import signal

        answers = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if answers:
            signal.signal(signal.SIGINT, _leave)
        from rfctl.cli.root import execute

        if answers:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        code = execute(sys.argv[1:] if arguments is None else arguments)
        if answers:
            signal.signal(signal.SIGINT, _leave)
    except KeyboardInterrupt:
        _leave()
    sys.exit(code)


def execute(arguments: list[str]) -> int:
    """Run one command line inside this process and return its exit code."""
    from rfctl.cli.root import execute

    return execute(arguments)


def _leave(number: int = 0, frame: object = None) -> Never:
    os._exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    run()
