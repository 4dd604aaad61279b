"""Maps of a scene: square kilometres a second and memory, beside PyTorch's tools with the same network; what a country costs.

    python -m venv peer && peer/bin/pip install torch torchvision terratorch
    python benchmarks/mapping.py --real ../shared/real --peer_python peer/bin/python

and [--sizes 1098,2196,10980] [--presets tiny,specsar_former] [--rounds 3] [--peers_up_to 2196] [--work DIR] [--json FILE].

The scene is the real one of `scene_pakistan` (2.6 km wide), mirrored again and again to the sizes asked for and put on a UTM grid of
10 m: compression and content are those of land, the land repeats. Twice: as one file a sensor on one grid, and as archives have it,
a file a band at 10 and 20 m with Sentinel-1 on a grid of its own. Weights are drawn, and such that every class is somewhere
the likeliest: a trained network takes as long.

PyTorch runs the same network, from the exported bundle by `specsar_jax/torch_model.py`: by TerraTorch's `tiled_inference`, with
windows of the same size, step and batch, on the scene that rasterio has read; and window by window with rasterio, without overlap. It
is in an environment of its own, for it pins other versions. Every case is a process of its own; rounds take their turns.

A round takes about a quarter of an hour on two cores, up to 2,196 pixels ten minutes; the largest scene takes 3 GB of disk.
"""

import argparse
import contextlib
import dataclasses
import io
import json
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from country import Rate, archive_bytes, plan, shown
from network import machine, table

FORMS = {
    "predict": "predict, one file a sensor",
    "archive": "predict, bands as archives have them",
    "predict_idle": "the same without the network, one file a sensor",
    "archive_idle": "the same without the network, bands as archives have them",
    "terratorch": "TerraTorch tiled_inference",
    "windows": "PyTorch, window by window, no overlap",
}
PEERS = ("terratorch", "windows")
CROP_PX = {"tiny": 128, "specsar_former": 510}
"""Side of what the networks are trained on, in `configs/`: tiles of 510 x 510 are taken whole."""
OVERLAP = 0.25
BANDS_20M = ("B5", "B6", "B7", "B11", "B12")
S2_DATE, S1_DATE = "s2_l1c/20200604T054639_20200604T054831_T43RCP", "s1/S1A_IW_GRDH_1SDV_20200607T010800*"
CORNER = 299_520, 3_498_240
"""Easting and northing in UTM zone 43N: on the lattice of both sizes of windows, so that PyTorch's tools cut at the same places."""
S1_AWAY_PX = 8.3
"""How far outside the scene the grid of Sentinel-1 begins, in pixels."""
NOTES = """
S: from when the software is imported until the map is on disk; median over {rounds} rounds (fastest-slowest); of the largest scene one
round. CPU s: of all cores, in S. Start: imports. A program compiled earlier is loaded, not compiled: the first start on a machine took {first} in all.
km2/s: of ground at 10 m, not of windows. Windows: that went through the network, those included that fill up a batch. At work: time in
which the network was at work, as `predict` tells it, of S; for PyTorch the time in its calls. Alone: what as many calls take when
nothing else runs, measured after the map, of S: on few cores reading and blending share them with the network. Memory: most that the
process held (resident), until the map was there. x TerraTorch: its S over this one's, round by round, median; above 1 is faster.
Same class: of all pixels, as in `predict` from one file a sensor; both cut at the same places and blend by nearly the same weights.
"""


@dataclasses.dataclass(frozen=True)
class Job:
    """One map, or one thing to be made before."""

    form: str
    folder: str
    size: int
    preset: str
    real: str = ""

    @property
    def scene(self) -> Path:
        """Folder of the scene's files."""
        return Path(self.folder) / f"scene_{self.size}"

    @property
    def bundle(self) -> Path:
        """The network's file."""
        return Path(self.folder) / f"{self.preset}.safetensors"

    @property
    def output(self) -> Path:
        """The map."""
        return Path(self.folder) / f"{self.preset}_{self.size}_{self.form}.tif"

    def inputs(self) -> tuple[list[Path], list[Path]]:
        """Files of Sentinel-2 and of Sentinel-1."""
        if self.form.startswith("archive"):
            return sorted((self.scene / "s2").glob("*.tif")), sorted((self.scene / "s1").glob("*.tif"))
        return [self.scene / "s2.tif"], [self.scene / "s1.tif"]


class Counted:
    """A network that counts its calls, and keeps the first batch to be timed alone."""

    def __init__(self, network: Callable[..., Any]) -> None:
        self.calls, self.seconds = 0, 0.0
        self._network, self._batch = network, ()

    def __call__(self, *batch: Any) -> Any:
        """As the network; `seconds` is the time until it returns."""
        self.calls += 1
        self._batch = self._batch or batch
        started = time.perf_counter()
        result = self._network(*batch)
        self.seconds += time.perf_counter() - started
        return result

    @property
    def windows(self) -> int:
        """That went through the network."""
        return self.calls * len(self._batch[0])

    def alone_s(self) -> float:
        """What as many calls take when nothing else runs."""
        times = []
        while len(times) < 4 or (sum(times) < 3 and len(times) < 50):
            started = time.perf_counter()
            result = self._network(*self._batch)
            getattr(result, "block_until_ready", lambda: None)()
            times.append(time.perf_counter() - started)
        return float(np.median(times[1:])) * self.calls


def memory_gb() -> float:
    """Most that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e9 / 1024)


def map_by_predict(job: Job) -> dict[str, Any]:
    """By the command, with the network counted, or in its place constant shares."""
    started = time.perf_counter()
    from specsar_jax import predict
    from tfds_dwplus import bands

    counted, make = [], predict.make_probabilities

    def made(*arguments: Any) -> Counted:
        def constant(s2: np.ndarray, _: np.ndarray) -> np.ndarray:
            share = np.linspace(0.2, 0.02, len(bands.CLASSES), dtype=np.float32)
            return np.broadcast_to(share, (*s2.shape[:3], share.size))

        counted.append(Counted(constant if job.form.endswith("_idle") else make(*arguments)))
        return counted[0]

    predict.make_probabilities = made
    s2, s1 = job.inputs()
    arguments = ["--workdir", job.bundle, "--s2", *s2, "--s1", *s1, "--output", job.output]
    said = io.StringIO()
    begun, working = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        predict.main([str(argument) for argument in arguments])
    seconds, working = time.perf_counter() - begun, time.process_time() - working
    facts = {"start_s": begun - started, "s": seconds, "cpu_s": working, "memory_gb": memory_gb()}
    facts["windows"] = counted[0].windows
    if job.form.endswith("_idle"):
        return facts
    (at_work,) = re.findall(r"at work (\d+)% of the time", said.getvalue())
    return facts | {"at_work": float(at_work) / 100, "alone": counted[0].alone_s() / seconds}


def map_by_torch(job: Job) -> dict[str, Any]:
    """By PyTorch's tools."""
    started = time.perf_counter()
    import rasterio
    import torch
    from rasterio.windows import Window

    if job.form == "terratorch":
        from terratorch.tasks.tiled_inference import tiled_inference
    sys.path.insert(0, str(Path(__file__).parent.parent / "specsar_jax"))
    import torch_model

    begun, working = time.perf_counter(), time.process_time()
    torch.set_num_threads(os.cpu_count() or 1)
    module = torch_model.load(job.bundle)
    network = Counted(lambda s2, s1: module.probabilities(s2, s1))
    window, step, batch = cutting(job)
    s2, s1 = (paths[0] for paths in job.inputs())
    with torch.inference_mode(), rasterio.open(s2) as s2, rasterio.open(s1) as s1:
        profile = {"driver": "GTiff", "dtype": "uint8", "count": 1, "nodata": 255, "compress": "deflate", "tiled": True}
        profile |= {"width": job.size, "height": job.size, "crs": s2.crs, "transform": s2.transform}
        if job.form == "terratorch":
            scene = {name: torch.from_numpy(of.read()).float()[None] for name, of in (("s2", s2), ("s1", s1))}
            # delta, a border that is thrown away, would make it more windows than ours.
            how = {"crop": window, "stride": step, "delta": 0, "batch_size": batch, "padding": False}
            shares = tiled_inference(lambda part: network(part["s2"], part["s1"]), scene, **how)
            with rasterio.open(job.output, "w", **profile) as target:
                target.write(shares[0].argmax(dim=0).to(torch.uint8).numpy(), 1)
        else:
            places = sorted({*range(0, job.size - window, window), job.size - window})
            with rasterio.open(job.output, "w", **profile, blockxsize=window, blockysize=window) as target:
                for place in (Window(left, top, window, window) for top in places for left in places):
                    pixels = (torch.from_numpy(of.read(window=place))[None] for of in (s2, s1))
                    target.write(network(*pixels)[0].argmax(dim=0).to(torch.uint8).numpy(), 1, window=place)
        seconds, working = time.perf_counter() - begun, time.process_time() - working
        facts = {"start_s": begun - started, "s": seconds, "cpu_s": working, "memory_gb": memory_gb()}
        return facts | {
            "windows": network.windows,
            "at_work": network.seconds / seconds,
            "alone": network.alone_s() / seconds,
        }


def cutting(job: Job) -> tuple[int, int, int]:
    """Side and step of the windows of `predict`, and how many go through the network together."""
    window = -(-CROP_PX[job.preset] // 32) * 32
    return window, int(window * (1 - OVERLAP)) // 32 * 32, max(510 // window, 1)


def write_scene(job: Job) -> dict[str, Any]:
    """The mirrored scene, in both forms."""
    import rasterio
    from rasterio.crs import CRS

    from tfds_dwplus import bands

    real = Path(job.real) / "scene_pakistan"
    s2 = {name: real / S2_DATE / f"{name}.tif" for name in bands.S2_BANDS}
    (folder,) = real.glob(S1_DATE)
    s1 = {name: folder / f"{name}.tif" for name in bands.S1_BANDS}
    common = {"driver": "GTiff", "crs": CRS.from_epsg(32643), "tiled": True, "blockxsize": 512, "blockysize": 512}
    common |= {"compress": "deflate", "interleave": "band", "bigtiff": "if_safer", "num_threads": "all_cpus"}

    def mirrored(path: Path, size: int, repeat: int = 1) -> np.ndarray:
        with rasterio.open(path) as raster:
            pixels = raster.read(1)
        rows, columns = (np.pad(np.arange(n), (0, max(size - n, 0)), mode="symmetric")[:size] for n in pixels.shape)
        return pixels[np.ix_(rows.repeat(repeat), columns.repeat(repeat))]

    def create(path: Path, count: int, size: int, pixel_m: float, away_px: float = 0) -> Any:
        kind = {"dtype": "uint16", "predictor": 2} if "s2" in str(path.relative_to(job.folder)) else {}
        kind = kind or {"dtype": "float32", "predictor": 3, "nodata": float("nan")}
        x, y = CORNER[0] - away_px * pixel_m, CORNER[1] + away_px * pixel_m
        transform = rasterio.Affine(pixel_m, 0, x, 0, -pixel_m, y)
        path.parent.mkdir(parents=True, exist_ok=True)
        return rasterio.open(path, "w", count=count, width=size, height=size, transform=transform, **kind, **common)

    for sensor, paths in (("s2", s2), ("s1", s1)):
        with create(job.scene / f"{sensor}.tif", len(paths), job.size, 10) as target:
            target.descriptions = tuple(paths)
            for index, (name, path) in enumerate(paths.items(), start=1):
                coarse = 2 if name in BANDS_20M else 1
                target.write(mirrored(path, job.size // coarse, coarse), index)
    for name, path in s2.items():
        coarse = 2 if name in BANDS_20M else 1
        with create(job.scene / "s2" / f"{name}.tif", 1, job.size // coarse, 10 * coarse) as target:
            target.write(mirrored(path, job.size // coarse), 1)
    for name, path in s1.items():
        with create(job.scene / "s1" / f"{name}.tif", 1, job.size + 2 * int(S1_AWAY_PX), 10, S1_AWAY_PX) as target:
            target.write(mirrored(path, job.size + 2 * int(S1_AWAY_PX)), 1)
    return {}


def write_network(job: Job) -> dict[str, Any]:
    """A bundle with drawn weights, and the work that the network has with a window, GFLOP by XLA's count."""
    import jax
    import rasterio

    from specsar_jax import config as configs
    from specsar_jax import layers, model, preprocess
    from specsar_jax.bundle import Trained, write_bundle
    from tfds_dwplus import bands

    window, *_ = cutting(job)
    with rasterio.open(job.scene / "s2.tif") as s2, rasterio.open(job.scene / "s1.tif") as s1:
        pixels = [np.moveaxis(of.read(), 0, -1)[None, :512, :512] for of in (s2, s1)]

    def statistics(names: tuple[str, ...], values: np.ndarray, unit: str) -> preprocess.SensorStatistics:
        flat = values.reshape(-1, len(names)).astype(np.float64)
        low, high = np.percentile(flat, (1, 99), axis=0)
        of = (tuple(map(float, numbers)) for numbers in (flat.mean(0), flat.std(0), low, high))
        return preprocess.SensorStatistics(names, *of, unit, (len(flat),) * len(names))

    known = preprocess.Statistics(
        statistics(bands.S2_BANDS, pixels[0], bands.S2_UNIT),
        statistics(bands.S1_BANDS, pixels[1], bands.S1_UNIT),
        (1,) * 9,
    )
    config = configs.Config(model=configs.model_preset(job.preset))
    config = configs.override(config, [f"data.crop_px={CROP_PX[job.preset]}", f"predict.overlap={OVERLAP}"])
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: np.asarray(leaf) + 0.02 * rng.standard_normal(leaf.shape, np.float32),
        model.init_params(config.model, jax.random.key(0)),
    )

    def logits(variables: model.Variables, *pixels: jax.Array) -> jax.Array:
        return model.apply(variables, *preprocess.standardise(*pixels, known), config=config.model)

    seen = jax.jit(logits)(variables, *(of[:, :window, :window] for of in pixels))
    mean, std = (np.asarray(of) for of in (seen.mean(axis=(0, 1, 2)), seen.std(axis=(0, 1, 2))))
    decoder = variables["params"]["decoder"]
    decoder["classify_bias"] = (decoder["classify_bias"] - mean) / std
    decoder["classify_kernel"] = decoder["classify_kernel"] / std
    write_bundle(Trained(config, known, jax.tree.map(jax.numpy.asarray, variables), 0), job.bundle)
    jax.clear_caches()
    layers._join_rows = layers._join_whole  # of a loop, one turn would be counted
    work = jax.jit(lambda *of: logits(*of)).lower(variables, *(of[:, :window, :window] for of in pixels))
    return {"gflop": work.cost_analysis()["flops"] / 1e9}


WORK = {"scene": write_scene, "network": write_network} | dict.fromkeys(FORMS, map_by_predict)
WORK |= dict.fromkeys(PEERS, map_by_torch)


def run(job: Job, python: str) -> dict[str, Any]:
    """What a job tells, done by a process of its own."""
    for old in (job.output, job.output.with_suffix(".qml"), job.output.with_name(job.output.name + ".aux.xml")):
        old.unlink(missing_ok=True)
    command = [python, __file__, "--job", json.dumps(dataclasses.asdict(job))]
    # Threads of PyTorch that wait do not keep a core from others: on a busy machine that would be told as its speed.
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
    )
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        raise RuntimeError(f"{job.form} of {job.preset}, {job.size} px, failed")
    return json.loads(done.stdout.splitlines()[-1])


def spread(values: list[float]) -> str:
    """Median (lowest-highest)."""
    return shown(np.median(values)) + (f" ({shown(min(values))}-{shown(max(values))})" if len(values) > 1 else "")


def same_class(job: Job) -> str:
    """Percent of TerraTorch's pixels with the class of `predict`, which cut at the same places; '-' where one of both is not there."""
    import rasterio

    reference = dataclasses.replace(job, form="predict").output
    if job.form != "terratorch" or not (job.output.exists() and reference.exists()):
        return "-"
    with rasterio.open(job.output) as one, rasterio.open(reference) as two:
        return f"{100 * np.mean(one.read(1) == two.read(1)):.2f}"


def row(job: Job, figures: list[dict[str, Any]], peer: list[dict[str, Any]]) -> list[str]:
    """A line of the table."""
    seconds, area = [figure["s"] for figure in figures], (job.size / 100) ** 2
    ratios = [two["s"] / one["s"] for one, two in zip(figures, peer, strict=False)]
    return [
        f"{job.preset}, {job.size:,} px",
        FORMS[job.form],
        f"{figures[0]['windows']:,}",
        spread(seconds),
        shown(float(np.median([figure["cpu_s"] for figure in figures]))),
        shown(area / np.median(seconds)),
        shown(float(np.median(ratios))) if ratios else "-",
        *(
            f"{100 * np.median([figure[name] for figure in figures]):.0f}" if name in figures[0] else "-"
            for name in ("at_work", "alone")
        ),
        f"{max(figure['memory_gb'] for figure in figures):.2f}",
        shown(np.median([figure["start_s"] for figure in figures])),
        same_class(job),
    ]


def rate(preset: str, sizes: list[int], measured: dict[str, list[dict[str, Any]]], gflop: float) -> Rate:
    """What more ground costs, from the two largest scenes as archives have them: what a start costs is not in it."""
    _, step, _ = cutting(Job("archive", "", 0, preset))
    areas = [(size / 100) ** 2 for size in sizes[-2:]]
    medians = [float(np.median([f["s"] for f in measured[f"{preset} {size} archive"]])) for size in sizes[-2:]]
    more = medians[0] if len(areas) == 1 else medians[1] - medians[0]
    ground = areas[0] if len(areas) == 1 else areas[1] - areas[0]
    return Rate(preset, ground / more, gflop / (step / 100) ** 2)


def main() -> None:
    """Parses the arguments, measures, prints Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, help="folder with scene_pakistan and scene_laos")
    parser.add_argument("--peer_python", default="", help="of the environment with TerraTorch; without it, no peers")
    parser.add_argument("--sizes", default="1098,2196,10980", help="of the scenes, pixels, even")
    parser.add_argument("--presets", default="tiny,specsar_former")
    parser.add_argument("--forms", default=",".join(FORMS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers_up_to", type=int, default=2196, help="pixels: TerraTorch holds the whole scene")
    parser.add_argument("--work", type=Path, help="folder for scenes and maps, which stay; else a temporary one")
    parser.add_argument("--json", type=Path, help="also write all figures here")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        job = Job(**json.loads(args.job))
        answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # whatever libraries print is no answer
        print(json.dumps(WORK[job.form](job)), file=answers, flush=True)
        return
    if not args.real or not (args.real / "scene_pakistan").is_dir():
        parser.error(f"no folder {args.real}/scene_pakistan; say --real")
    if args.json and not args.json.parent.is_dir():  # told now, not after the measurement
        parser.error(f"no folder {args.json.parent.resolve()} to write {args.json.name} to")
    sizes, presets, load = sorted(map(int, args.sizes.split(","))), args.presets.split(","), os.getloadavg()[0]
    forms = [form for form in args.forms.split(",") if args.peer_python or form not in PEERS]
    if "archive" not in forms or {*forms} - FORMS.keys() or {*presets} - CROP_PX.keys():
        parser.error(f"expected forms of {', '.join(FORMS)}, archive among them, and presets of {', '.join(CROP_PX)}")
    with contextlib.ExitStack() as stack:
        folder = str(args.work or stack.enter_context(tempfile.TemporaryDirectory()))
        Path(folder).mkdir(parents=True, exist_ok=True)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{folder}/xla"
        compiled_before = Path(folder, "xla").exists()
        for size in sizes:
            if not (Path(folder) / f"scene_{size}").exists():
                run(Job("scene", folder, size, "", str(args.real)), sys.executable)
        gflop, first, measured = {}, 0.0, {}
        for preset in presets:
            gflop[preset] = run(Job("network", folder, sizes[0], preset), sys.executable)["gflop"]
            warm = run(Job("predict", folder, sizes[0], preset), sys.executable)
            first = max(first, warm["start_s"] + warm["s"])
        for turn in range(args.rounds):
            for preset in presets:
                for size in sizes if turn == 0 else [size for size in sizes if size <= args.peers_up_to]:
                    for form in forms if size <= args.peers_up_to else [form for form in forms if form not in PEERS]:
                        job = Job(form, folder, size, preset)
                        figures = run(job, args.peer_python if form in PEERS else sys.executable)
                        measured.setdefault(f"{preset} {size} {form}", []).append(figures)
                        told = f"round {turn + 1}: {preset}, {size} px, {FORMS[form]}: {figures['s']:.1f} s"
                        print(f"{told}, {figures['memory_gb']:.2f} GB", file=sys.stderr, flush=True)
                        if args.json:
                            args.json.write_text(json.dumps({"gflop": gflop, "measured": measured}, indent=1))
        versions = [f"Python {platform.python_version()}", *packages(sys.executable, "jax", "rasterio")]
        versions += packages(args.peer_python, "torch", "terratorch") if args.peer_python else []
        print(f"\n{machine()}, load before the run {load:.1f}  \n{', '.join(versions)}\n")
        rows = []
        for key, figures in measured.items():
            preset, size, form = key.split()
            peer = [] if form == "terratorch" else measured.get(f"{preset} {size} terratorch", [])
            rows.append(row(Job(form, folder, int(size), preset), figures, peer))
        header = [
            "scene",
            "form",
            "windows",
            "s",
            "CPU s",
            "km2/s",
            "x TerraTorch",
            "at work %",
            "alone %",
            "memory GB",
            "start s",
        ]
        print(table([*header, "same class %"], rows))
        print(NOTES.format(rounds=args.rounds, first="(not measured here)" if compiled_before else f"{first:.0f} s"))
        if len(sizes) > 1:
            print("\n".join(growth(measured, presets, sizes)))
        rates = [rate(preset, sizes, measured, gflop[preset]) for preset in presets]
        files = [*(Path(folder) / f"scene_{sizes[-1]}").glob("s[12]/*.tif")]
        print("\n" + plan(rates, archive_bytes(args.real, files, (sizes[-1] / 100) ** 2)))


def growth(measured: dict[str, list[dict[str, Any]]], presets: list[str], sizes: list[int]) -> list[str]:
    """Memory of the largest scene over that of the one before it."""
    lines = []
    for preset in presets:
        for form in ("predict", "archive"):
            found = [measured.get(f"{preset} {size} {form}") for size in sizes[-2:]]
            if all(found):
                small, large = (max(figure["memory_gb"] for figure in figures) for figures in found)
                lines.append(
                    f"- {preset}, {FORMS[form]}: {sizes[-1]:,} px take {large / small:.2f} times the memory of {sizes[-2]:,} px."
                )
    return lines


def packages(python: str, *names: str) -> list[str]:
    """Names with versions, as an environment has them."""
    code = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    found = subprocess.run([python, "-c", code, *names], capture_output=True, text=True, check=True).stdout.split()
    return [f"{name} {number}" for name, number in zip(names, found, strict=True)]


if __name__ == "__main__":
    main()
