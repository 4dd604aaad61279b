"""The network on accelerators: compiled ahead of time for devices that are not there, measured on those that are.

    pip install -e '.[aot]'
    python benchmarks/accelerator.py --results FILE [--devices h100,v5e|all|here] [--presets specsar_former,tiny|all]
                                     [--programs forward:8,train:32:x8:fsdp] [--types bfloat16,float32] [--jobs 2]
    python benchmarks/accelerator.py --results FILE --table

XLA compiles for a TPU (libtpu) and for an NVIDIA GPU (the CUDA plugin) on any machine, and the program says what it needs of
memory, what it moves, and which collectives it holds (`accelerators/programs.py`). It says no time: a *bound* is what the device's peak and
bandwidth allow at best, not a measurement. `--devices here` compiles for the devices of this machine, runs, and measures.

A program is forward:BATCH, evaluate:BATCH (the evaluation step: probabilities and sums) or train:BATCH (`train.make_program` with the
paper's recipe), with BATCH tiles over all devices, and options: x8 (eight devices), fsdp, model2 (two along the mesh's model
axis), accumulate2, remat. Each is compiled in a process of its own; FILE gets a line of JSON for each, and what stands there already
is not compiled again. `--jobs 2` needs about 6 GB of memory a job.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib.metadata
import itertools
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from accelerators import programs
from jax.sharding import AxisType, Mesh

from specsar_jax import config as configs
from specsar_jax.batches.preprocess import standardise
from specsar_jax.devices import accelerators, sharding
from specsar_jax.devices.accelerators import DEVICES
from specsar_jax.network import model, probabilities
from specsar_jax.preflight.planned import assumed_statistics
from specsar_jax.preflight.programs import abstract_batch, abstract_state, placed
from specsar_jax.training import evaluation
from specsar_jax.training.train_state import make_program
from tfds_dwplus import bands

REPOSITORY = Path(__file__).parent.parent
LIMIT_S = 3600

PROGRAMS = (
    *(f"forward:{batch}" for batch in (1, 8, 32)),
    "evaluate:8",
    *(f"train:{of}" for of in ("4", "16", "32:x8", "32:x8:fsdp", "32:x8:model2", "4:accumulate2", "4:remat")),
)


@dataclasses.dataclass(frozen=True)
class Program:
    """What is compiled, of `PROGRAM:BATCH[:OPTION...]`."""

    kind: str
    batch: int
    devices: int = 1
    fsdp: bool = False
    model: int = 1
    accumulate: int = 1
    remat: bool = False

    @classmethod
    def parse(cls, text: str) -> "Program":
        """Raises ValueError unless `text` is of that form."""
        kind, *rest = text.split(":")
        known = {
            "x8": {"devices": 8},
            "fsdp": {"fsdp": True},
            "model2": {"model": 2},
            "accumulate2": {"accumulate": 2},
            "remat": {"remat": True},
        }
        if (
            kind not in ("forward", "evaluate", "train")
            or not rest
            or not rest[0].isdecimal()
            or set(rest[1:]) - set(known)
        ):
            raise ValueError(
                f"{text!r} is not forward, evaluate or train, then :BATCH, then any of :{', :'.join(known)}"
            )
        fields: dict[str, Any] = {}
        for option in rest[1:]:
            fields |= known[option]
        return cls(kind, int(rest[0]), **fields)


def lower(
    preset: str, program: Program, compute_type: str, devices: list[Any], size_px: int, changes: dict[str, Any]
) -> Any:
    """The program for these devices, traced: a `jax.stages.Lowered`; and its FLOP, those of all devices."""
    mesh = Mesh(np.array(devices).reshape(-1, program.model), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    recipe = configs.load(REPOSITORY / "configs" / "specsar_former.py")
    fields = {"compute_dtype": compute_type, "rematerialise": program.remat} | changes
    network = configs.model_preset(preset, loop_blocks_from=recipe.model.loop_blocks_from, **fields)
    config = dataclasses.replace(
        recipe,
        model=network,
        train=dataclasses.replace(recipe.train, batch_size=program.batch, accumulate=program.accumulate),
        mesh=configs.Mesh(model=program.model, parameters="sharded" if program.fsdp else "replicated"),
    )
    statistics = assumed_statistics(bands.S2_BANDS[: network.s2_channels])
    batch = abstract_batch(mesh, program.batch, size_px, s2=network.s2_channels, s1=network.s1_channels)
    if program.kind == "train":
        state, shardings = abstract_state(config, mesh)
        function, arguments = make_program(config, statistics, mesh, shardings), (state, batch)
    else:

        def compute(variables: Any, batch: Any) -> Any:
            s2, s1 = standardise(batch["s2"], batch["s1"], statistics)
            if program.kind == "forward":
                return model.apply(variables, s2, s1, config=network)
            log_p = probabilities.log_probabilities(variables, s2, s1, config=config.model)
            return evaluation.evaluation_step(batch, log_p, config=config.loss, alpha=(1.0,) * 9)

        abstract = jax.eval_shape(
            functools.partial(model.for_inference, config=network), model.abstract_params(network)
        )
        where = jax.tree.map(lambda _: sharding.replicated(mesh), abstract)
        function, arguments = jax.jit(sharding.for_mesh(compute, mesh)), (placed(abstract, where), batch)
    traced = function.trace(*arguments)
    return traced.lower(), programs.products_flop(traced.jaxpr.jaxpr), arguments


def work(case: dict[str, Any]) -> dict[str, Any]:
    """Compiles one case, and runs it if it is for devices that are here; what there is to tell of it."""
    program = Program.parse(case["program"])
    here = case["device"] == "here"
    if here:
        chosen = jax.devices()[: program.devices]
        if len(chosen) < program.devices:
            raise ValueError(f"here are {len(chosen)} devices, the program is for {program.devices}")
    else:
        accelerators.prepare_environment()
        chosen = accelerators.described(case["device"], program.devices)
    started = time.perf_counter()
    lowered, flop, arguments = lower(case["preset"], program, case["type"], chosen, case["size_px"], case["changes"])
    traced_s = time.perf_counter() - started
    started = time.perf_counter()
    compiled = lowered.compile()
    compile_s = time.perf_counter() - started
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    text = compiled.as_text()
    found = {
        "device_kind": chosen[0].device_kind,
        "traced_s": traced_s,
        "compile_s": compile_s,
        "arguments_gb": memory.argument_size_in_bytes / 1e9,
        "temporaries_gb": memory.temp_size_in_bytes / 1e9,
        "output_gb": (memory.output_size_in_bytes - memory.alias_size_in_bytes) / 1e9,
        "gflop": flop / 1e9,
        "compiler_gb": cost["bytes accessed"] / 1e9
        if "bytes accessed" in cost and chosen[0].platform == "tpu"
        else None,
        "versions": {
            name: importlib.metadata.version(name) for name in ("jax", "libtpu", "jax-cuda12-plugin") if has(name)
        },
        **dataclasses.asdict(programs.traffic(text)),
    }
    found["collective_types"] = sorted(found["collective_types"])
    return found | ({"ms": measure(compiled, arguments)} if here else {})


def has(package: str) -> bool:
    """Whether a package is installed."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return bool(importlib.metadata.version(package))
    return False


def measure(compiled: Any, arguments: Any, rounds: int = 20) -> list[float]:
    """Milliseconds of each of some calls, on zeros, after two that do not count; a training step goes on from the state before."""
    arguments = jax.tree.map(lambda of: jax.device_put(jax.numpy.zeros(of.shape, of.dtype), of.sharding), arguments)
    ms = []
    for _ in range(rounds + 2):
        started = time.perf_counter()
        result = jax.block_until_ready(compiled(*arguments))
        ms.append(1e3 * (time.perf_counter() - started))
        if isinstance(result, tuple):
            arguments = (result[0], arguments[1])
    return ms[2:]


def run_case(case: dict[str, Any]) -> dict[str, Any]:
    """`work` in a process of its own: the case with what it found, or with the reason why it does not compile."""
    command = [sys.executable, __file__, "--worker", json.dumps(case)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return case | {"failed": f"not compiled within {LIMIT_S} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        return case | json.loads(lines[-1])
    reasons = [line for line in done.stderr.strip().splitlines() if "Error" in line or "error" in line]
    return case | {"failed": (reasons or done.stderr.strip().splitlines() or ["no word"])[-1][:300]}


def bound(case: dict[str, Any]) -> float | None:
    """Tiles per second that the peak of the devices and the bandwidth of their memory allow at best."""
    if case["device"] == "here" or "failed" in case:
        return None
    program, device = Program.parse(case["program"]), DEVICES[case["device"]]
    seconds = max(
        case["gflop"] / program.devices / device.tflop_per_s[case["type"]] / 1e3, case["gigabytes"] / device.gb_per_s
    )
    return program.batch / seconds


HEADER = (
    *(
        "preset",
        "program",
        "device",
        "type",
        "arguments GB",
        "temporaries GB",
        "output GB",
        "of its memory",
        "GFLOP a tile",
    ),
    *(
        "GB a tile",
        "compiler's GB a tile",
        "kernels",
        "collectives",
        "MB",
        "compile s",
        "bound, tiles/s",
        "measured, tiles/s",
    ),
)
NOTES = """
Program: kind, tiles of {size_px} x {size_px} over all devices, options (x8: eight devices). Memory of one device: arguments, temporaries
and results as the compiler places them; of its memory: their sum over the device's. GFLOP: of matrix products and convolutions, counted in
the program before it is compiled. GB a tile: of main memory, operands and results of each kernel of the scheduled program, on one
device, over the tiles of that device. On a TPU what stays in the chip's fast memory is left out; the compiler's count has all of it,
and counts the turns of a loop once. Collectives: how many a step, of which types, and the size of their results. Bound: the larger
of FLOP over peak and bytes over bandwidth, communication left out and caches too, which may spare a GPU some reads: arithmetic, not what was
seen.
"""


def row(case: dict[str, Any]) -> list[str]:
    """A line of the table."""
    name = [case["preset"], case["program"], case["device"], case["type"]]
    if "failed" in case:
        return [*name, f"does not compile: {case['failed']}", *[""] * (len(HEADER) - 5)]
    program = Program.parse(case["program"])
    a_device = program.batch / program.devices
    used = case["arguments_gb"] + case["temporaries_gb"] + case["output_gb"]
    share = "-" if case["device"] == "here" else f"{used / DEVICES[case['device']].memory_gb:.0%}"
    collectives = ", ".join(f"{count} {kind}" for kind, count in sorted(case["collectives"].items()))
    types = f" ({', '.join(case['collective_types'])})" if collectives else ""
    measured = "-" if "ms" not in case else f"{1e3 * program.batch / sorted(case['ms'])[len(case['ms']) // 2]:.4g}"
    limit = bound(case)
    return [
        *name,
        *(f"{case[key]:.2f}" for key in ("arguments_gb", "temporaries_gb", "output_gb")),
        share,
        f"{case['gflop'] / program.batch:.1f}",
        f"{case['gigabytes'] / a_device:.2f}",
        "-" if case["compiler_gb"] is None else f"{case['compiler_gb'] / a_device:.2f}",
        str(case["kernels"]),
        (collectives or "-") + types,
        f"{sum(case['collective_megabytes'].values()):.1f}" if collectives else "-",
        f"{case['compile_s']:.0f}",
        "-" if limit is None else f"{limit:.4g}",
        measured,
    ]


def tables(cases: list[dict[str, Any]]) -> str:
    """Markdown: versions, a table, notes."""
    versions = sorted({f"{name} {number}" for case in cases for name, number in case.get("versions", {}).items()})
    lines = [list(HEADER), ["---"] * 4 + ["---:"] * (len(HEADER) - 4), *map(row, cases)]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{', '.join(versions)}\n\n{text}\n{NOTES.format(size_px=cases[0]['size_px'])}"


def main() -> None:
    """Compiles what is not in the file of results yet; prints the table of what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.error = lambda message: parser.exit(2, f"{parser.prog}: {message}\n")

    def one_of(known: Any) -> Any:
        def parse(text: str) -> list[str]:
            chosen = list(known) if text == "all" else text.split(",")
            if unknown := set(chosen) - {*known, "here"}:
                raise argparse.ArgumentTypeError(f"no {', '.join(sorted(unknown))}; choose from {', '.join(known)}")
            return chosen

        return parse

    def program(text: str) -> list[str]:
        try:
            return [part for part in text.split(",") if Program.parse(part)]
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    parser.add_argument("--results", type=Path, help="lines of JSON, made or added to")
    parser.add_argument(
        "--devices", type=one_of(DEVICES), default=["h100", "v5e"], help=f"of {', '.join(DEVICES)}, here; or all"
    )
    parser.add_argument("--presets", type=one_of(configs.PRESETS), default=["specsar_former"])
    parser.add_argument("--programs", type=program, default=list(PROGRAMS))
    parser.add_argument("--types", type=one_of(("bfloat16", "float32")), default=["bfloat16"])
    parser.add_argument("--size_px", type=int, default=510, help="side of a tile, 32 at least")
    parser.add_argument("--jobs", type=int, default=1, help="compilations at a time")
    parser.add_argument("--table", action="store_true", help="print all of the file, compile nothing")
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(work(args.worker)))
        return
    if args.results is None:
        parser.error("give --results FILE")
    if not args.results.parent.is_dir():
        parser.error(f"no folder {args.results.parent.resolve()} to write {args.results.name} to")
    if args.size_px < 32 or args.jobs < 1:
        parser.error(f"--size_px is {args.size_px}, --jobs {args.jobs}; expected at least 32 and 1")
    elsewhere = [name for name in args.devices if name != "here"]
    if missing := [] if args.table else accelerators.without_compiler(elsewhere):
        parser.error(f"no compiler for {', '.join(missing)} is installed: pip install -e '.[aot]'")
    keys = ("preset", "program", "device", "type", "size_px")
    lines = args.results.read_text().splitlines() if args.results.is_file() else []
    known = {tuple(case[key] for key in keys): case for case in map(json.loads, lines)}  # the last word counts
    if args.table:
        if not known:
            parser.error(f"nothing in {args.results}")
        print(tables(list(known.values())))
        return
    wanted = [
        dict(zip(keys, of, strict=True)) | {"changes": {}}
        for of in itertools.product(args.presets, args.programs, args.devices, args.types, [args.size_px])
    ]
    todo = [case for case in wanted if "failed" in known.get(tuple(case[key] for key in keys), {"failed": ""})]
    with args.results.open("a") as file, ThreadPoolExecutor(args.jobs) as pool:
        for number, case in enumerate(pool.map(run_case, todo), start=1):
            print(json.dumps(case), file=file, flush=True)
            key = tuple(case[key] for key in keys)
            known[key] = case
            print(f"{number} of {len(todo)}: {key}: {case.get('failed') or 'compiled'}", file=sys.stderr)
    print(tables([known[tuple(case[key] for key in keys)] for case in wanted]))


if __name__ == "__main__":
    main()
