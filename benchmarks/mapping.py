"""Maps of a scene: square kilometres a second and memory, beside PyTorch's tools with the same network; what a country costs.

    python -m venv peer && peer/bin/pip install torch torchvision terratorch
    python benchmarks/mapping.py --real ../shared/real --peer_python peer/bin/python

and [--sizes 1098,2196,10980] [--presets tiny,specsar_former] [--rounds 3] [--peers_up_to 2196] [--work DIR] [--json FILE].

The scene is the real one of `scene_pakistan` (2.6 km wide), mirrored again and again to the sizes asked for and put on a UTM grid of
10 m: compression and content are those of land, the land repeats. Twice: as one file a sensor on one grid, and as archives have it,
a file a band at 10 and 20 m with Sentinel-1 on a grid of its own. Weights are drawn, and such that every class is somewhere
the likeliest: a trained network takes as long.

PyTorch runs the same network, from the exported bundle by `specsar_jax/exports/torch_model/`: by TerraTorch's `tiled_inference`, with
windows of the same size, step and batch, on the scene that rasterio has read; and window by window with rasterio, without overlap. It
is in an environment of its own, for it pins other versions. Every case is a process of its own; rounds take their turns.

A round takes about a quarter of an hour on two cores, up to 2,196 pixels ten minutes; the largest scene takes 3 GB of disk.
"""

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from mappings.country import Rate, archive_bytes, plan, shown
from mappings.jobs import CROP_PX, FORMS, PEERS, Job, cutting
from mappings.makers import write_network, write_scene
from mappings.mappers import map_by_predict, map_by_torch
from network import machine, table

NOTES = """
S: from when the software is imported until the map is on disk; median over {rounds} rounds (fastest-slowest); of the largest scene one
round. CPU s: of all cores, in S. Start: imports before S; of `predict` those of JAX and GDAL are in S, beside which it reads and loads. All: both.
A program compiled earlier is loaded, not compiled: the first start on a machine took {first} in all.
km2/s: of ground at 10 m, not of windows. Windows: that went through the network, those included that fill up a batch. At work: time in
which the network was at work, as `predict` tells it, of S; for PyTorch the time in its calls. Alone: what as many calls take when
nothing else runs, measured after the map, of S: on few cores reading and blending share them with the network. Memory: most that the
process held (resident), until the map was there. x TerraTorch: its S over this one's, round by round, median; above 1 is faster.
Same class: of all pixels, as in `predict` from one file a sensor; both cut at the same places and blend by nearly the same weights.
"""


WORK = {"scene": write_scene, "network": write_network} | dict.fromkeys(FORMS, map_by_predict)
WORK |= dict.fromkeys(PEERS, map_by_torch)


def run(job: Job, python: str) -> dict[str, Any]:
    """What a job tells, done by a process of its own."""
    for old in (job.output, job.output.with_suffix(".qml"), job.output.with_name(job.output.name + ".aux.xml")):
        old.unlink(missing_ok=True)
    command = [python, __file__, "--job", json.dumps(job._asdict())]
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

    reference = job._replace(form="predict").output
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
        shown(np.median([figure["start_s"] + figure["s"] for figure in figures])),
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
            "all s",
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
