"""Fetch the imagery of a label tile from Google Earth Engine, the paper's source.

Enters and leaves the same as `stac.stac_imagery`. Sentinel-1 is GRD (sigma0 in dB), Sentinel-2 is harmonised. A tile needs
two requests for metadata and two for pixels (`computePixels`, at most 9 MB each; the service's limit is 48 MB).

What is no backscatter is masked before the mean, by the rules of `decoder.backscatter`, and looked for again in what comes back.

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
from tfds_dwplus.files.addresses import shown_in
from tfds_dwplus.imagery.acquisitions import (
    ArchiveError,
    Imagery,
    NoImageryError,
    Product,
    SceneMetadata,
    Wanted,
    by_take,
    check_not_empty,
    common_columns,
    other_day,
    parse_product,
    ranked_takes,
)
from tfds_dwplus.imagery.decoder import backscatter, reflectance
from tfds_dwplus.imagery.decoder.declared import baseline_in_name
from tfds_dwplus.imagery.decoder.reflectance import Linear
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

        def within(name: str, days: int, product: Product | None = None) -> Any:
            start, end = window(tile.date, days, product.time if product else None)
            return ee.ImageCollection(name).filterBounds(region).filterDate(start, end)

        def known(collection: Any, properties: tuple[str, ...]) -> dict[str, list]:
            # Only images that have all properties, so that the lists have equal length and order.
            whole = collection.filter(ee.Filter.notNull(list(properties)))
            return ee.Dictionary({name: whole.aggregate_array(name) for name in properties}).getInfo()

        s2_images = within(S2_COLLECTIONS[wanted.s2_level], wanted.s2_window_days, parse_product(tile.s2_product_id))
        s2_known = known(s2_images, _S2_PROPERTIES)
        found = scenes(s2_known)
        take = ranked_takes(found, tile, grid, wanted.s2_window_days)[0]
        chosen = take[0]
        index = s2_known["system:index"][chosen]
        s2 = s2_images.filter(ee.Filter.eq("system:index", index)).first().select(list(wanted.s2_bands))

        s1_images = within(S1_COLLECTION, wanted.s1_window_days).filter(ee.Filter.eq("instrumentMode", "IW"))
        for polarisation in bands.S1_BANDS:
            s1_images = s1_images.filter(ee.Filter.listContains("transmitterReceiverPolarisation", polarisation))
        orbit, dates = passes(known(s1_images, _S1_PROPERTIES), wanted.s1_orbit)
        if not dates:
            raise NoImageryError(
                f"no {wanted.s1_orbit.replace('_', ' ')} Sentinel-1 scene within {wanted.s1_window_days} days of {tile.date}",
                "no Sentinel-1 scene",
            )
        if orbit != "both":
            s1_images = s1_images.filter(ee.Filter.eq("orbitProperties_pass", orbit.upper()))

        def measured(image: Any) -> Any:
            low, high = bands.S1_DB_RANGE
            decibel = image.select(list(bands.S1_BANDS))
            no_noise = decibel.select("VV").gte(backscatter.VV_NOISE_DB)
            return decibel.updateMask(decibel.gte(low).And(decibel.lte(high)).And(decibel.neq(0)).And(no_noise))

        def in_power(image: Any) -> Any:
            power = ee.Image(10).pow(measured(image).divide(10))
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
    s2_numbers, s1_decibel, notes = arrays(s2_pixels, s1_pixels, wanted.s2_bands)
    check_not_empty(f"Sentinel-2 scene {index}", s2_numbers != bands.S2_NODATA, wanted.s2_bands)
    check_not_empty(S1_COLLECTION, np.isfinite(s1_decibel), bands.S1_BANDS)
    baseline = baseline_in_name(found[chosen].names)
    columns = {
        "s2_item": index,
        "s2_baseline": f"{baseline:05.2f}" if baseline else "",
        "s2_offset": "0",
        "s2_date": found[chosen].time.date().isoformat(),
        "s1_source": f"{S1_COLLECTION} sigma0",
        "s1_unit": "sigma0 dB",
        "s1_orbit": orbit,
    }
    collection = S2_COLLECTIONS[wanted.s2_level]
    notes = (*notes, *other_day(tile, index, found[chosen], found, take, collection))
    if orbit != wanted.s1_orbit.partition("_or_")[0]:
        notes = (*notes, f"{len(dates)} {orbit} Sentinel-1 passes are used: there is no other")
    return Imagery(s2_numbers, s1_decibel, common_columns(wanted, dates) | columns, notes)


def window(date: str, days: int, product: datetime.datetime | None = None) -> tuple[str, str]:
    """First day, and the day after the last one, of a time window around a date; Earth Engine excludes the end.

    With the time of a product, the window reaches to the days before and after it: a label may be filed under another day.
    """
    middle, span, day = datetime.date.fromisoformat(date), datetime.timedelta(days=days), datetime.timedelta(days=1)
    ends = [middle - span, middle + span] + ([product.date() - day, product.date() + day] if product else [])
    return min(ends).isoformat(), (max(ends) + day).isoformat()


def scenes(known: dict[str, list]) -> list[SceneMetadata]:
    """Makes metadata of Sentinel-2 scenes from lists of properties."""
    found = []
    for index, product, milliseconds, cloud, footprint in zip(*(known[name] for name in _S2_PROPERTIES), strict=True):
        # The service gives a footprint as a closed ring, not as a polygon.
        polygon = {"type": "Polygon", "coordinates": [footprint["coordinates"]]}
        found.append(SceneMetadata(f"{index} {product}", _time(milliseconds), float(cloud), polygon))
    return found


def passes(known: dict[str, list], orbit: str) -> tuple[str, list[str]]:
    """Lists the dates of Sentinel-1 passes, sorted, and the orbit direction: of 'descending_or_ascending' the first that has any.

    All slices of a pass count once.
    """
    rows = list(zip(*(known[name] for name in _S1_PROPERTIES), strict=True))
    for direction in orbit.split("_or_"):
        scenes = [
            SceneMetadata(index, _time(time), 0.0, None, index[:3])
            for index, time, flown in rows
            if direction in ("both", flown.lower())
        ]
        if scenes:
            break
    return direction, sorted(scenes[take[0]].time.date().isoformat() for take in by_take(scenes))


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
) -> tuple[UInt16[np.ndarray, "height width s2_band"], Float32[np.ndarray, "height width 2"], tuple[str, ...]]:
    """Converts the service's structured arrays, one field per band, to those of `Imagery`; also gives warnings."""
    stored = [s2_pixels[name] for name in s2_bands]
    # NODATA is a fill value of the decoder. As nothing else is declared, 0 is dark where another band has data.
    digital = reflectance.numbers_of_bands(stored, [None] * len(stored), [Linear()] * len(stored))
    digital[(digital == bands.S2_NODATA).any(axis=-1)] = bands.S2_NODATA
    s1 = np.stack([s1_pixels[name] for name in bands.S1_BANDS], axis=-1)
    dropped: dict[str, int] = {}
    decibel = backscatter.decibels(s1, s1 != NODATA, "db", dropped)
    decibel = backscatter.without_border_noise(bands.S1_BANDS, decibel, dropped)
    return digital, decibel, tuple(backscatter.told(dropped))


def explained(message: str) -> OSError | ValueError:
    """Makes an error for the user from the service's message: an ArchiveError if trying again may help."""
    said, lower = shown_in(" ".join(message.split()))[:300], message.lower()
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
