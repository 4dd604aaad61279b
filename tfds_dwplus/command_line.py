"""What all commands share: one line for an error, a progress line, files that are whole or not there, the exit codes.

0 done; 2 wrong usage or input, with one line `error: ...` on stderr; 130 stopped by Ctrl-C; 143 by SIGTERM.
"""

import argparse
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from tqdm import tqdm


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line; `example` stands at the end of --help."""

    def __init__(self, description: str, example: str) -> None:
        super().__init__(
            description=description,
            epilog=f"example: {example}",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Ends the program with one line."""
        self.exit(2, f"error: {message}; see --help\n")


def run(main: Callable[[list[str]], None]) -> NoReturn:
    """Runs a command on the process's arguments and exits as the commands promise."""
    signal.signal(signal.SIGTERM, _terminate)
    threading.excepthook = _note_of_thread
    # TFDS prints whole configs as warnings, Orbax every step of a save.
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        main(sys.argv[1:])
    except ValueError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)


def progress(**settings: Any) -> tqdm:
    """A progress line with tqdm's settings: redrawn in a terminal, a line now and then in a log file."""
    return tqdm(mininterval=0.2 if sys.stderr.isatty() else 10.0, **settings)


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes that name once all is written, and is gone where that fails.

    Raises:
        OSError: the disk is full or the like; its `filename` is `path`.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        if error.errno:  # else it has a text of its own, which a name would replace
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def _terminate(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


def _note_of_thread(failed: threading.ExceptHookArgs) -> None:
    """A line for a thread that could not read or write, such as TensorBoard's on a full disk; the main thread goes on."""
    if isinstance(failed.exc_value, OSError):
        print(f"note: {failed.exc_value}", file=sys.stderr)
    else:
        threading.__excepthook__(failed)


def _fail(message: str) -> NoReturn:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(2)
