"""Functions that all commands share: arguments, error lines, exit codes and progress bars.

Exit codes: 0 success; 2 wrong usage or input, with one line `error: ...` on stderr; 130 stopped by Ctrl-C; 143 by SIGTERM.
"""

import argparse
import atexit
import contextlib
import logging
import multiprocessing
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from tqdm import tqdm

from tfds_dwplus.files import buckets
from tfds_dwplus.files.addresses import ShownStream, shown


class Parser(argparse.ArgumentParser):
    """An argument parser that prints errors in one line and ends --help with an example."""

    def __init__(self, description: str, example: str) -> None:
        super().__init__(
            description=description,
            epilog=f"example: {example}",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Prints one line and exits with code 2."""
        self.exit(2, f"error: {message}; see --help\n")


def run(main: Callable[[list[str]], None]) -> NoReturn:
    """Runs a command with the arguments of the process and exits with one of the codes above."""
    signal.signal(signal.SIGTERM, _stop)
    # Where Ctrl-C is ignored, as for jobs of a script, it stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)
    sys.stdout, sys.stderr = ShownStream(sys.stdout), ShownStream(sys.stderr)
    threading.excepthook, sys.excepthook = _report_thread_error, _report_error
    sys.unraisablehook = _report_unraisable
    # TFDS logs whole configs as warnings. Orbax logs every step of a save, and of one that failed a traceback from each of its
    # threads; it also raises the error, which then is told in a line.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    # As Python does, for each of its tasks that failed after the first, as all do on a full disk.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    try:
        try:
            main(sys.argv[1:])
        except BaseException:
            _send_what_is_done()
            raise
        buckets.flush()
    except ValueError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
    except (KeyboardInterrupt, _Terminated) as stop:
        if isinstance(stop, KeyboardInterrupt):
            print("stopped", file=sys.stderr)
        code = 128 + (signal.SIGTERM if isinstance(stop, _Terminated) else signal.SIGINT)
        atexit.register(_leave, code)  # the last to be registered is the first to be called, when threads have ended
        sys.exit(code)
    except Exception as error:
        if not _is_of_gdal(error):
            raise
        _fail(f"{error} ({error.__cause__})" if error.__cause__ else str(error))
    finally:
        # Python, when it ends, gives up its handlers: a SIGTERM then would kill it, and change the exit code of what is done.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        buckets.close()
    sys.exit(0)


def _send_what_is_done() -> None:
    """Sends to buckets what a command has done that failed or was stopped; that this fails too is not what it ends for."""
    try:
        buckets.flush()
    except OSError as error:
        print(f"note: {error.strerror or error}: {error.filename}", file=sys.stderr)


def path(text: str) -> Path:
    """Parses a path among the arguments of a command: `type=path` of every option that is one. As `local_path`."""
    try:
        return local_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def data_folder(text: str) -> Path:
    """Parses a folder of data sets, `type=data_folder`: as `path`, but of one in a bucket only what is opened is downloaded, then."""
    try:
        return local_path(text, whole=False)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def local_path(given: str | Path, *, whole: bool = True) -> Path:
    """Returns a path of this machine's file system, with `~` expanded; a relative one stays relative.

    Args:
        given: a path; or an address in a bucket, `gs://...` or `s3://...`, for which the path then stands.
        whole: downloads what is at that address; else `buckets.fetch` does.

    Raises:
        ValueError: nothing is given, it is another address (`https://...`, `hub:...`, GDAL's `/vsi...`), or `~` stands for a home that
            is not known.
        OSError: the bucket cannot be read.
    """
    text = str(given)
    if buckets.is_address(text):
        return buckets.here(text, whole=whole)
    if not text:
        raise ValueError("an empty text is no path; is a variable of the shell not set?")
    # `Path` makes one slash of two. Names of schemes have two letters at least, unlike drives.
    if found := re.match(r"(hub:|[A-Za-z][A-Za-z0-9+.-]+:/)", text):
        if found[1].lower() == "file:/":
            raise ValueError(f"{shown(text)} is an address, expected a path: {shown('/' + text[6:].lstrip('/'))}")
        works = (
            "give a folder, or gs://BUCKET/FOLDER or s3://BUCKET/FOLDER; of another kind mount the bucket as a folder"
        )
        if found[1] == "hub:":
            works = "networks on a hub are read where --workdir may be an exported bundle, and by train.finetune"
        raise ValueError(f"{shown(text)} is an address, expected a path of this machine; {works}")
    if re.match(r"/vsi[a-z0-9_]+[/?]", text):
        raise ValueError(
            f"{shown(text)} is an address, expected a path of this machine; copy what it names to a folder"
        )
    if text.startswith("~"):
        try:
            return Path(text).expanduser()
        except RuntimeError:
            raise ValueError(f"{text}: the home folder is not known; write the whole path, or set HOME") from None
    place = Path(text)
    return place.absolute() if place.parts[:1] and place.parts[0].startswith("~") else place  # `./~a`, as a whole path


def path_or_address(text: str) -> str:
    """Parses a file that may lie on the web, `type=path_or_address`: an address, also GDAL's, stays as it is, else `~` is expanded."""
    return text if not text or "://" in text or text.startswith("/vsi") else str(path(text))


def whole_numbers(text: str) -> tuple[int, ...]:
    """Parses a list among the arguments of a command, '3,8,9,10': `type=whole_numbers`."""
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers such as 3,8,9,10") from None


def note(*lines: str) -> None:
    """Prints notes on stderr, each on a line of its own."""
    for line in lines:
        print(f"note: {line}", file=sys.stderr)


def progress(**settings: Any) -> tqdm:
    """Makes a tqdm progress bar. It is redrawn often in a terminal, and every ten seconds in a log file."""
    return tqdm(mininterval=0.2 if sys.stderr.isatty() else 10.0, **settings)


class _Terminated(SystemExit):
    """SIGTERM came."""


_answered = threading.Event()
"""Set when a signal is answered."""


def _stop(number: int, _: object) -> NoReturn:
    _answered.set()
    raise _Terminated(128 + number) if number == signal.SIGTERM else KeyboardInterrupt


def _send_again(number: int) -> None:
    """Sends the main thread a signal until it is answered: one that comes just before the thread begins to wait does not end the wait."""
    while not _answered.wait(0.05):
        signal.pthread_kill(threading.main_thread().ident, number)
        if signal.getsignal(number) is not _stop:
            return  # others answer now


def _leave(code: int) -> NoReturn:
    """Ends the process here and now. A signal ends the wait for XLA's compiler, not the compiler: it goes on in a thread of XLA's own, and
    what it uses must not be destroyed beside it, as Python and C++ do at their end; that was a segmentation fault.
    """
    for child in multiprocessing.active_children():
        child.terminate()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _is_of_gdal(error: BaseException | None) -> bool:
    """Returns whether rasterio raised this: a class of its own, or of GDAL's (`CPLE_...`), which have no base in common. Not by class, for
    commands that read no raster do not import it.
    """
    return any(kind.__module__.partition(".")[0] == "rasterio" for kind in type(error).__mro__)


def _report_thread_error(failed: threading.ExceptHookArgs) -> None:
    """Prints one line when a thread cannot read or write, such as TensorBoard's on a full disk. The main thread goes on."""
    if isinstance(failed.exc_value, OSError) or _is_of_gdal(failed.exc_value):
        print(f"note: {failed.exc_value}", file=sys.stderr)
    else:
        threading.__excepthook__(failed)


def _report_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Prints a traceback, but not those of TensorStore's own threads that find the event loop of a save that failed closed."""
    if threading.current_thread() is threading.main_thread() or str(error) != "Event loop is closed":
        sys.__excepthook__(kind, error, trace)


def _report_unraisable(failed: Any) -> None:
    """As `_report_error`, for a checkpoint that could not be restored: Orbax's readers fail one by one, and its first error is raised. A signal
    that came in a destructor, or in a callback of the garbage collector such as JAX's, where Python drops what is raised, comes again.
    """
    if isinstance(failed.exc_value, (KeyboardInterrupt, _Terminated)):
        number = signal.SIGTERM if isinstance(failed.exc_value, _Terminated) else signal.SIGINT
        _answered.clear()
        threading.Thread(target=_send_again, args=(number,), daemon=True).start()
        return
    reader = getattr(getattr(failed.object, "cr_code", None), "co_filename", "")
    if str(failed.exc_value) != "Event loop is closed" and "orbax" not in Path(reader).parts:
        sys.__unraisablehook__(failed)


def _fail(message: str) -> NoReturn:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(2)
