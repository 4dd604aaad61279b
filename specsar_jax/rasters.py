"""Scenes in and maps out: GeoTIFFs with bands found by name, class maps with colours, names and nodata.

Enters: the files of one scene. Leaves: pixels of a window as digital numbers and dB; a class map and, on request, class
probabilities, written beside and renamed when whole.
"""

import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from xml.sax.saxutils import escape

import numpy as np
import rasterio
import rasterio.shutil
from jaxtyping import Float, Shaped, UInt8
from rasterio.windows import Window

from tfds_dwplus import bands
from tfds_dwplus.tile_files import (
    check_backscatter,
    check_has_data,
    check_same_grid,
    named_bands,
    open_raster,
    read_bands,
)

PROBABILITY_SCALE = 0.004
"""Probability of 1 in the files: 250 and 0.004, so that 255 is free for nodata."""


class Sensor:
    """The bands of one sensor over a scene, from one multi-band file or one file a band, all on one grid."""

    def __init__(self, paths: list[Path], wanted: tuple[str, ...], dtype: str) -> None:
        """Opens the files.

        Args:
            paths: files; bands are known by their description or, in a file of one band, by the file's name.
            wanted: band names, in the order in which `read` gives them.
            dtype: type that the pixels must have.

        Raises:
            ValueError: a file cannot be read, is of another type or grid, or a band is missing or there twice.
        """
        self._files = contextlib.ExitStack()
        self.paths = paths
        rasters = [self._files.enter_context(open_raster(path)) for path in paths]
        self.first, self.wanted = rasters[0], wanted
        places: dict[str, tuple[Path, rasterio.DatasetReader, int]] = {}
        for path, raster in zip(paths, rasters, strict=True):
            check_same_grid(path, raster, paths[0], self.first)
            if set(raster.dtypes) != {dtype}:
                raise ValueError(f"{path} is {raster.dtypes[0]}, expected {dtype}")
            for index, name in enumerate(_names(path, raster), start=1):
                if name in places:
                    raise ValueError(f"band {name} is in {places[name][0]} and again in {path}")
                places[name] = (path, raster, index)
        missing = [name for name in wanted if name not in places]
        if missing:
            raise ValueError(
                f"no band {', '.join(missing)} in {', '.join(map(str, paths))}; found {', '.join(places)}, "
                f"the network was trained on {', '.join(wanted)}"
            )
        self._places = [places[name] for name in wanted]

    def read(self, rows: slice, columns: slice) -> Shaped[np.ndarray, "rows columns band"]:
        """Pixels of a window, cut at the edge of the scene."""
        window = Window.from_slices(rows, columns, height=self.first.height, width=self.first.width, boundless=False)
        layers = [read_bands(path, raster, (index,), window) for path, raster, index in self._places]
        return np.concatenate(layers, axis=-1)

    def check_has_data(self, nodata: float) -> None:
        """Raises a ValueError if a band is all nodata (0 or NaN). Reads until it has seen a valid pixel of each."""
        seen = np.zeros(len(self.wanted), bool)
        for top in range(0, self.first.height, 512):
            pixels = self.read(slice(top, min(top + 512, self.first.height)), slice(0, self.first.width))
            seen |= ((pixels != nodata) & np.isfinite(pixels)).any(axis=(0, 1))
            if seen.all():
                return
        check_has_data(self.paths[0], seen[None, None], self.wanted)

    def __enter__(self) -> "Sensor":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._files.close()


class Scene:
    """Co-registered Sentinel-2 and Sentinel-1 over one place; either may be None where the network does not read it."""

    def __init__(self, s2: Sensor | None, s1: Sensor | None) -> None:
        """Raises ValueError if the two are not on one grid, or if a band has no data at all."""
        if s2 and s1:
            check_same_grid(s1.paths[0], s1.first, s2.paths[0], s2.first)
        for sensor, nodata in ((s2, float(bands.S2_NODATA)), (s1, np.nan)):
            if sensor:
                sensor.check_has_data(nodata)
        self.s2, self.s1 = s2, s1
        self.grid = (s2 or s1).first

    def read(self, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
        """Digital numbers and dB of a window. A sensor that is not there has no channels."""
        nothing = (rows.stop - rows.start, columns.stop - columns.start, 0)
        s2 = self.s2.read(rows, columns) if self.s2 else np.empty(nothing, np.uint16)
        s1 = self.s1.read(rows, columns) if self.s1 else np.empty(nothing, np.float32)
        if self.s1:
            check_backscatter(self.s1.paths[0], s1)
        return s2, s1


class MapWriter:
    """Class map, and probabilities if a path is given, row by row; the files appear when `finish` was called."""

    def __init__(
        self, grid: rasterio.DatasetReader, output: Path, probabilities: Path | None, tags: dict[str, str]
    ) -> None:
        """Opens the unfinished files in a folder beside the output. Raises OSError if that cannot be written."""
        for path in (output, probabilities or output):
            if not path.parent.is_dir():
                raise ValueError(f"no folder {path.parent.resolve()} to write {path.name} to")
            if path.is_dir():
                raise ValueError(f"{path} is a folder, expected the name of a file to write")
        self._folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
        self._output, self._probabilities = output, probabilities
        profile = {
            "driver": "GTiff",
            "height": grid.height,
            "width": grid.width,
            "dtype": "uint8",
            "nodata": bands.IGNORE,
            "crs": grid.crs,
            "transform": grid.transform,
            "tiled": True,
            "compress": "deflate",
            "bigtiff": "if_safer",
        }
        self._map = rasterio.open(self._folder / "map.tif", "w", count=1, **profile)
        self._map.write_colormap(1, {place: (*rgb, 255) for place, rgb in enumerate(bands.class_rgb())})
        self._map.set_band_description(1, "land cover")
        self._map.update_tags(**tags, **{f"class_{place}": name for place, name in enumerate(bands.CLASSES)})
        self._shares = None
        if probabilities:
            self._shares = rasterio.open(self._folder / "probabilities.tif", "w", count=len(bands.CLASSES), **profile)
            self._shares.descriptions = bands.CLASSES
            self._shares.scales = (PROBABILITY_SCALE,) * len(bands.CLASSES)
            self._shares.update_tags(**tags)

    def write(
        self,
        row: int,
        class_id: UInt8[np.ndarray, "rows columns"],
        probability: Float[np.ndarray, "rows columns class"],
    ) -> None:
        """Writes some whole rows, from `row` on. Pixels of class 255 are nodata in both files."""
        window = Window(0, row, class_id.shape[1], class_id.shape[0])
        self._map.write(class_id, 1, window=window)
        if self._shares:
            scaled = np.rint(probability / PROBABILITY_SCALE).astype(np.uint8)
            scaled[class_id == bands.IGNORE] = bands.IGNORE
            self._shares.write(np.moveaxis(scaled, -1, 0), window=window)

    def finish(self) -> None:
        """Makes both files cloud-optimised, with overviews, and gives them their names."""
        self._map.close()
        names = "".join(f"<Category>{escape(name)}</Category>" for name in bands.CLASSES)
        # GDAL keeps category names beside a GeoTIFF, never inside; the copy below carries them on.
        (self._folder / "map.tif.aux.xml").write_text(
            f'<PAMDataset><PAMRasterBand band="1"><CategoryNames>{names}</CategoryNames></PAMRasterBand></PAMDataset>'
        )
        self._publish("map.tif", self._output, "nearest")
        if self._shares:
            self._shares.close()
            self._publish("probabilities.tif", self._probabilities, "average")
        shutil.rmtree(self._folder)

    def _publish(self, name: str, final: Path, overviews: str) -> None:
        whole = self._folder / f"cog_{name}"
        rasterio.shutil.copy(
            self._folder / name, whole, driver="COG", compress="deflate", predictor="no", overview_resampling=overviews
        )
        beside = whole.with_name(whole.name + ".aux.xml")
        if beside.exists():
            _move(beside, final.with_name(final.name + ".aux.xml"))
        _move(whole, final)

    def __enter__(self) -> "MapWriter":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._folder.exists():
            for raster in (self._map, self._shares):
                if raster:
                    raster.close()
            shutil.rmtree(self._folder)


def _move(source: Path, final: Path) -> None:
    """A rename that also crosses file systems, and never shows half a file under the final name."""
    part = final.with_name(f".{final.name}.part")
    shutil.move(source, part)
    part.replace(final)


def _names(path: Path, raster: rasterio.DatasetReader) -> tuple[str, ...]:
    """Band names from the descriptions; of a file of one band, else from the file's name ('..._B02_10m.tif', 'VH.tif')."""
    if raster.count > 1 or raster.descriptions[0]:
        described = named_bands(path, raster.descriptions)
        if raster.count > 1 or described[0] in (*bands.S2_ALL_BANDS, *bands.S1_BANDS):
            return described
    return (next(_bands_in_name(path), path.stem),)


def _bands_in_name(path: Path) -> Iterator[str]:
    for word in reversed(re.split(r"[^A-Za-z0-9]+", path.stem)):
        name = bands.canonical_band(word)
        if name in (*bands.S2_ALL_BANDS, *bands.S1_BANDS):
            yield name
