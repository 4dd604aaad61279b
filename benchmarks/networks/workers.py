"""Cases of `network.py`, each in a process of its own: what they are asked, what they answer, and rounds in which they take turns."""

import contextlib
import ctypes
import itertools
import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from networks.measured import Network, Program, segformer, specsar_former

COMMAND = Path(__file__).parents[1] / "network.py"
"""Begins a worker with `--worker CASE`."""

KINDS = {"forward": "forward", "gradient": "forward + backward", "step": "training step"}


def timed(run: Callable[[], Any], calls: int = 1) -> float:
    """Milliseconds of a call."""
    started = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - started) / calls * 1e3


def work(case: dict[str, Any]) -> None:
    """A worker process: answers the lines 'start -', 'build KIND', 'time KIND' from stdin, each with a line of JSON."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print is no answer
    programs: dict[str, tuple[Program, int]] = {}
    network: Network | None = None

    def peak_memory() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e9 / 1024)

    def forget_peak() -> None:
        with contextlib.suppress(OSError, AttributeError):  # Linux with glibc; elsewhere the peak stays
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")

    def start(_: str) -> dict[str, Any]:
        nonlocal network
        network = (segformer if case["form"] in ("eager", "compiled") else specsar_former)(case)
        return {name: getattr(network, name) for name in ("device", "parameters", "init_s")}

    def build(kind: str) -> dict[str, Any]:
        if kind == "matmul":
            side = 3000 if network.device.startswith("cpu") else 8192
            program = Program(network.matmul(side), gflop=2 * side**3 / 1e9)
        elif kind in network.build:
            program = network.build[kind]()
        else:
            return {}
        build_memory_gb = peak_memory()
        forget_peak()
        program.run()
        memory_gb = network.device_memory() / 1e9 if network.device_memory else peak_memory()
        # Short programs run several times, lest the first call after a pause is all there is.
        programs[kind] = (program, max(1, round(300 / timed(program.run))))
        path = Path(case["folder"]) / f"{os.getpid()}_{kind}.npy"
        np.save(path, program.value) if program.value is not None else None
        return {
            "compile_s": program.compile_s,
            "gflop": program.gflop,
            "build_memory_gb": build_memory_gb,
            "memory_gb": memory_gb,
            "value": str(path) if program.value is not None else None,
        }

    def time_once(kind: str) -> dict[str, Any]:
        program, calls = programs[kind]
        return {"ms": timed(program.run, calls)}

    actions = {"start": start, "build": build, "time": time_once}
    for line in sys.stdin:
        action, kind = line.split()
        try:
            answer = actions[action](kind)
        except Exception as error:  # the table shall tell, and go on
            answer = {"failed": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"}
        print(json.dumps(answer), file=answers, flush=True)


class Worker:
    """A case, its process, and what it has answered so far."""

    def __init__(self, case: dict[str, Any], limit_s: float) -> None:
        self.case, self.limit_s = case, limit_s
        self.built: dict[str, dict[str, Any]] = {}
        self.ms: dict[str, list[float]] = {}
        self.failures: dict[str, str] = {}
        quiet = {
            "JAX_ENABLE_COMPILATION_CACHE": "false",
            "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "OMP_WAIT_POLICY": "PASSIVE",  # a worker that waits for its turn leaves the cores alone
            "GOMP_SPINCOUNT": "0",
        }
        self.process = subprocess.Popen(
            [sys.executable, COMMAND, "--worker", json.dumps(case)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | quiet,
        )
        self.facts = self.ask("start", "-")
        for kind in ("matmul", *KINDS):
            self.built[kind] = self.ask("build", kind)

    def ask(self, action: str, kind: str) -> dict[str, Any]:
        """The answer to 'ACTION KIND'; nothing from one that failed."""
        if "-" in self.failures or kind in self.failures:
            return {}
        timer = threading.Timer(self.limit_s, self.process.kill)
        timer.start()
        try:
            print(action, kind, file=self.process.stdin, flush=True)
            answer = json.loads(self.process.stdout.readline() or "null")
        except BrokenPipeError:
            answer = None
        timer.cancel()
        if answer is None:
            self.failures["-"] = f"{action} {kind}: no answer within {self.limit_s:.0f} s, or out of memory"
        elif "failed" in answer:
            self.failures[kind] = f"{action} {kind}: {answer['failed']}"
        else:
            return answer
        return {}

    def time(self, kind: str) -> None:
        """One more round."""
        if self.built[kind]:
            self.ms.setdefault(kind, []).append(self.ask("time", kind).get("ms", float("nan")))

    def median(self, kind: str) -> float | None:
        """Of the milliseconds."""
        return float(np.median(self.ms[kind])) if kind in self.ms else None

    def share_of_peak(self, kind: str) -> float | None:
        """Work in a second over that of the fastest matrix product."""
        if not self.built[kind].get("gflop") or "matmul" not in self.ms or kind not in self.ms:
            return None
        fastest = self.built["matmul"]["gflop"] / min(self.ms["matmul"])
        return self.built[kind]["gflop"] / self.median(kind) / fastest

    def close(self) -> None:
        """Ends the process."""
        self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.process.kill()
        self.process.wait()


def measure(cases: list[dict[str, Any]], rounds: int, limit_s: float) -> list[Worker]:
    """Builds the cases of a group, compares the plain formulation with the first case, then times all in rounds."""
    workers: list[Worker] = []
    for case in cases:
        # A peer must follow a network of ours: that one tells which device JAX found.
        case["on_cpu"] = not workers or workers[0].facts.get("device", "cpu").startswith("cpu")
        print(f"building {name_of(case)}", file=sys.stderr)
        workers.append(Worker(case, limit_s))
        if case["form"] == "plain":
            for kind in ("forward", "gradient"):
                compare(workers[0], workers[-1], kind)
    for turn in range(rounds):
        print(f"round {turn + 1} of {rounds}", file=sys.stderr)
        for kind, worker in itertools.product(("matmul", *KINDS), workers):
            worker.time(kind)
    for worker in workers:
        worker.close()
    return workers


def compare(ours: Worker, plain: Worker, kind: str) -> None:
    """Notes a failure unless two formulations give the same logits, or loss and norms of gradients."""
    files = [worker.built[kind].get("value") for worker in (ours, plain)]
    if None in files:
        return
    one, two = map(np.load, files)
    difference = float(np.max(np.abs(one - two) / (np.abs(one) + np.median(np.abs(one)))))
    print(f"{KINDS[kind]}: plain formulation differs by {difference:.1e}", file=sys.stderr)
    if not difference < {"float32": 1e-3, "bfloat16": 5e-2}[ours.case["type"]]:
        plain.failures[kind] = f"{kind}: results differ by {difference:.1e} of their size"
        plain.built[kind] = {}


def name_of(case: dict[str, Any]) -> str:
    """What a case is called in the tables."""
    return {
        "ours": case["preset"],
        "plain": f"{case['preset']}, plain JAX",
        "eager": "SegFormer-B2, PyTorch",
        "compiled": "SegFormer-B2, torch.compile",
    }[case["form"]]
