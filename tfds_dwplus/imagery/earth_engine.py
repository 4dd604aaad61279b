"""Fetch the imagery of a label tile from Google Earth Engine, the paper's source.

Enters and leaves the same as `stac.stac_imagery`. Sentinel-1 is GRD (sigma0 in dB), Sentinel-2 is harmonised. A tile needs
two requests for metadata and two for pixels (`computePixels`, at most 9 MB each; the service's limit is 48 MB).

NOT RUN against the service, which needs an account and a network. Tests cover `scenes`, `passes`, `request`, `arrays` and
`explained`, which need neither. Where slices of one pass overlap they are averaged, not mosaicked as in `stac`. GRD slices
hardly overlap.
"""

import dataclasses
import datetime
import threading
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt16
from rasterio.warp import transform_bounds

from tfds_dwplus import bands
from tfds_dwplus.imagery.acquisitions import (
    ArchiveError,
    Imagery,
    NoImageryError,
    SceneMetadata,
    Wanted,
    check_not_empty,
    choose_scene,
    common_columns,
)
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.labels.published import LabelTile

S1_COLLECTION = "COPERNICUS/S1_GRD"
S2_COLLECTIONS = {"L1C": "COPERNICUS/S2_HARMONIZED", "L2A": "COPERNICUS/S2_SR_HARMONIZED"}
"""Collections by processing level. Earth Engine has subtracted the offset of baseline 04.00 from both."""

URL = "https://earthengine-highvolume.googleapis.com"
NODATA = -9999.0
"""Value of masked pixels in what the service sends."""

_S2_PROPERTIES = ("system:index", "PRODUCT_ID", "system:time_start", "CLOUDY_PIXEL_PERCENTAGE", "system:footprint")
_S1_PROPERTIES = ("system:index", "system:time_start", "orbitProperties_pass")

_login = threading.Lock()


@dataclasses.dataclass(frozen=True)
class EarthEngineArchive:
    """The account that is used."""

    project: str = ""
    """Google Cloud project; empty for the account's default."""


def earth_engine_imagery(tile: LabelTile, grid: Grid, wanted: Wanted, archive: EarthEngineArchive) -> Imagery:
    """Finds, combines and fetches the scenes of a tile.

    Raises:
        NoImageryError: no scene in the time window, or a band without a valid pixel.
        ArchiveError: the service did not answer, or a quota is used up.
        ValueError: no login or no project.
    """
    ee = _service(archive.project)
    try:
        region = ee.Geometry.Rectangle(list(transform_bounds(grid.crs, "EPSG:4326", *grid.bounds)), None, False)

        def within(name: str, days: int) -> Any:
            start, end = window(tile.date, days)
            return ee.ImageCollection(name).filterBounds(region).filterDate(start, end)

        def known(collection: Any, properties: tuple[str, ...]) -> dict[str, list]:
            # Only images that have all properties, so that the lists have equal length and order.
            whole = collection.filter(ee.Filter.notNull(list(properties)))
            return ee.Dictionary({name: whole.aggregate_array(name) for name in properties}).getInfo()

        s2_images = within(S2_COLLECTIONS[wanted.s2_level], wanted.s2_window_days)
        s2_known = known(s2_images, _S2_PROPERTIES)
        index = s2_known["system:index"][choose_scene(scenes(s2_known), tile, grid, wanted.s2_window_days)]
        s2 = s2_images.filter(ee.Filter.eq("system:index", index)).first().select(list(wanted.s2_bands))

        s1_images = within(S1_COLLECTION, wanted.s1_window_days).filter(ee.Filter.eq("instrumentMode", "IW"))
        for polarisation in bands.S1_BANDS:
            s1_images = s1_images.filter(ee.Filter.listContains("transmitterReceiverPolarisation", polarisation))
        if wanted.s1_orbit != "both":
            s1_images = s1_images.filter(ee.Filter.eq("orbitProperties_pass", wanted.s1_orbit.upper()))
        dates = passes(known(s1_images, _S1_PROPERTIES))
        if not dates:
            raise NoImageryError(
                f"no {wanted.s1_orbit} Sentinel-1 scene within {wanted.s1_window_days} days of {tile.date}"
            )

        def in_power(image: Any) -> Any:
            power = ee.Image(10).pow(image.select(list(bands.S1_BANDS)).divide(10))
            return power.setDefaultProjection(image.select(bands.S1_BANDS[0]).projection()).resample("bilinear")

        def in_db(image: Any) -> Any:
            return image.log10().multiply(10)

        s1_power = s1_images.map(in_power)
        s1 = s1_power.map(in_db).mean() if wanted.s1_mean == "dB" else in_db(s1_power.mean())
        s2_whole, s1_whole = (image.unmask(NODATA, False).toFloat() for image in (s2.resample("bilinear"), s1))
        s2_pixels = ee.data.computePixels(request(s2_whole, grid, wanted.s2_bands))
        s1_pixels = ee.data.computePixels(request(s1_whole, grid, bands.S1_BANDS))
    except ee.EEException as error:
        raise explained(str(error)) from None
    pixels = arrays(s2_pixels, s1_pixels, wanted.s2_bands)
    check_not_empty(f"Sentinel-2 scene {index}", pixels[0] != bands.S2_NODATA, wanted.s2_bands)
    check_not_empty(S1_COLLECTION, np.isfinite(pixels[1]), bands.S1_BANDS)
    columns = {"s2_item": index, "s1_source": f"{S1_COLLECTION} sigma0", "s1_unit": "sigma0 dB"}
    return Imagery(*pixels, columns | common_columns(wanted, dates))


def window(date: str, days: int) -> tuple[str, str]:
    """First day, and the day after the last one, of a time window around a date. Earth Engine excludes the end."""
    middle, span = datetime.date.fromisoformat(date), datetime.timedelta(days=days)
    return (middle - span).isoformat(), (middle + span + datetime.timedelta(days=1)).isoformat()


def scenes(known: dict[str, list]) -> list[SceneMetadata]:
    """Makes metadata of Sentinel-2 scenes from lists of properties."""
    found = []
    for index, product, milliseconds, cloud, footprint in zip(*(known[name] for name in _S2_PROPERTIES), strict=True):
        # The service gives a footprint as a closed ring, not as a polygon.
        polygon = {"type": "Polygon", "coordinates": [footprint["coordinates"]]}
        found.append(SceneMetadata(f"{index} {product}", _time(milliseconds), float(cloud), polygon))
    return found


def passes(known: dict[str, list]) -> list[str]:
    """Lists the dates of Sentinel-1 passes, sorted. All slices of a pass count once."""
    rows = zip(*(known[name] for name in _S1_PROPERTIES), strict=True)
    found = {(_time(time).date().isoformat(), direction, index[:3]) for index, time, direction in rows}
    return [date for date, *_ in sorted(found)]


def request(image: Any, grid: Grid, names: tuple[str, ...]) -> dict[str, Any]:
    """Makes the parameters of `computePixels` for some bands of an image on a grid."""
    a, b, c, d, e, f = grid.transform[:6]
    return {
        "expression": image,
        "fileFormat": "NUMPY_NDARRAY",
        "bandIds": list(names),
        "grid": {
            "dimensions": {"width": grid.width, "height": grid.height},
            "affineTransform": {
                "scaleX": a, "shearX": b, "translateX": c, "shearY": d, "scaleY": e, "translateY": f,
            },
            "crsCode": grid.crs.to_string(),
        },
    }  # fmt: skip


def arrays(
    s2_pixels: np.ndarray, s1_pixels: np.ndarray, s2_bands: tuple[str, ...]
) -> tuple[UInt16[np.ndarray, "height width s2_band"], Float32[np.ndarray, "height width 2"]]:
    """Converts the service's structured arrays, one field per band, to those of `Imagery`."""
    s2 = np.stack([s2_pixels[name] for name in s2_bands], axis=-1)
    s1 = np.stack([s1_pixels[name] for name in bands.S1_BANDS], axis=-1)
    # 0 is nodata, so that a pixel with zero reflectance becomes 1.
    digital = np.where(s2 == NODATA, bands.S2_NODATA, np.rint(s2).clip(1, 65535)).astype(np.uint16)
    return digital, np.where(s1 == NODATA, np.nan, s1).astype(np.float32)


def explained(message: str) -> OSError | ValueError:
    """Makes an error for the user from the service's message: an ArchiveError if trying again may help."""
    said, lower = " ".join(message.split())[:300], message.lower()
    if any(word in lower for word in ("quota", "too many", "429", "concurrent", "rate limit")):
        return ArchiveError(f"Earth Engine is asked for more than it gives this account ({said}); use fewer --workers")
    if any(word in lower for word in ("authenticate", "authorize", "credentials", "not initialized", "401")):
        return ValueError(f"no login to Earth Engine ({said}); run: earthengine authenticate")
    if any(word in lower for word in ("no project", "permission", "not registered", "403", "project was not found")):
        return ValueError(
            f"Earth Engine refuses this account or project ({said}); say --earth_engine_project, registered for Earth Engine"
        )
    return ArchiveError(f"Earth Engine did not answer: {said}")


def _time(milliseconds: float | int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.UTC)


def _service(project: str) -> Any:
    try:
        import ee.data  # not just `ee`: an empty folder called ee may shadow the package
    except ImportError:
        raise ValueError("--source earthengine needs earthengine-api: pip install 'specsar_jax[earthengine]'") from None
    with _login:
        if not ee.data.is_initialized():
            try:
                ee.Initialize(project=project or None, url=URL)
            except Exception as error:  # many types: no credentials, no project, no network
                raise explained(str(error)) from None
    return ee


def check_login(archive: EarthEngineArchive) -> None:
    """Raises a ValueError if there is no login to the service."""
    try:
        _service(archive.project)
    except ArchiveError as error:
        raise ValueError(str(error)) from None
