"""What a country costs to map, on paper: arithmetic on rates that `mapping.py` measured. Pure, but that it looks at files' sizes.

Enters: square kilometres a second of `predict`, operations of a square kilometre, and the bytes of its bands. Leaves: Markdown. Nothing
is said of a device that was not measured but what it must do.
"""

import dataclasses
import math
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

REGIONS_KM2 = {"Cambodia": 181_035, "land surface of the earth": 148_940_000}
"""Source: CIA World Factbook, Cambodia, area, total; World, area, land."""

TILE_OVERLAP = (109.8 / 100) ** 2
"""Tiles of Sentinel-2 are 109.8 km wide and lie 100 km apart, so scene by scene this much is read and mapped of one.

Source: Sentinel-2 tiling grid, as https://hls.gsfc.nasa.gov/products-description/tiling-system/ describes it."""

DATES = (1, 4, 12)
MACHINES = (1, 100)
GPU_KM2_S = (10, 100, 1000)
"""Speeds to look up, of no device."""

BANDS_10M, BANDS_20M = ("B02", "B03", "B04", "B08"), ("B05", "B06", "B07", "B11", "B12")


@dataclasses.dataclass(frozen=True)
class Rate:
    """What was measured of a network."""

    preset: str
    km2_s: float
    """Of more ground, on the machine of the table."""
    gflop_km2: float
    """Operations of the network for a square kilometre, windows overlapping."""


@dataclasses.dataclass(frozen=True)
class Archive:
    """Files that hold the bands that a network reads."""

    name: str
    mb_km2: dict[str, float]
    """By kind of band."""


def shown(value: float) -> str:
    """A number with three digits that count, none of them lost before the point."""
    digits = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:,.{max(digits, 0)}f}"


def archive_bytes(real: Path, mirrored: list[Path], mirrored_km2: float) -> list[Archive]:
    """Megabytes a square kilometre: of the clear scene in Laos as it was given and as a COG, and of the mirrored one of Pakistan."""
    (laos,) = (real / "scene_laos").iterdir()
    found = {"10 m bands": [laos / f"{name}.tif" for name in BANDS_10M]}
    found["20 m bands"] = [laos / f"{name}.tif" for name in BANDS_20M]
    km2 = (1068 / 100) ** 2
    given = {kind: sum(path.stat().st_size for path in paths) / 1e6 / km2 for kind, paths in found.items()}
    with tempfile.TemporaryDirectory() as folder:
        again = {}
        for kind, paths in found.items():
            again[kind] = sum(cog_bytes(path, Path(folder) / path.name) for path in paths) / 1e6 / km2
    names = {f"B{int(name[1:])}": kind for kind, paths in found.items() for name in (path.stem for path in paths)}
    made: dict[str, float] = {}
    for path in mirrored:
        kind = names.get(path.stem, "Sentinel-1")
        made[kind] = made.get(kind, 0) + path.stat().st_size / 1e6 / mirrored_km2
    return [
        Archive("Laos, L2A, LZW, as Major TOM has it", given),
        Archive("Laos, L2A, COG with deflate and predictor", again),
        Archive("Pakistan, L1C and dB in float32, deflate and predictor", made),
    ]


def cog_bytes(source: Path, target: Path) -> int:
    """Size of a raster as a COG without overviews, for none is read. In another process, which is small when it begins."""
    code = (
        "import rasterio.shutil, sys; rasterio.shutil.copy(*sys.argv[1:3], driver='COG', compress='deflate', predictor='yes', "
        "overviews='none')"
    )
    subprocess.run([sys.executable, "-c", code, str(source), str(target)], check=True)
    return target.stat().st_size


def table(header: list[str], rows: list[list[str]], texts: int = 1) -> str:
    """Markdown, the columns but the first few aligned to the right."""
    lines = [header, ["---"] * texts + ["---:"] * (len(header) - texts), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def plan(rates: list[Rate], archives: list[Archive]) -> str:
    """The section 'What a country costs' of BENCHMARKS.md, from its first table on."""
    kinds = ("10 m bands", "20 m bands", "Sentinel-1")
    rows = [[a.name, *(shown(a.mb_km2[k]) if k in a.mb_km2 else "-" for k in kinds)] for a in archives]
    # The most that was seen of each, so that a plan is not too small.
    read = {kind: max(a.mb_km2.get(kind, 0) for a in archives) for kind in kinds}
    mb_km2 = sum(read.values())
    parts = [table(["bytes of a square kilometre, MB", "4 bands of 10 m", "5 of 20 m", "VV and VH"], rows)]
    parts.append(
        f"Read is what the network reads, nine bands and two; of each kind the most of a column: {shown(mb_km2)} MB a km2 and date. Of "
        f"60 m nothing is read. Scene by scene, overlapping tiles make every km2 {TILE_OVERLAP:.2f} of them, in what follows."
    )
    rows = []
    for region, km2 in REGIONS_KM2.items():
        read_tb = [shown(km2 * TILE_OVERLAP * mb_km2 * dates / 1e6) for dates in DATES]
        hours = [shown(km2 * TILE_OVERLAP / rate.km2_s / 3600 / count) for rate in rates for count in MACHINES]
        rows.append([region, f"{km2:,}", *read_tb, *hours])
    header = ["region", "km2", *(f"TB read, {dates} date{'s' * (dates > 1)}" for dates in DATES)]
    header += [f"hours, {rate.preset}, {count} machine{'s' * (count > 1)}" for rate in rates for count in MACHINES]
    parts.append(table(header, rows))
    speeds = " and ".join(f"{shown(rate.km2_s)} km2/s of {rate.preset}" for rate in rates)
    parts.append(
        f"Hours are km2 x {TILE_OVERLAP:.2f} / rate / 3600 / machines, for machines like that of the table above, at {speeds}: what more "
        "ground took there, from files on its own disk; that a hundred run side by side without waiting for a network or each other is "
        "assumed, not measured. A composite of n dates reads n times as much; the network sees it once."
    )
    rows = []
    for region, km2 in REGIONS_KM2.items():
        ground = km2 * TILE_OVERLAP
        for gpus in (1, 100):
            need = ground / 86400 / gpus
            work = [shown(need * rate.gflop_km2) for rate in rates]
            hours = [shown(ground / speed / 3600 / gpus) for speed in GPU_KM2_S]
            rows.append([region, str(gpus), *hours, shown(need), *work, shown(need * gpus * mb_km2 * 8)])
    header = ["region", "GPUs", *(f"hours at {speed:,} km2/s" for speed in GPU_KM2_S), "km2/s of each for one day"]
    header += [f"GFLOP/s of each for that, {rate.preset}" for rate in rates] + ["Mbit/s read by all, one date"]
    parts.append(table(header, rows))
    work = " and ".join(f"{shown(rate.gflop_km2)} GFLOP a km2 for {rate.preset}" for rate in rates)
    parts.append(
        "**No GPU was at hand, and no rate of one is given.** Hours are km2 x "
        f"{TILE_OVERLAP:.2f} / (km2/s of a GPU x 3600 x GPUs), at speeds to look up one's own in; to the right what a GPU must do for the "
        f"region to take a day. GFLOP/s are sustained, by XLA's count of the network's operations: {work}, windows overlapping by a quarter."
    )
    return "\n\n".join(part if part.startswith("|") else textwrap.fill(part, 128) for part in parts)
