"""Writes the blocks of a region's map as one raster for each UTM zone, `mosaic_<zone>.vrt`; one per zone, as a VRT has one CRS.

Enters: the finished blocks. Leaves: a GDAL virtual raster with the classes' names and colours, and its style for QGIS.
"""

from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from specsar_jax.maps import qgis
from tfds_dwplus import bands
from tfds_dwplus.bands import Classes
from tfds_dwplus.files.outputs import write_whole
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.places.blocks import Block


def write_mosaics(output: Path, done: Sequence[Block], classes: Classes) -> list[Path]:
    """Writes a VRT of the finished blocks of each zone, with a style for QGIS beside it; returns the paths of the VRTs."""
    paths = []
    for zone in sorted({block.zone for block in done}):
        path = output / f"mosaic_{zone}.vrt"
        for name, text in (
            (path, _mosaic([b for b in done if b.zone == zone], classes)),
            (path.with_suffix(".qml"), qgis.style(classes)),
        ):
            write_whole(name, text)
        paths.append(path)
    return paths


def grid(done: Sequence[Block]) -> Grid:
    """Returns the grid that holds the blocks of one zone."""
    return done[0].part(*_reach(done))


def _reach(done: Sequence[Block]) -> tuple[range, range]:
    """Returns the rows and columns of a zone that its blocks lie in."""
    rows, columns = [block.rows for block in done], [block.columns for block in done]
    return tuple(range(min(r.start for r in axis), max(r.stop for r in axis)) for axis in (rows, columns))


def _mosaic(done: Sequence[Block], classes: Classes) -> str:
    """Returns the XML of a GDAL virtual raster (VRT) of the blocks of one zone.

    Source: https://gdal.org/en/stable/drivers/raster/vrt.html
    """
    rows, columns = _reach(done)
    whole = grid(done)
    colours = "".join('<Entry c1="{}" c2="{}" c3="{}" c4="255"/>'.format(*rgb) for rgb in classes.rgb())
    names = "".join(f"<Category>{escape(name)}</Category>" for name in classes.names)
    sources = "".join(
        f'<SimpleSource><SourceFilename relativeToVRT="1">blocks/{block.name}.tif</SourceFilename><SourceBand>1</SourceBand>'
        f'<SourceProperties RasterXSize="{block.size_px}" RasterYSize="{block.size_px}" DataType="Byte" BlockXSize="512" '
        f'BlockYSize="512"/><SrcRect xOff="0" yOff="0" xSize="{block.size_px}" ySize="{block.size_px}"/>'
        f'<DstRect xOff="{block.columns.start - columns.start}" yOff="{block.rows.start - rows.start}" xSize="{block.size_px}" '
        f'ySize="{block.size_px}"/></SimpleSource>'
        for block in sorted(done)
    )
    metadata = ""
    if classes != bands.DYNAMIC_WORLD:  # else as in the folders of before
        tags = (f'<MDI key="class_{place}">{escape(name)}</MDI>' for place, name in enumerate(classes.names))
        metadata = f"<Metadata>{''.join(tags)}</Metadata>"
    return (
        f'<VRTDataset rasterXSize="{whole.width}" rasterYSize="{whole.height}"><SRS>{escape(whole.crs.to_wkt())}</SRS>'
        f"<GeoTransform>{', '.join(map(repr, whole.transform.to_gdal()))}</GeoTransform>"
        f'{metadata}<VRTRasterBand dataType="Byte" band="1"><Description>land cover</Description><NoDataValue>{bands.IGNORE}</NoDataValue>'
        f"<ColorInterp>Palette</ColorInterp><ColorTable>{colours}</ColorTable><CategoryNames>{names}</CategoryNames>"
        f"{sources}</VRTRasterBand></VRTDataset>"
    )
