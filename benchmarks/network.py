"""Cost of the network: time, memory, work and compilation, beside its peers, measured in one run on one machine.

    python benchmarks/network.py [--presets specsar_former,tiny|all] [--batch_sizes 1,4] [--types float32,bfloat16]
                                 [--size_px 510] [--rounds 7] [--no_peers] [--no_torch_compile] [--json FILE] [--trace DIR]

Peers (`pip install -e '.[bench]'`): transformers' SegFormer with the sizes of B2, on PyTorch, as it stands and under
torch.compile; and this network with these weights in plain JAX (`plain.py`), whose outputs are compared before it is timed.

Every case is a process of its own. All are built first, one after the other; then each in turn runs once a round, so
that on a shared machine all see the same weather. Five rounds without torch.compile took ten minutes on two cores.
"""

import argparse
import contextlib
import ctypes
import dataclasses
import importlib.util
import itertools
import json
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

KINDS = {"forward": "forward", "gradient": "forward + backward", "step": "training step"}
GROUP_SIZE = 4
"""Cases at a time, besides SegFormer as the reference: each holds up to 4 GB."""
TRACED_CALLS = 3


@dataclasses.dataclass(frozen=True)
class Program:
    """Something to time."""

    run: Callable[[], Any]
    """One call; returns when its results are there."""
    compile_s: float | None = None
    gflop: float | None = None
    value: Any = None
    """What other formulations of the same network must give."""
    compiled: Any = None


@dataclasses.dataclass(frozen=True)
class Network:
    """A network that is ready to be built into programs."""

    device: str
    parameters: int
    init_s: float
    build: dict[str, Callable[[], Program]]
    """By kind."""
    matmul: Callable[[int], Callable[[], Any]]
    """Side of two square matrices -> their product, in the type of the case."""
    device_memory: Callable[[], int] | None
    """Peak bytes in use; None where it is the process's memory."""


def specsar_former(case: dict[str, Any]) -> Network:
    """This project's network."""
    import jax  # here, for PyTorch's processes shall not hold it in their memory
    import jax.numpy as jnp

    from specsar_jax import config as configs
    from specsar_jax import layers, losses, model, train_state
    from specsar_jax.preprocess import SensorStatistics, Statistics, standardise

    if case["form"] == "plain":
        from plain import write_plainly

        write_plainly()
    fields = {"compute_dtype": case["type"]} | ({"loop_blocks_from": 99} if case["form"] == "plain" else {})
    config = configs.Config(model=configs.model_preset(case["preset"], **fields))
    device = jax.devices()[0]
    started = time.perf_counter()
    jax.block_until_ready(model.init_params(config.model, jax.random.key(0)))
    init_s = time.perf_counter() - started

    rng, shape = np.random.default_rng(0), (case["batch"], case["size_px"], case["size_px"])

    def sensor(count: int, low: float, high: float) -> SensorStatistics:
        bands, mean, std = tuple(map(str, range(count))), (low + high) / 2, (high - low) / 4
        return SensorStatistics(bands, *((v,) * count for v in (mean, std, low, high)), "", (1,) * count)

    statistics = Statistics(
        sensor(config.model.s2_channels, 1, 10_000), sensor(config.model.s1_channels, -30, 0), (1,) * 9
    )
    batch = {
        "s2": rng.integers(1, 10_000, (*shape, config.model.s2_channels), np.uint16),
        "s1": rng.uniform(-30, 0, (*shape, config.model.s1_channels)).astype(np.float32),
        "label": rng.integers(0, config.model.classes, shape, np.uint8),
        "expert": np.ones(case["batch"], bool),
    }
    batch = jax.device_put(batch)
    s2, s1 = jax.jit(lambda s2, s1: standardise(s2, s1, statistics))(batch["s2"], batch["s1"])
    alpha = (1.0,) * config.model.classes
    state = train_state.init_state(config)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    # Without zeros, so that two formulations cannot agree by leaving something out.
    variables = jax.tree.map(
        lambda leaf: leaf + 0.02 * rng.standard_normal(leaf.shape, np.float32), state.variables(config)
    )

    def forward(variables: Any, s2: Any, s1: Any) -> Any:
        return model.apply(variables, s2, s1, config=config.model)

    def gradient(params: Any, batch_stats: Any, s2: Any, s1: Any, label: Any) -> Any:
        def loss(params: Any) -> Any:
            tree = {"params": params, "batch_stats": batch_stats}
            logits, _ = model.apply_train(tree, s2, s1, config=config.model, rng=jax.random.key(0))
            return losses.pixel_loss(logits, label, alpha, config=configs.Loss(name="cross_entropy"))

        return jax.value_and_grad(loss)(params)

    def step(state: Any, batch: Any) -> Any:
        return train_state.train_step(state, batch, config=config, statistics=statistics, alpha=alpha)

    def build(function: Callable[..., Any], arguments: tuple[Any, ...], value: Any = None, **options: Any) -> Program:
        nonlocal config
        # Of a loop, one turn would be counted.
        looped, config = (
            config,
            dataclasses.replace(config, model=dataclasses.replace(config.model, loop_blocks_from=99)),
        )
        rows, layers._join_rows = layers._join_rows, layers._join_whole
        gflop = jax.jit(function).lower(*arguments).cost_analysis()["flops"] / 1e9
        layers._join_rows, config = rows, looped
        jax.clear_caches()  # of traces: the compilation is to begin at nothing
        started = time.perf_counter()
        compiled = jax.jit(function, **options).lower(*arguments).compile()
        compile_s = time.perf_counter() - started

        def run() -> Any:
            return jax.block_until_ready(compiled(*arguments))

        return Program(run, compile_s, gflop, value and value(run()), compiled)

    def build_forward() -> Program:
        return build(forward, (variables, s2, s1), np.asarray)

    def build_gradient() -> Program:
        def norms(outputs: Any) -> np.ndarray:
            return np.asarray([jnp.linalg.norm(leaf.ravel()) for leaf in jax.tree.leaves(outputs)])

        return build(gradient, (variables["params"], variables["batch_stats"], s2, s1, batch["label"]), norms)

    def build_step() -> Program:
        program, carried = build(step, (state, batch), donate_argnums=0), [state]

        def run() -> None:
            carried[0], _ = jax.block_until_ready(program.compiled(carried[0], batch))

        return dataclasses.replace(program, run=run)

    def matmul(side: int) -> Callable[[], Any]:
        matrix, product = jnp.ones((side, side), case["type"]), jax.jit(lambda a: a @ a)
        return lambda: product(matrix).block_until_ready()

    memory = None if device.platform == "cpu" else lambda: device.memory_stats()["peak_bytes_in_use"]
    builders = {"forward": build_forward, "gradient": build_gradient, "step": build_step}
    return Network(f"{device.platform}: {device.device_kind}", parameters, init_s, builders, matmul, memory)


def segformer(case: dict[str, Any]) -> Network:
    """SegFormer-B2 of transformers over both sensors' bands, without dropout, as this project's network has none."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    torch.set_num_threads(os.cpu_count() or 1)
    torch.set_float32_matmul_precision("high")  # on a GPU, what JAX does by default
    if case["on_cpu"] is False and not torch.cuda.is_available():
        raise RuntimeError("skipped, for this PyTorch sees no such device")
    device = torch.device("cpu" if case["on_cpu"] else "cuda")
    sizes = {"depths": [3, 4, 6, 3], "hidden_sizes": [64, 128, 320, 512], "decoder_hidden_size": 768}
    started = time.perf_counter()
    network = SegformerForSemanticSegmentation(
        SegformerConfig(num_channels=11, num_labels=9, classifier_dropout_prob=0.0, drop_path_rate=0.0, **sizes)
    ).to(device)
    init_s = time.perf_counter() - started
    side = case["size_px"]
    bands = torch.randn(case["batch"], 11, side, side, device=device)
    label = torch.randint(0, 9, (case["batch"], side, side), device=device)
    narrow = torch.autocast(device.type, torch.bfloat16, enabled=case["type"] == "bfloat16")

    def logits(bands: Any) -> Any:
        small = network(pixel_values=bands).logits
        return torch.nn.functional.interpolate(small.float(), size=(side, side), mode="bilinear", align_corners=False)

    full_size = torch.compile(logits) if case["form"] == "compiled" else logits

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    def forward(function: Callable[[Any], Any]) -> None:
        network.eval()
        with torch.inference_mode(), narrow:
            function(bands)
        wait()

    def gradient(function: Callable[[Any], Any]) -> None:
        network.train()
        network.zero_grad()
        with narrow:
            loss = torch.nn.functional.cross_entropy(function(bands), label)
        loss.backward()
        wait()

    def build(kind: Callable[[Any], None]) -> Program:
        gflop = None
        if kind is forward:  # PyTorch 2.13 counts the gradients of grouped convolutions as if they were whole ones
            with FlopCounterMode(display=False) as counter:
                kind(logits)
            gflop = counter.get_total_flops() / 1e9
        started = time.perf_counter()
        kind(full_size)
        compile_s = time.perf_counter() - started if case["form"] == "compiled" else None
        return Program(lambda: kind(full_size), compile_s, gflop)

    def matmul(side: int) -> Callable[[], Any]:
        matrix = torch.ones(side, side, dtype=getattr(torch, case["type"]), device=device)

        def run() -> None:
            matrix @ matrix
            wait()

        return run

    builders = {"forward": lambda: build(forward), "gradient": lambda: build(gradient)}
    parameters = sum(leaf.numel() for leaf in network.parameters())
    memory = torch.cuda.max_memory_allocated if device.type == "cuda" else None
    return Network(str(device), parameters, init_s, builders, matmul, memory)


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
            [sys.executable, __file__, "--worker", json.dumps(case)],
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
dropout. Backward: gradient of the mean cross-entropy at full size by all weights, BatchNorm on the batch's moments,
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
