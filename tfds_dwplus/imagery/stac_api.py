"""Search a STAC API for scenes, and the settings of known APIs.

Enters: a collection, a box in degrees, an interval of times. Leaves: STAC items, sorted by time.
"""

import dataclasses
import datetime
import json
import threading
from typing import Any

from tfds_dwplus.imagery.acquisitions import ArchiveError, first_line


@dataclasses.dataclass(frozen=True)
class Collection:
    """A collection of a STAC API."""

    url: str
    name: str
    assets: tuple[tuple[str, str], ...] = ()
    """Pairs of a band and its asset, for assets whose name is not the band's."""
    signed: bool = False
    """Whether the package planetary-computer must sign the items."""


@dataclasses.dataclass(frozen=True)
class StacArchive:
    """The collections of both sensors, and how backscatter is stored there."""

    s2: Collection
    s1: Collection
    s1_unit: str
    """One of `acquisitions.ARCHIVE_UNITS`."""
    s1_quantity: str
    """sigma0 or gamma0."""
    timeout_s: float = 60.0
    """How long to wait for an answer."""


@dataclasses.dataclass(frozen=True)
class Preset:
    """Settings of a known STAC API."""

    url: str
    s2_collections: dict[str, str]
    """Name of the collection by processing level."""
    s2_assets: dict[str, str]
    s1: tuple[str, str, str] | None
    """Collection, unit and quantity; None if its Sentinel-1 cannot be used."""
    description: str
    """What it serves, for --help."""
    signed: bool = False


_EARTH_SEARCH_ASSETS = {
    "B1": "coastal", "B2": "blue", "B3": "green", "B4": "red", "B5": "rededge1", "B6": "rededge2", "B7": "rededge3", "B8": "nir",
    "B8A": "nir08", "B9": "nir09", "B10": "cirrus", "B11": "swir16", "B12": "swir22",
}  # fmt: skip


PRESETS = {
    "planetary_computer": Preset(
        "https://planetarycomputer.microsoft.com/api/stac/v1",
        {"L2A": "sentinel-2-l2a"},
        {},
        ("sentinel-1-rtc", "power", "gamma0"),
        "Sentinel-2 L2A; Sentinel-1 RTC: gamma0, terrain corrected, linear power",
        signed=True,
    ),
    "earth_search": Preset(
        "https://earth-search.aws.element84.com/v1",
        {"L2A": "sentinel-2-l2a", "L1C": "sentinel-2-l1c"},
        _EARTH_SEARCH_ASSETS,
        None,
        "Sentinel-2 L2A, and L1C with an AWS account that pays; its Sentinel-1 GRD are uncalibrated numbers in radar geometry, "
        "so use another archive by --s1_stac_url",
    ),
}


def check_collections(archive: StacArchive) -> None:
    """Raises a ValueError if an API does not answer or lacks its collection. A collection without a name is not checked."""
    for collection in filter(lambda one: one.name, (archive.s2, archive.s1)):
        try:
            found = _client(collection, archive.timeout_s).get_collection(collection.name)
        except ArchiveError as error:
            raise ValueError(f"{error}; check --stac_url, --s1_stac_url and the network") from None
        except Exception as error:
            if getattr(error, "status_code", None) != 404:
                raise ValueError(f"{collection.url} does not answer: {_message(error)}; try again later") from None
            found = None
        if found is None:
            raise ValueError(
                f"{collection.url} has no collection {collection.name!r}; say --s2_collection or --s1_collection"
            )


def item_time(item: Any) -> datetime.datetime:
    """Acquisition time of an item, UTC unless it says otherwise."""
    time = item.datetime or datetime.datetime.fromisoformat(item.properties["start_datetime"].replace("Z", "+00:00"))
    return time if time.tzinfo else time.replace(tzinfo=datetime.UTC)


def search(
    collection: Collection,
    timeout_s: float,
    bounds: tuple[float, float, float, float],
    when: str,
    most: int | None = None,
) -> list[Any]:
    """Lists the items that intersect a box, sorted by time and id.

    Args:
        collection: the collection to search.
        timeout_s: how long to wait for an answer.
        bounds: west, south, east, north in degrees; west > east across the antimeridian. Such a box is searched in two
            parts, because not every API accepts it.
        when: interval of times in STAC's notation.
        most: maximum number of items in each part of the box; None: all.

    Raises:
        ArchiveError: the API does not answer, or not with items.
    """
    west, south, east, north = bounds
    boxes = [bounds] if west <= east else [(west, south, 180.0, north), (-180.0, south, east, north)]
    client = _client(collection, timeout_s)
    try:
        found = {
            item.id: item
            for bbox in boxes
            for item in client.search(
                collections=[collection.name], bbox=bbox, datetime=when, limit=min(most or 250, 250), max_items=most
            ).items()
        }
    except Exception as error:
        raise ArchiveError(f"the search of {collection.url} failed: {_message(error)}") from None
    return sorted(found.values(), key=lambda item: (item_time(item), item.id))


def _message(error: Exception) -> str:
    """Explains an error of the API's client in one line."""
    if isinstance(error, json.JSONDecodeError):
        return "its answer is not JSON, so not that of a STAC API"
    said, status = first_line(error), getattr(error, "status_code", None)
    return (f"HTTP {status}: " if status else "") + ("a page of HTML" if said.startswith("<") else said)


_clients = threading.local()


def _client(collection: Collection, timeout_s: float) -> Any:
    """Opens a client of a STAC API. Each thread has its own, because sessions must not be shared."""
    try:
        import pystac_client
        from pystac_client.stac_api_io import StacApiIO

        if collection.signed:
            import planetary_computer
    except ImportError as error:
        raise ValueError(f"acquiring from STAC needs {error.name}: pip install 'specsar_jax[acquire]'") from None
    known = _clients.__dict__.setdefault("by_url", {})
    if collection.url not in known:
        try:
            known[collection.url] = pystac_client.Client.open(
                collection.url,
                modifier=planetary_computer.sign_inplace if collection.signed else None,
                stac_io=StacApiIO(max_retries=None),
                timeout=timeout_s,
            )
        except Exception as error:
            raise ArchiveError(f"no STAC API answers at {collection.url}: {_message(error)}") from None
    return known[collection.url]
