"""How often the pixels of real scenes tell whether the offset of baseline 04.00 is in their digital numbers.

    python benchmarks/offsets.py [--real ../shared/real]

Real Sentinel-2 without the offset: whole scenes and chips, and eight windows of each. Each is decided as it is, and with 1000
added to its numbers, for two declarations: an item that says that the offset is in, and one with a flag besides that it was
not taken off, which is often wrong. Half a minute.
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import rasterio

from tfds_dwplus import bands
from tfds_dwplus.imagery.decoder.declared import Declared
from tfds_dwplus.imagery.decoder.reflectance import OffsetError, decide

SAID = Declared(1e-4, -0.1, None, 5.1)
FLAGGED = Declared(1e-4, -0.1, None, 5.1, offset_applied=False)
WINDOWS = 8
SHARE = 0.15
"""Side of a window as a share of the scene's."""


def scenes(real: Path) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Names of sources, and the nine bands of their scenes, each at its own resolution."""
    for path in sorted([*(real / "dwplus_mini" / "s2").glob("*.tif"), *(real / "land").rglob("*.tif")]):
        with rasterio.open(path) as raster:
            if raster.count >= len(bands.S2_BANDS):
                yield path.parts[-3], [raster.read(index + 1) for index in range(len(bands.S2_BANDS))]
    for folder in sorted([*(real / "scene_pakistan").glob("s2_*/*"), *(real / "scene_laos").glob("S2*")]):
        found = []
        for name in bands.S2_BANDS:
            path = next(folder / f"{text}.tif" for text in (name, f"B0{name[1:]}") if (folder / f"{text}.tif").exists())
            with rasterio.open(path) as raster:
                found.append(raster.read(1))
        yield folder.parts[-2 if "laos" in str(folder) else -3], found


def parts(whole: list[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Digital numbers with data: of the whole scene, and of windows at places that the seed gives."""
    rng = np.random.default_rng(0)
    yield [band[band > 0][::7] for band in whole]
    for top, left in rng.random((WINDOWS, 2)) * (1 - SHARE):
        cut = []
        for band in whole:
            rows, columns = (
                slice(int(at * size), int((at + SHARE) * size))
                for at, size in zip((top, left), band.shape, strict=True)
            )
            window = band[rows, columns]
            cut.append(window[window > 0])
        if min(band.size for band in cut) >= 50:
            yield cut


def decided(samples: list[np.ndarray], declared: Declared) -> str:
    """What is subtracted."""
    try:
        found = decide(bands.S2_BANDS, [declared] * len(samples), samples)
    except OffsetError:
        return "in doubt"
    return f"{-found.linear[0].shift + 0:g}"


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, default=Path("../shared/real"))
    args = parser.parse_args()
    counts: dict[tuple[str, str], Counter] = {}
    sources: Counter = Counter()
    for source, whole in scenes(args.real):
        sources[source] += 1
        for samples in parts(whole):
            for truth, added in (("1000 is in", 1000), ("it was subtracted before", 0)):
                numbers = [band.astype(np.int32) + added for band in samples]
                for what, declared in (("the offset", SAID), ("the offset and a flag", FLAGGED)):
                    counts.setdefault((truth, what), Counter())[decided(numbers, declared)] += 1
    print(f"{sum(sources.values())} scenes and chips: {', '.join(f'{n} {name}' for name, n in sources.items())}\n")
    print("| truth | declared | parts | 1000 subtracted | nothing subtracted | in doubt |\n|---|---|---|---|---|---|")
    for (truth, what), count in counts.items():
        print(f"| {truth} | {what} | {count.total()} | {count['1000']} | {count['0']} | {count['in doubt']} |")


if __name__ == "__main__":
    main()
