"""The raster of changes: a cloud-optimised GeoTIFF with colours, names and overviews, and a style for QGIS.

    change.tif            codes of `codes.py`
    change.tif.aux.xml    their names, which GDAL keeps beside a GeoTIFF
    change.qml            names and colours for QGIS, of the codes that occur

Enters: codes of pixels, window by window, in a folder of work. Leaves: the files, under their names when they are whole.
"""

import contextlib
import dataclasses
from collections.abc import Collection, Iterator
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import rasterio
import rasterio.shutil
from jaxtyping import UInt
from rasterio.windows import Window

from specsar_jax.changes import codes
from specsar_jax.changes.comparing import Write
from specsar_jax.maps import publishing, qgis
from tfds_dwplus.bands import Classes
from tfds_dwplus.files.outputs import write_whole
from tfds_dwplus.files.raster_files import GDAL_ERRORS, check_whole
from tfds_dwplus.imagery.grids import Grid

_BLOCK_PX = 512

_COG = {"compress": "deflate", "predictor": "no", "overview_resampling": "nearest", "num_threads": "all_cpus"}


@dataclasses.dataclass(frozen=True)
class Raster:
    """A raster of changes in a folder of work."""

    folder: Path
    grid: Grid
    classes: Classes
    tags: dict[str, str]
    found: set[int] = dataclasses.field(default_factory=set)
    """Codes that occur, without nodata; grows as they are written."""

    @contextlib.contextmanager
    def written(self) -> Iterator[Write]:
        """Gives what writes windows, which are `comparing.compare`'s; at the end the raster is cloud-optimised.

        Raises:
            OSError: the disk is full, or cannot be written for another reason.
        """
        self.folder.mkdir()
        plain = self.folder / "codes.tif"
        profile = {"crs": self.grid.crs, "transform": self.grid.transform, "dtype": codes.dtype(len(self.classes))}
        profile |= {"height": self.grid.height, "width": self.grid.width, "count": 1, "nodata": self._nodata}
        profile |= {"tiled": True, "blockxsize": _BLOCK_PX, "blockysize": _BLOCK_PX, "bigtiff": "if_safer"}
        with _faults_told():
            opened = rasterio.open(plain, "w", driver="GTiff", compress="deflate", zlevel=1, **profile)
        with opened as raster:

            def write(rows: range, columns: range, values: UInt[np.ndarray, "rows columns"]) -> None:
                with _faults_told():
                    raster.write(values, 1, window=Window(columns.start, rows.start, len(columns), len(rows)))
                self.found.update(np.unique(values).tolist())

            yield write
        with _faults_told():
            check_whole(plain)
            virtual = plain.with_suffix(".vrt")
            write_whole(virtual, self._virtual(plain.name))
            rasterio.shutil.copy(virtual, self._whole, driver="COG", bigtiff="if_safer", **_COG)
            check_whole(self._whole)
        self.found.discard(self._nodata)
        plain.unlink()

    def publish(self, final: Path, shown: Collection[int]) -> None:
        """Gives the raster its name, and a style for QGIS with the codes that are to be shown."""
        publishing.publish(self._whole, final, _style(self.classes, shown))

    @property
    def _nodata(self) -> int:
        return codes.nodata(len(self.classes))

    @property
    def _whole(self) -> Path:
        return self.folder / "whole.tif"

    def _virtual(self, plain: str) -> str:
        """Returns a GDAL virtual raster of the codes, with the colours, names and tags of the final file, which rasterio cannot all write.

        Source: https://gdal.org/en/stable/drivers/raster/vrt.html
        """
        grid, names = self.grid, codes.names(self.classes)
        kind = {"uint8": "Byte", "uint16": "UInt16"}[codes.dtype(len(self.classes))]
        tags = self.tags | {f"class_{code}": name for code, name in enumerate(names)}
        metadata = "".join(f"<MDI key={quoteattr(key)}>{escape(text)}</MDI>" for key, text in tags.items())
        colours = "".join(
            f'<Entry c1="{red}" c2="{green}" c3="{blue}" c4="255"/>' for red, green, blue in codes.colours(self.classes)
        )
        categories = "".join(f"<Category>{escape(name)}</Category>" for name in names)
        size = f'xOff="0" yOff="0" xSize="{grid.width}" ySize="{grid.height}"'
        return (
            f'<VRTDataset rasterXSize="{grid.width}" rasterYSize="{grid.height}"><SRS>{escape(grid.crs.to_wkt())}</SRS>'
            f"<GeoTransform>{', '.join(map(repr, grid.transform.to_gdal()))}</GeoTransform><Metadata>{metadata}</Metadata>"
            f'<VRTRasterBand dataType="{kind}" band="1"><Description>change of land cover</Description>'
            f"<NoDataValue>{self._nodata}</NoDataValue><ColorInterp>Palette</ColorInterp><ColorTable>{colours}</ColorTable>"
            f'<CategoryNames>{categories}</CategoryNames><SimpleSource><SourceFilename relativeToVRT="1">{plain}</SourceFilename>'
            f"<SourceBand>1</SourceBand><SrcRect {size}/><DstRect {size}/></SimpleSource></VRTRasterBand></VRTDataset>"
        )


@contextlib.contextmanager
def _faults_told() -> Iterator[None]:
    """Tells a fault of GDAL or of the disk as one of what is written."""
    try:
        yield
    except (*GDAL_ERRORS, OSError) as error:
        reason = getattr(error, "strerror", None) or error.__cause__ or error
        raise OSError(f"cannot write the raster of changes ({reason}): is the disk full?") from None


def _style(classes: Classes, shown: Collection[int]) -> str:
    """Returns the style of a class map for QGIS with other entries: those of changes."""
    doctype, _, text = qgis.style(classes).partition("\n")
    root = ElementTree.fromstring(text)
    palette = root.find("pipe/rasterrenderer/colorPalette")
    palette.clear()
    names, colours = codes.names(classes), codes.colours(classes)
    for code in sorted(shown):
        entry = {"value": str(code), "color": "#" + bytes(colours[code]).hex(), "alpha": "255"}
        ElementTree.SubElement(palette, "paletteEntry", entry | {"label": names[code].replace("_", " ")})
    ElementTree.indent(root)
    return f"{doctype}\n{ElementTree.tostring(root, encoding='unicode')}\n"
