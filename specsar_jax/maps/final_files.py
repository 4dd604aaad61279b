"""The final files of a map: cloud-optimised GeoTIFFs of its strips, and what is made of the whole map.

Enters: virtual rasters of the strips, in the folder of the unfinished map. Leaves: files under their final names, each whole; the strips stay.
"""

import dataclasses
from pathlib import Path
from xml.sax.saxutils import escape

import rasterio
import rasterio.shutil

from specsar_jax.maps import publishing, qgis
from specsar_jax.patches.asked import Asked
from tfds_dwplus import bands
from tfds_dwplus.command_line import progress
from tfds_dwplus.files.outputs import write_whole
from tfds_dwplus.files.raster_files import GDAL_ERRORS, check_whole
from tfds_dwplus.imagery.grids import Grid

SCALE = 0.004
"""Probability of one step of the stored uint8 values: 1 is stored as 250, and 255 stays free for nodata."""

CACHE_BYTES = 32 * 2**20
"""Size of GDAL's block cache for the final files. Its default, a twentieth of the memory, would be filled by a large map."""


@dataclasses.dataclass(frozen=True)
class Work:
    """A map whose final files are made."""

    folder: Path
    """Of our own, for unfinished files."""
    grid: Grid
    classes: bands.Classes
    tags: dict[str, str]


def write_asked(work: Work, source: Path, asked: Asked) -> None:
    """Writes what is asked of a map, from the raster of its classes.

    Raises:
        ValueError: the raster cannot be read.
        OSError: the disk is full, or cannot be written for another reason.
    """
    if not asked.paths:
        return
    from specsar_jax.patches.vector_files import Source, write_polygons  # the packages of an extra

    source = joined(work, source, asked.minimum_area_ha)
    if asked.polygons:
        whole = work.folder / f"polygons_whole{asked.polygons.suffix.lower()}"
        _remove_whole(whole)  # of a process that was killed here
        with progress(
            total=work.grid.height * work.grid.width, desc="polygons", unit="px", unit_scale=True, leave=False
        ) as bar:
            write_polygons(whole, whole.suffix, [Source(source)], work.classes, done=bar.update)
        publishing.publish_file(whole, asked.polygons)
    if asked.generalised:
        write_generalised(work, source, asked.generalised, asked.minimum_area_ha)


def joined(work: Work, source: Path, minimum_area_ha: float | None) -> Path:
    """Returns a raster of a map's classes in which small patches have joined others; the given one without a minimum."""
    if minimum_area_ha is None:
        return source
    from specsar_jax.patches.class_rasters import generalise

    with progress(
        total=2 * work.grid.height * work.grid.width, desc="generalising", unit="px", unit_scale=True, leave=False
    ) as bar:
        generalise(source, work.folder / "joined.tif", minimum_area_ha, done=bar.update)
    return work.folder / "joined.tif"


def write_generalised(work: Work, joined: Path, final: Path, minimum_area_ha: float) -> None:
    """Writes the raster of `joined`, which lies in the folder, as a map: with its colours, names, tags, and a style for QGIS."""
    tags = work.tags | {"minimum_area_ha": f"{minimum_area_ha:g}"}
    wrapped = work.folder / "generalised.vrt"
    write_whole(wrapped, mosaic("map", work.grid, work.classes, tags, [(joined.name, 0)], [work.grid.height]))
    write_raster(work, "generalised", wrapped, final)


def write_raster(work: Work, name: str, source: Path, final: Path) -> None:
    """Writes a raster of a map as a cloud-optimised GeoTIFF with overviews.

    Args:
        work: the map.
        name: of the raster, as in `mosaic`, or `generalised`.
        source: virtual raster, with all that the file is to carry.
        final: name of the file.

    Raises:
        OSError: the disk is full, or cannot be written for another reason.
    """
    whole = work.folder / f"{name}_whole.tif"
    _remove_whole(whole)  # of a process that was killed here
    how = "average" if name in ("probabilities", "confidence") else "nearest"
    options = {"compress": "deflate", "predictor": "no", "overview_resampling": how, "num_threads": "all_cpus"}
    try:
        with rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES):
            rasterio.shutil.copy(source, whole, driver="COG", bigtiff="if_safer", **options)
            check_whole(whole)
    except (*GDAL_ERRORS, OSError) as error:
        _remove_whole(whole)
        reason = getattr(error, "strerror", None) or error.__cause__ or error
        raise OSError(f"cannot write {final.name} in {final.parent.resolve()} ({reason}): is the disk full?") from None
    publishing.publish(whole, final, qgis.style(work.classes) if name in ("map", "generalised") else "")


def mosaic(
    name: str,
    grid: Grid,
    classes: bands.Classes,
    tags: dict[str, str],
    strips: list[tuple[str, int]],
    heights: list[int],
) -> str:
    """Returns the XML of a GDAL virtual raster (VRT) of all strips, with the colours, names and tags of the final file.

    Source: https://gdal.org/en/stable/drivers/raster/vrt.html
    """
    if name == "map":
        tags = tags | {f"class_{place}": text for place, text in enumerate(classes.names)}
    place = "" if grid.crs is None else f"<SRS>{escape(grid.crs.to_wkt())}</SRS>"
    place += f"<GeoTransform>{', '.join(map(repr, grid.transform.to_gdal()))}</GeoTransform>"
    metadata = "".join(f'<MDI key="{escape(key)}">{escape(text)}</MDI>' for key, text in tags.items())
    described = {
        "map": ("land cover",),
        "confidence": ("probability of the class",),
        "probabilities": classes.names,
        "sensors_seen": ("sensors seen",),
    }
    rasters = []
    for index, description in enumerate(described[name], start=1):
        inside = f"<Description>{escape(description)}</Description><NoDataValue>{bands.IGNORE}</NoDataValue>"
        if name == "map":
            colours = "".join('<Entry c1="{}" c2="{}" c3="{}" c4="255"/>'.format(*rgb) for rgb in classes.rgb())
            categories = "".join(f"<Category>{escape(text)}</Category>" for text in classes.names)
            inside += f"<ColorInterp>Palette</ColorInterp><ColorTable>{colours}</ColorTable>"
            inside += f"<CategoryNames>{categories}</CategoryNames>"
        elif name == "sensors_seen":
            categories = "".join(f"<Category>{text}</Category>" for text in bands.SEEN_BY)
            inside += f"<CategoryNames>{categories}</CategoryNames>"
        else:
            inside += f"<Scale>{SCALE}</Scale>"
        for (file, top), height in zip(strips, heights, strict=True):
            size = f'xSize="{grid.width}" ySize="{height}"'
            inside += (
                f'<SimpleSource><SourceFilename relativeToVRT="1">{file}</SourceFilename><SourceBand>{index}</SourceBand>'
                f'<SrcRect xOff="0" yOff="0" {size}/><DstRect xOff="0" yOff="{top}" {size}/></SimpleSource>'
            )
        rasters.append(f'<VRTRasterBand dataType="Byte" band="{index}">{inside}</VRTRasterBand>')
    size = f'rasterXSize="{grid.width}" rasterYSize="{grid.height}"'
    return f"<VRTDataset {size}>{place}<Metadata>{metadata}</Metadata>{''.join(rasters)}</VRTDataset>"


def _remove_whole(whole: Path) -> None:
    """Removes a final file as far as it was written, and what GDAL had beside it."""
    for leftover in whole.parent.glob(f"{whole.stem}*"):
        leftover.unlink()
