"""What each exported form of a network costs: size on disk, time to load, time of a tile on a CPU, and how close it stays.

    python benchmarks/export.py [--workdir RUN] [--tile S2.tif S1.tif] [--size_px 510] [--rounds 7] [--no_peers] [--json FILE]

Without --workdir the network is `specsar_former` with weights out of a hat, without --tile the pixels are. Forms: `model.apply`
compiled by JAX, StableHLO, ONNX in float32 and with int8 weights, the latter also with int8 products (what onnxruntime's dynamic
quantisation makes of the file; it is not exported), the PyTorch module. All start from digital numbers and dB and give probabilities and
classes. Peers: transformers' SegFormer with the sizes of B2, from standardised numbers to logits, on PyTorch and through onnxruntime.

Needs `pip install -e '.[bench,onnx,stablehlo,torch]'`. Every form is a process of its own; all load, then each in turn runs once a
round, so that on a shared machine all see the same weather.
"""

import argparse
import dataclasses
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from network import machine, table

NAMES = {
    "jax": "JAX, `apply`",
    "stablehlo": "StableHLO",
    "onnx": "ONNX",
    "onnx_int8": "ONNX, int8 weights",
    "onnx_dynamic": "ONNX, int8 products",
    "torch": "PyTorch module",
    "segformer": "SegFormer-B2, PyTorch",
    "segformer_onnx": "SegFormer-B2, ONNX",
}
FILES = {
    "jax": "net.safetensors",
    "torch": "net.safetensors",
    "stablehlo": "net.stablehlo",
    "segformer": "segformer.safetensors",
} | {form: f"{form}.onnx" for form in ("onnx", "onnx_int8", "onnx_dynamic", "segformer_onnx")}

Run = Callable[[np.ndarray, np.ndarray], Any]


def write_network(folder: Path, workdir: str) -> None:
    """All forms of the network, as files."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from specsar_jax.exports.onnx_graph import write_onnx
    from specsar_jax.exports.stablehlo import write_stablehlo
    from specsar_jax.trained.bundle import write_bundle
    from specsar_jax.trained.loading import load_trained

    trained = load_trained(Path(workdir)) if workdir else drawn()
    write_bundle(trained, folder / FILES["jax"])
    write_stablehlo(trained, folder / FILES["stablehlo"])
    write_onnx(trained, folder / FILES["onnx"])
    write_onnx(trained, folder / FILES["onnx_int8"], quantise=True)
    quantize_dynamic(
        folder / FILES["onnx"], folder / FILES["onnx_dynamic"], weight_type=QuantType.QInt8, per_channel=True
    )


def drawn() -> Any:
    """`specsar_former` with weights out of a hat, none of them zero."""
    import jax

    from specsar_jax import config as configs
    from specsar_jax.batches.preprocess import SensorStatistics, Statistics
    from specsar_jax.network import model
    from specsar_jax.trained.trained_network import Trained
    from tfds_dwplus import bands

    rng = np.random.default_rng(0)
    config = configs.Config(model=configs.model_preset("specsar_former"))
    variables = jax.tree.map(
        lambda leaf: leaf + 0.02 * rng.standard_normal(leaf.shape, np.float32),
        model.init_params(config.model, jax.random.key(0)),
    )

    def sensor(names: tuple[str, ...], low: float, high: float) -> SensorStatistics:
        numbers = ((low + high) / 2, (high - low) / 4, low, high)
        return SensorStatistics(names, *((v,) * len(names) for v in numbers), "", (1,) * len(names))

    statistics = Statistics(sensor(bands.S2_BANDS, 1, 6000), sensor(bands.S1_BANDS, -30, 0), (1,) * 9)
    return Trained(config, statistics, variables, 0)


def write_segformer(folder: Path, size_px: int) -> None:
    """The peer's weights, and the peer as ONNX, by PyTorch's own exporter."""
    import torch
    from safetensors.torch import save_file

    network = segformer(size_px)
    save_file(network.state_dict(), folder / FILES["segformer"])
    pixels = torch.zeros(1, 11, size_px, size_px)
    torch.onnx.export(network, (pixels,), folder / FILES["segformer_onnx"], dynamo=True, external_data=False)


def segformer(size_px: int) -> Any:
    """SegFormer-B2 over eleven bands, with logits at full size; eval mode."""
    import torch
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    sizes = {"depths": [3, 4, 6, 3], "hidden_sizes": [64, 128, 320, 512], "decoder_hidden_size": 768}

    class FullSize(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = SegformerForSemanticSegmentation(SegformerConfig(num_channels=11, num_labels=9, **sizes))

        def forward(self, pixels: Any) -> Any:
            small = self.network(pixel_values=pixels).logits
            return torch.nn.functional.interpolate(small, size=(size_px, size_px), mode="bilinear")

    return FullSize().eval()


def load(form: str, path: Path, size_px: int) -> Run:
    """A file as a function of digital numbers and dB, [1, height, width, band], to probabilities and classes."""
    threads = os.cpu_count() or 1
    if form == "jax":
        import jax

        from specsar_jax.exports.stablehlo import program
        from specsar_jax.trained.bundle import read_bundle
        from specsar_jax.trained.trained_network import named_weights

        trained = read_bundle(path)
        compiled, weights = jax.jit(program(trained)), named_weights(trained.variables)
        weights = jax.device_put(weights)
        given = {"s2": 0, "s1": 1}
        return lambda *pixels: compiled(weights, *(pixels[given[s]] for s in trained.config.model.sensors))
    if form == "stablehlo":
        import jax
        from jax import export

        exported = export.deserialize(bytearray(path.read_bytes()))
        called = jax.jit(exported.call)
        return lambda *pixels: called(*pixels[: len(exported.in_avals)])
    if form in ("torch", "segformer"):
        import torch

        torch.set_num_threads(threads)
        if form == "segformer":
            from safetensors.torch import load_file

            network = segformer(size_px)
            network.load_state_dict(load_file(path))
            pixels = torch.randn(1, 11, size_px, size_px)
            return torch.inference_mode()(lambda *_: network(pixels).numpy())
        sys.path.insert(0, str(Path(__file__).parent.parent / "specsar_jax" / "exports"))
        import torch_model

        network = torch_model.load(path)

        def run(s2: np.ndarray, s1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            with torch.inference_mode():
                turned = (torch.from_numpy(x).permute(0, 3, 1, 2) for x in (s2, s1))
                probabilities = network.probabilities(*turned).permute(0, 2, 3, 1)
                return probabilities.numpy(), probabilities.argmax(-1).to(torch.uint8).numpy()

        return run
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    wanted = [i.name for i in session.get_inputs()]
    if form == "segformer_onnx":
        pixels = np.random.default_rng(0).standard_normal((1, 11, size_px, size_px), np.float32)
        return lambda *_: session.run(None, {wanted[0]: pixels})
    return lambda *pixels: session.run(None, {n: x for n, x in zip(("s2", "s1"), pixels, strict=True) if n in wanted})


def work(form: str, folder: Path, size_px: int) -> None:
    """A worker process: loads, runs once, then answers every line on stdin with the milliseconds of a tile."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print is no answer
    tile = np.load(folder / "tile.npz")
    pixels = tile["s2"], tile["s1"]

    def once() -> tuple[Any, float]:
        started = time.perf_counter()
        outputs = run(*pixels)
        outputs = outputs if isinstance(outputs, np.ndarray) else [np.asarray(x) for x in outputs]
        return outputs, time.perf_counter() - started

    try:
        started = time.perf_counter()
        run = load(form, folder / FILES[form], size_px)
        facts = {"load_s": time.perf_counter() - started}
        outputs, facts["first_s"] = once()
        if not form.startswith("segformer"):
            np.savez(folder / f"{form}.npz", probabilities=outputs[0], classes=outputs[1])
    except Exception as error:  # the table shall tell, and go on
        facts = {"failed": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"}
    print(json.dumps(facts), file=answers, flush=True)
    for _ in sys.stdin:
        ms = once()[1] * 1e3
        print(
            json.dumps({"ms": ms, "memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}),
            file=answers,
            flush=True,
        )


@dataclasses.dataclass
class Form:
    """A form, its process, and what it has answered so far."""

    name: str
    process: subprocess.Popen
    facts: dict[str, Any]
    ms: list[float]

    def ask(self) -> dict[str, Any]:
        """The next answer."""
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"failed": "the process ended"}


def measure(folder: Path, forms: list[str], size_px: int, rounds: int) -> list[Form]:
    """Loads all forms, then times them in rounds."""
    quiet = {"JAX_ENABLE_COMPILATION_CACHE": "false", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
    running = []
    for name in forms:
        print(f"loading {name}", file=sys.stderr)
        arguments = [sys.executable, __file__, "--worker", name, str(folder), str(size_px)]
        process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | quiet
        )
        form = Form(name, process, {}, [])
        form.facts = form.ask()
        running.append(form)
    for turn in range(rounds):
        print(f"round {turn + 1} of {rounds}", file=sys.stderr)
        for form in running:
            if "failed" in form.facts:
                continue
            form.process.stdin.write("\n")
            form.process.stdin.flush()
            form.facts |= form.ask()
            form.ms.append(form.facts.pop("ms", float("nan")))
    for form in running:
        form.process.stdin.close()
        form.process.wait()
    return running


def row(form: Form, folder: Path, peer: Form | None) -> list[str]:
    """A line of the table."""
    size = f"{(folder / FILES[form.name]).stat().st_size / 1e6:.1f}"
    if "failed" in form.facts:
        return [NAMES[form.name], size, "-", "-", form.facts["failed"], "-", "-", "-", "-"]
    ratio = "-" if peer is None or "failed" in peer.facts else f"{np.median(np.divide(peer.ms, form.ms)):.2f}"
    difference = same = "-"
    if (folder / f"{form.name}.npz").exists() and (folder / "jax.npz").exists():
        ours, wanted = (np.load(folder / f"{name}.npz") for name in (form.name, "jax"))
        valid = wanted["classes"] != 255  # the PyTorch module leaves these to its user
        difference = f"{np.abs(ours['probabilities'] - wanted['probabilities']).max():.1e}"
        same = f"{100 * (ours['classes'] == wanted['classes'])[valid].mean():.3f}"
    return [
        NAMES[form.name],
        size,
        f"{form.facts['load_s']:.2f}",
        f"{form.facts['first_s']:.2f}",
        f"{np.median(form.ms):.0f} ({min(form.ms):.0f}-{max(form.ms):.0f})",
        ratio,
        f"{form.facts['memory_gb']:.2f}",
        difference,
        same,
    ]


def read_tile(paths: list[Path], size_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of two files, or out of a hat: [1, height, width, band]."""
    if paths:
        import rasterio

        with rasterio.open(paths[0]) as s2, rasterio.open(paths[1]) as s1:
            return tuple(np.moveaxis(file.read(), 0, -1)[None, :size_px, :size_px].copy() for file in (s2, s1))
    rng = np.random.default_rng(0)
    shape = (1, size_px, size_px)
    return rng.integers(1, 6000, (*shape, 9)).astype(np.uint16), rng.uniform(-30, 0, (*shape, 2)).astype(np.float32)


def main() -> None:
    """Parses the arguments, measures, prints Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workdir", default="", help="of a run, or a bundle, in place of weights out of a hat")
    parser.add_argument("--tile", nargs=2, type=Path, default=[], metavar=("S2", "S1"), help="in place of noise")
    parser.add_argument("--size_px", type=int, default=510)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--forms", type=lambda text: text.split(","), default=list(NAMES), help=",".join(NAMES))
    parser.add_argument("--no_peers", action="store_true", help="leave SegFormer out")
    parser.add_argument("--json", type=Path, help="all figures, to this file")
    args = parser.parse_args()
    forms = [form for form in args.forms if not (args.no_peers and form.startswith("segformer"))]
    if unknown := set(forms) - NAMES.keys():
        parser.error(f"no form {', '.join(unknown)}; forms: {', '.join(NAMES)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        s2, s1 = read_tile(args.tile, args.size_px)
        np.savez(folder / "tile.npz", s2=s2, s1=s1)
        # In processes of their own, so that this one stays small.
        subprocess.run([sys.executable, __file__, "--write", "network", name, args.workdir], check=True)
        if any(form.startswith("segformer") for form in forms):
            command = [sys.executable, __file__, "--write", "segformer", name, str(args.size_px)]
            subprocess.run(command, check=True, stdout=sys.stderr)
        measured = measure(folder, forms, args.size_px, args.rounds)
        peer = next((form for form in measured if form.name == "segformer_onnx"), None)
        header = ["form", "on disk MB", "load s", "first tile s", "tile ms", "x SegFormer", "memory GB"]
        header += ["largest difference", "same class %"]
        packages = ("jax", "onnxruntime", "torch", "transformers")
        versions = ", ".join(f"{package} {version(package)}" for package in packages if find_spec(package))
        print(
            f"{machine()}, Python {platform.python_version()}  \n{versions}; {s2.shape[1]} x {s2.shape[2]} px, float32\n"
        )
        rows = [row(form, folder, peer) for form in measured]
        print(table(header, rows))
        if args.json:
            figures = [{"form": form.name, "ms": form.ms} | form.facts for form in measured]
            args.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
    elif sys.argv[1:3] == ["--write", "network"]:
        write_network(Path(sys.argv[3]), sys.argv[4])
    elif sys.argv[1:3] == ["--write", "segformer"]:
        write_segformer(Path(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
