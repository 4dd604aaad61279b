"""Cost of the network: time, memory, work and compilation, beside its peers, measured in one run on one machine.

    python benchmarks/network.py [--presets specsar_former,tiny|all] [--batch_sizes 1,4] [--types float32,bfloat16]
                                 [--size_px 510] [--rounds 7] [--no_peers] [--no_torch_compile] [--json FILE] [--trace DIR]

Peers (`pip install -e '.[bench]'`): transformers' SegFormer with the sizes of B2, on PyTorch, as it stands and under
torch.compile; and this network with these weights in plain JAX (`networks/plain.py`), whose outputs are compared before it is timed.

Every case is a process of its own. All are built first, one after the other; then each in turn runs once a round, so
that on a shared machine all see the same weather. Five rounds without torch.compile took ten minutes on two cores.
"""

import argparse
import contextlib
import importlib.util
import itertools
import json
import os
import platform
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from networks.measured import specsar_former
from networks.workers import KINDS, Worker, measure, name_of, work

GROUP_SIZE = 4
"""Cases at a time, besides SegFormer as the reference: each holds up to 4 GB."""
TRACED_CALLS = 3


def table(header: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [header, ["---"] * 2 + ["---:"] * (len(header) - 2), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cell(value: float | None, form: str) -> str:
    """A number, or '-' where there is none."""
    return "-" if value is None or np.isnan(value) else format(value, form)


def cost_row(worker: Worker, group: int) -> list[str]:
    """A line of the table of what does not vary from round to round."""
    built, case = worker.built, worker.case
    work_done = [built[kind].get("gflop") for kind in ("forward", "gradient")]
    return [
        name_of(case),
        f"{group}: {case['batch']} x {case['type']}",
        cell(worker.facts.get("parameters", np.nan) / 1e6, ".2f"),
        *(cell(work and work / case["batch"], ".1f") for work in work_done),
        cell(worker.facts.get("init_s"), ".2f"),
        *(cell(built[kind].get("compile_s"), ".1f") for kind in KINDS),
        *(cell(built[kind].get("memory_gb"), ".2f") for kind in KINDS),
        cell(max(of.get("build_memory_gb", np.nan) for of in built.values()), ".2f"),
    ]


def time_row(worker: Worker, group: int, reference: Worker) -> list[str]:
    """A line of the table of times."""
    cells = [name_of(worker.case), f"{group}: {worker.case['batch']} x {worker.case['type']}"]
    for kind in KINDS:
        median, ms = worker.median(kind), worker.ms.get(kind)
        cells.append(f"{median:.4g} ({min(ms):.4g}-{max(ms):.4g})" if ms else "-")
        if kind != "gradient":
            cells.append(cell(median and 1e3 * worker.case["batch"] / median, ".3g"))
        if kind != "step":
            cells.append(cell(worker.share_of_peak(kind), ".0%"))
            cells.append(cell(ratio(reference, worker, kind), ".2f"))
    return cells


def ratio(reference: Worker, worker: Worker, kind: str) -> float | None:
    """Median over the rounds of how often `worker` runs while `reference` runs once."""
    if reference.case["form"] != "eager" or not (kind in worker.ms and kind in reference.ms):
        return None
    return float(np.median(np.divide(reference.ms[kind], worker.ms[kind])))


def trace(case: dict[str, Any], folder: Path) -> str:
    """Writes profiles of a forward and a training step for TensorBoard or Perfetto; the 20 costliest operations of each."""
    import jax

    network, text = specsar_former(case), []
    for kind in ("forward", "step"):
        program = network.build[kind]()
        program.run()
        with jax.profiler.trace(str(folder / kind)):
            for _ in range(TRACED_CALLS):
                program.run()
        path = max((folder / kind).rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
        metadata = dict(
            re.findall(r'^\s*(?:ROOT )?%?([\w.-]+) = .*?op_name="([^"]*)"', program.compiled.as_text(), re.M)
        )
        spent: Counter[str] = Counter()
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
            for event in itertools.chain.from_iterable(line.events for line in plane.lines):
                operation = event.name if event.name in metadata else dict(event.stats).get("hlo_op", "")
                # The turns of a loop, and the calls of a function, are there on their own too.
                if operation in metadata and not re.match("while|call|conditional", operation):
                    spent[operation_name(metadata[operation])] += event.duration_ns / 1e6 / TRACED_CALLS
        total = sum(spent.values())
        rows = [[name, KINDS[kind], f"{ms:.1f}", f"{ms / total:.1%}"] for name, ms in spent.most_common(20)]
        text.append(table(["operation", "of", "ms", "share"], rows))
    return "\n\n".join(text)


def operation_name(path: str) -> str:
    """'jit(f)/SpecSARFormer/stage1/.../DMEMBlock/sar_self/query/dot_general' -> 'self/query/dot_general'."""
    parts = [part for part in path.split("/") if not re.search(r"\(|_fun$|\._|^cond$|^closed_call$", part)]
    backward = "backward " if "transpose(" in path else ""
    return backward + "/".join(re.sub(r"^(spectral|sar)_|\d+$", "", part) for part in parts[-3:])


TIME_HEADER = [
    *("network", "group", "forward ms", "tiles/s", "of peak", "x SegFormer"),
    *("forward + backward ms", "of peak", "x SegFormer", "training step ms", "tiles/s"),
]
COST_HEADER = [
    *("network", "group", "parameters M", "GFLOP forward", "GFLOP + backward", "initialise s"),
    *(f"compile {kind} s" for kind in ("forward", "+ backward", "step")),
    *(f"memory {kind} GB" for kind in ("forward", "+ backward", "step", "of building")),
]
NOTES = """
Group: cases of a group ran in the same rounds; number of the group, tiles in a batch, type of the computation (weights
float32). Times: median over {rounds} rounds (fastest-slowest), milliseconds a batch. Forward: logits at full size, no
dropout, weights as `for_inference` gives them. Backward: gradient of the mean cross-entropy at full size by all weights, BatchNorm on the batch's moments,
no dropout anywhere. Training step: `train_state.train_step` with standardisation, focal loss, clipping and AdamW.
x SegFormer: SegFormer's time (PyTorch, eager, same type) over this one's, round by round, median; above 1 is faster.
GFLOP: a tile; of JAX's networks XLA's count of all operations before it optimises, with the decoder as one program on
whole maps; of SegFormer PyTorch's count, of matrix products and convolutions only. Peak: GFLOP in a second over the
same process's fastest product of two square matrices of the type (side 3000 on a CPU, 8192 elsewhere), timed each round.
Compile: tracing and compiling with no cache; for torch.compile its first call. Memory: most that the process held
(resident) during a call, and, of building, at any time until its programs had been compiled and run once; on an
accelerator, most of the device's memory so far, programs following each other from left to right.
"""


def main() -> None:
    """Measures, prints."""
    from specsar_jax.config import PRESETS  # brings no JAX along

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    def choice(known: list[str]) -> Callable[[str], list[str]]:
        def parse(text: str) -> list[str]:
            chosen = known if text == "all" else text.split(",")
            if unknown := set(chosen) - set(known):
                raise argparse.ArgumentTypeError(f"no {', '.join(sorted(unknown))}; choose from {', '.join(known)}")
            return chosen

        return parse

    def positive(text: str) -> int:
        if not (text.isdecimal() and int(text) > 0):
            raise argparse.ArgumentTypeError(f"{text} is not a positive whole number")
        return int(text)

    parser.add_argument("--presets", type=choice(list(PRESETS)), default=["specsar_former"])
    parser.add_argument("--batch_sizes", type=lambda text: [positive(part) for part in text.split(",")], default=[1])
    parser.add_argument("--types", type=choice(["float32", "bfloat16"]), default=["float32"])
    parser.add_argument("--size_px", type=positive, default=510)
    parser.add_argument("--rounds", type=positive, default=7)
    parser.add_argument("--no_peers", action="store_true", help="neither SegFormer nor the plain formulation")
    parser.add_argument("--no_torch_compile", action="store_true", help="SegFormer as it stands only")
    parser.add_argument("--limit_s", type=positive, default=900, help="for building one program")
    parser.add_argument("--json", type=Path, help="also write all figures here")
    parser.add_argument("--trace", type=Path, help="instead profile the first case into this folder")
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    parser.error = lambda message: parser.exit(2, f"{parser.prog}: {message}\n")
    args = parser.parse_args()
    if args.worker:
        return work(args.worker)
    if args.json and not args.json.parent.is_dir():  # told now, not after the measurement
        parser.error(f"no folder {args.json.parent.resolve()} to write {args.json.name} to")
    if args.size_px < 32:
        parser.error("argument --size_px: the network takes at least 32 pixels")
    torch_there = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
    if not (torch_there or args.no_peers or args.trace):
        print("no PyTorch or transformers, so no SegFormer: pip install -e '.[bench]'", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        groups = []
        for batch, kind in itertools.product(args.batch_sizes, args.types):
            common = {"batch": batch, "type": kind, "size_px": args.size_px, "folder": folder}
            forms = [(preset, "ours") for preset in args.presets]
            if not args.no_peers:
                forms.insert(1, (args.presets[0], "plain"))
                forms += [(args.presets[0], "compiled")] * (torch_there and not args.no_torch_compile)
            cases = [common | {"preset": preset, "form": form} for preset, form in forms]
            reference = [common | {"preset": "", "form": "eager"}] * (torch_there and not args.no_peers)
            groups += [cases[i : i + GROUP_SIZE] + reference for i in range(0, len(cases), GROUP_SIZE)]
        if args.trace:
            return print(trace(groups[0][0], args.trace))
        measured = [measure(cases, args.rounds, args.limit_s) for cases in groups]

    print(f"\n{machine()}, {measured[0][0].facts.get('device', '-')}, Python {platform.python_version()}  ")
    names = ("jax", "flax", *(("torch", "transformers") if torch_there else ()))
    print(", ".join(f"{name} {version(name)}" for name in names) + f"; {args.size_px} x {args.size_px} px\n")
    numbered = [(worker, number, group[-1]) for number, group in enumerate(measured, 1) for worker in group]
    print(table(TIME_HEADER, [time_row(*of) for of in numbered]) + "\n")
    print(table(COST_HEADER, [cost_row(worker, number) for worker, number, _ in numbered]))
    for worker, number, _ in numbered:
        for failure in worker.failures.values():
            print(f"\nfailed: {name_of(worker.case)}, group {number}: {failure}")
    print(NOTES.format(rounds=args.rounds))
    if args.json:
        parts = ("case", "facts", "built", "ms", "failures")
        figures = [
            {"group": number} | {part: getattr(worker, part) for part in parts} for worker, number, _ in numbered
        ]
        args.json.write_text(json.dumps(figures, indent=1))
    return None


def machine() -> str:
    """Architecture, processor and cores."""
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        if found:
            return f"{platform.machine()}, {found[1]}, {os.cpu_count()} cores"
    return f"{platform.machine()}, {os.cpu_count()} cores"


if __name__ == "__main__":
    main()
