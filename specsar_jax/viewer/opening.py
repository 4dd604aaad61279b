"""Opens what the viewer shows. If a large file has no overviews, they are made in a temporary folder.

Enters: paths and addresses of a class map, and perhaps of a second one, of a scene, probabilities and confidences. Leaves: `shown.Shown`.
"""

import contextlib
import dataclasses
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import rasterio
from rasterio.enums import Resampling

from specsar_jax.accuracy import legends
from specsar_jax.accuracy.class_maps import class_band
from specsar_jax.accuracy.legends import Legend
from specsar_jax.pages.map_classes import (
    check_probabilities,
    classes_of_map,
    coding_of_ids,
    coding_of_legend,
    look,
)
from specsar_jax.pages.palettes import safe_colours
from specsar_jax.viewer.agreement import compared
from specsar_jax.viewer.class_map import ClassMap
from specsar_jax.viewer.confidence import Shares
from specsar_jax.viewer.imagery import Imagery, open_imagery
from specsar_jax.viewer.mercator import WGS84
from specsar_jax.viewer.rasters import on_earth, placed_grid, reopened, with_overviews
from specsar_jax.viewer.shown import Shown
from tfds_dwplus import bands
from tfds_dwplus.command_line import local_path
from tfds_dwplus.files.addresses import shown as plain
from tfds_dwplus.files.addresses import shown_in
from tfds_dwplus.files.opening import open_raster
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.imagery.scenes import Reading


@dataclasses.dataclass(frozen=True)
class Given:
    """What is to be shown."""

    map: str
    """Class map of `specsar_jax.predict`, or of `legend`."""
    legend: str = ""
    """One of `legends.LEGENDS`, or a table of codes; '' for a map of `specsar_jax.predict`."""
    compare: str | None = None
    """A second map."""
    compare_legend: str = ""
    s2: Sequence[str] = ()
    """Files, folders or products of Sentinel-2."""
    s2_bands: tuple[str, ...] = ()
    """Names of the bands of `s2`, for files without band names."""
    probabilities: str | None = None
    """Raster of the first map's class probabilities, one band per class."""
    confidence: str | None = None
    """Raster of the first map's confidences."""
    any_vrt_source: bool = False
    """Whether a VRT may take its pixels from anywhere; as `anywhere` of `opening.open_raster`."""


@contextlib.contextmanager
def open_shown(given: Given) -> Iterator[Shown]:
    """Opens what is to be shown.

    Raises:
        ValueError: a file cannot be read, has the wrong content, or does not cover the map; two maps cannot be compared.
    """
    anywhere = given.any_vrt_source
    first = _open_map(given.map, given.legend, "--legend", anywhere)
    shown = Shown((first,))
    if given.compare:
        maps = _named_apart(first, _open_map(given.compare, given.compare_legend, "--compare_legend", anywhere))
        shown = Shown(maps, compared(*maps))
    if given.probabilities:
        probabilities = _open_probabilities(given.probabilities, first, anywhere)
        shown = dataclasses.replace(shown, probabilities=probabilities, sureness=probabilities)
    if given.confidence:
        shown = dataclasses.replace(shown, sureness=_open_confidence(given.confidence, first, anywhere))
    if given.s2:
        reading = Reading(s2_bands=given.s2_bands, any_vrt_source=anywhere)
        shown = dataclasses.replace(shown, imagery=open_imagery(given.s2, reading, first.file_grid))
    with tempfile.TemporaryDirectory(prefix="specsar_jax_view_", ignore_cleanup_errors=True) as folder:
        yield _with_overviews(shown, Path(folder))


def _open_map(path: str, legend: str, option: str, anywhere: bool) -> ClassMap:
    found = _legend(legend, option)
    name = plain(path)
    with open_raster(path, anywhere=anywhere) as raster:
        band = class_band(name, raster, found) if found else 1
        try:
            coding = (
                coding_of_legend(name, raster, band, found) if found else coding_of_ids(classes_of_map(name, raster))
            )
        except ValueError as error:
            if found:
                raise ValueError(str(error).replace("--legend", option)) from None
            if "expected a class map" not in str(error):
                raise
            raise ValueError(f"{error}; of another kind of map give {option}") from None
        grid = Grid.of(raster)
        tags = {
            key: shown_in(text) for key, text in raster.tags().items() if not re.match(r"AREA_OR_POINT|class_\d+$", key)
        }
        address = on_earth(raster, path)
        free = _free(raster, band, coding.codes.tolist())
    shown = ClassMap(
        Path(name).name, str(path), address, band, band, free, placed_grid(grid), grid, tags, coding,
        safe_colours(coding.classes), anywhere=anywhere,
    )  # fmt: skip
    if not grid.placed:
        print(f"note: {name} has no CRS and transform; it is shown without a place, areas in pixels", file=sys.stderr)
    elif shown.grid.bounds_in(WGS84) is None:
        raise ValueError(f"{name} has CRS {grid.crs.to_string()[:80]}, which has no longitude and latitude")
    return shown


def _named_apart(one: ClassMap, other: ClassMap) -> tuple[ClassMap, ClassMap]:
    """Gives maps of one file name those of their folders too, as far as they need them; a map beside itself gets a number."""
    parts = [re.split(r"[/\\]", plain(shown.source)) for shown in (one, other)]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(of_one[-count:]) for of_one in parts]
        if names[0] != names[1]:
            break
    else:
        names = [f"{one.name} (1)", f"{other.name} (2)"]
    return dataclasses.replace(one, name=names[0]), dataclasses.replace(other, name=names[1])


def _legend(name: str, option: str) -> Legend | None:
    """Returns a legend; None for maps of our own. Raises ValueError if there is none of that name, or its table cannot be read."""
    if name in ("", legends.OWN):
        return None
    try:
        if name.lower().endswith(".csv"):
            return legends.read_table(local_path(name), None)
        return legends.find(name, bands.DYNAMIC_WORLD)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from None


def _free(raster: rasterio.DatasetReader, band: int, codes: list[int]) -> float:
    """Returns a number of the raster's type that is no code and not its nodata."""
    kind = np.dtype(raster.dtypes[band - 1])
    if kind.kind == "f":
        return float(np.finfo(kind).min)
    taken = {*codes, raster.nodatavals[band - 1]}
    return next(float(number) for number in range(np.iinfo(kind).max, -1, -1) if number not in taken)


def _open_probabilities(path: str, first: ClassMap, anywhere: bool) -> Shares:
    with open_raster(path, anywhere=anywhere) as raster:
        check_probabilities(plain(path), raster, plain(first.source), first.file_grid, first.classes)
        return Shares(on_earth(raster, path), tuple(raster.indexes), float(raster.scales[0]), anywhere)


def _open_confidence(path: str, first: ClassMap, anywhere: bool) -> Shares:
    with open_raster(path, anywhere=anywhere) as raster:
        if raster.count != 1:
            raise ValueError(
                f"{plain(path)} holds {raster.count} bands, expected one, of the mapped class's probability, as predict --confidence writes it"
            )
        if not Grid.of(raster).same(first.file_grid):
            raise ValueError(
                f"{plain(path)} is not on the grid of {plain(first.source)}; give the confidence that was written with it"
            )
        scale = float(raster.scales[0])
        stored = look(plain(path), raster, 1)
        stored = stored[stored != raster.nodata] if raster.nodata is not None else stored
        most = float(np.nanmax(stored * scale, initial=0))
        if most > 1.001 or scale <= 0:
            raise ValueError(
                f"{plain(path)} holds {most:g}, expected shares of 0 to 1, as predict --confidence writes them; is it another raster?"
            )
        return Shares(on_earth(raster, path), (1,), scale, anywhere)


def _with_overviews(shown: Shown, folder: Path) -> Shown:
    """Gives large files without overviews some, in a folder."""
    maps = []
    for number, one in enumerate(shown.maps):
        vrt = folder / f"map_{number}.vrt"
        address, places = with_overviews(
            one.address, one.anywhere, [one.band], Resampling.nearest, vrt, plain(one.source)
        )
        with reopened(address, one.anywhere) as raster:  # with overviews it is read at once
            nodata = 1 - float(one.coding.known(look(plain(one.source), raster, places[one.band])).mean())
        maps.append(dataclasses.replace(one, address=address, band=places[one.band], nodata_share=nodata))
    agreement = dataclasses.replace(shown.agreement, one=maps[0], other=maps[1]) if shown.agreement else None
    probabilities = _shares_with_overviews(shown.probabilities, folder / "probabilities.vrt")
    sureness = probabilities
    if shown.sureness is not shown.probabilities:
        sureness = _shares_with_overviews(shown.sureness, folder / "confidence.vrt")
    imagery = _imagery_with_overviews(shown.imagery, folder) if shown.imagery else None
    return Shown(tuple(maps), agreement, imagery, sureness, probabilities)


def _shares_with_overviews(shares: Shares | None, path: Path) -> Shares | None:
    if shares is None:
        return None
    name = Path(plain(str(shares.address))).name
    address, places = with_overviews(shares.address, shares.anywhere, shares.indexes, Resampling.average, path, name)
    return dataclasses.replace(shares, address=address, indexes=tuple(places[index] for index in shares.indexes))


def _imagery_with_overviews(imagery: Imagery, folder: Path) -> Imagery:
    channels = list(imagery.channels)
    for number, scene in enumerate(dict.fromkeys(channel.address for channel in channels)):
        indexes = [channel.index for channel in channels if channel.address == scene]
        address, places = with_overviews(
            *(scene, imagery.anywhere, indexes, Resampling.average),
            *(folder / f"s2_{number}.vrt", Path(plain(scene)).name),
        )
        channels = [
            dataclasses.replace(c, address=address, index=places[c.index]) if c.address == scene else c
            for c in channels
        ]
    return dataclasses.replace(imagery, channels=tuple(channels))
