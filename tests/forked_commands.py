"""Commands in processes of their own without the seconds that imports take: one process imports them all, and forks for each.

`Commands` is that process, seen from a test: `start` gives a `Running`, which can be sent signals and waited for. A command is run as
`python -m` runs it, with the handlers, the exit codes and the end of the interpreter that users have.
"""

import importlib
import itertools
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from conftest import REPOSITORY


class Ended(NamedTuple):
    """A command that has ended."""

    code: int
    """As of `subprocess`: minus the signal that killed it."""
    said: str
    """What it printed, on stdout and stderr."""
    seconds: float


class Running:
    """A command that was started."""

    def __init__(self, commands: "Commands", pid: int, log: Path) -> None:
        self.pid, self._commands, self._log, self._began = pid, commands, log, time.monotonic()

    def send(self, signal: int, after_s: float) -> None:
        """Sends a signal so long after the start. If the command has ended by then nothing happens: nobody has waited for it yet."""
        time.sleep(max(self._began + after_s - time.monotonic(), 0))
        os.kill(self.pid, signal)

    def wait(self) -> Ended:
        """Waits for its end."""
        status = self._commands.ask({"wait": self.pid})
        return Ended(os.waitstatus_to_exitcode(status), self._log.read_text(), time.monotonic() - self._began)


class Commands:
    """The process that forks."""

    def __init__(self, folder: Path, modules: list[str]) -> None:
        self._folder, self._count = folder, 0
        environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(REPOSITORY), str(Path(__file__).parent)))}
        command = [sys.executable, "-m", "forked_commands"]
        self._process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.ask({"modules": modules})

    def ask(self, question: dict[str, Any]) -> Any:
        """Sends a question, one line, and returns the answer."""
        print(json.dumps(question), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def start(
        self,
        module: str,
        *arguments: object,
        cwd: Path,
        most_bytes: int | None = None,
        hit: tuple[int, int] | None = None,
    ) -> Running:
        """Starts a command.

        Args:
            module: whose `main` it is; of those that were imported.
            arguments: of the command.
            cwd: folder to run it in.
            most_bytes: that a file of its may have, as on a disk that is full then.
            hit: a signal and a number n: it gets that signal before its rename n / 2, or after it if n is odd.
        """
        self._count += 1
        log = self._folder / f"said_{self._count}.txt"
        asked = {"start": [module, *map(str, arguments)], "cwd": str(cwd), "log": str(log)}
        return Running(self, self.ask(asked | {"most_bytes": most_bytes, "hit": hit}), log)

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def main() -> Callable[[list[str]], None] | None:
    """Answers what `Commands.ask` asks. In a process that was forked it returns the command's `main`, to be run then."""
    readers: dict[int, int] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        if "modules" in asked:
            for module in asked["modules"]:
                importlib.import_module(module)
            answer: Any = None
        elif "wait" in asked:
            _, answer = os.waitpid(asked["wait"], 0)
            os.waitpid(readers.pop(asked["wait"]), 0)
        else:
            # What is said goes through another process: it is no file of the command's, so it has no limit.
            read, write = os.pipe()
            log = (os.POSIX_SPAWN_OPEN, 1, asked["log"], os.O_WRONLY | os.O_CREAT, 0o666)
            actions = [(os.POSIX_SPAWN_DUP2, read, 0), log, (os.POSIX_SPAWN_CLOSE, write)]
            reader = os.posix_spawnp("cat", ["cat"], os.environ, file_actions=actions)
            answer = os.fork()
            if not answer:
                return _become(asked, write)
            os.close(read)
            os.close(write)
            readers[answer] = reader
        print(json.dumps(answer), flush=True)
    return None


def _become(asked: dict[str, Any], output: int) -> Callable[[list[str]], None]:
    """Makes this process, which was forked, one that runs a command. Returns the command's `main`."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    for file, number in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(file, number)
    os.close(output)
    os.chdir(asked["cwd"])
    if asked["most_bytes"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (asked["most_bytes"], resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    if asked["hit"]:
        renames = itertools.count()
        os.rename, os.replace = (_hit(call, *asked["hit"], renames) for call in (os.rename, os.replace))
    sys.argv = asked["start"]
    return sys.modules[sys.argv[0]].main


def _hit(call: Callable[..., None], signal: int, at: int, renames: itertools.count) -> Callable[..., None]:
    """Returns a rename that sends this process a signal before or after it, if it is its turn."""

    def renamed(*args: Any, **more: Any) -> None:
        place = 2 * next(renames)
        if place == at:
            os.kill(os.getpid(), signal)
        call(*args, **more)
        if place + 1 == at:
            os.kill(os.getpid(), signal)

    return renamed


if __name__ == "__main__":
    command = main()
    if command is not None:
        from tfds_dwplus.command_line import run

        run(command)
