"""Constants of the data: bands of both sensors, nodata values, classes and their colours.

No other module writes these values again: it imports them from here.

Sources: Sentinel-2 band names, Copernicus S2 Products Specification; label codes, Tait et al. 2021 (PANGAEA
10.1594/PANGAEA.933475); class names and colours, Dynamic World V1 in the Earth Engine catalogue (Brown et al. 2022).
"""

import dataclasses
import re
import unicodedata

import numpy as np
from jaxtyping import Bool, Num, UInt8

S2_BANDS = ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B11", "B12")
"""Sentinel-2 bands of Dynamic World+, in its order. A data set may hold fewer or others."""

S2_ALL_BANDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")

S1_BANDS = ("VV", "VH")

S2_UNIT = "reflectance x 10000"
S1_UNIT = "sigma0 dB"

S2_NODATA = 0
"""Digital number of a Sentinel-2 pixel without data, in any band. A Sentinel-1 pixel without data is NaN."""

OFFSET_DN = 1000
"""Added to every Sentinel-2 digital number since processing baseline 04.00. Source: Sentinel-2 Products Specification,
RADIO_ADD_OFFSET.
"""

S1_DB_RANGE = (-60.0, 40.0)
"""Lowest and highest plausible backscatter in dB. Values outside are linear power or a nodata number."""

CLASSES = (
    "water",
    "trees",
    "grass",
    "flooded_vegetation",
    "crops",
    "shrub_and_scrub",
    "built",
    "bare",
    "snow_and_ice",
)
"""Class names. The class id is the index, 0 to 8."""

CLASS_COLOURS = ("419bdf", "397d49", "88b053", "7a87c6", "e49635", "dfc35a", "c4281b", "a59b8f", "b39fe1")
"""Colour of each class as hexadecimal red, green, blue."""

MOST_CLASSES = 64
"""Classes that a data set may have. A class map could hold 255; a confusion matrix of so many nobody reads."""

_MOST_NAME = 60


@dataclasses.dataclass(frozen=True)
class Classes:
    """The classes of a data set, in order; a class id is the index. `DYNAMIC_WORLD` unless a data set has others."""

    names: tuple[str, ...]
    colours: tuple[str, ...]
    """Colour of each class as hexadecimal red, green, blue, without `#`."""

    def __post_init__(self) -> None:
        """Raises a ValueError unless there are 2 to 64 classes, each with a name of its own and a colour."""
        if not 2 <= len(self.names) <= MOST_CLASSES:
            raise ValueError(f"{len(self.names)} classes, expected 2 to {MOST_CLASSES}")
        for name in self.names:
            if (
                not isinstance(name, str)
                or not name.isprintable()
                or not 0 < len(name.strip()) == len(name) <= _MOST_NAME
            ):
                raise ValueError(
                    f"a class is named {str(name)[:_MOST_NAME]!r}, expected a line of 1 to {_MOST_NAME} signs"
                )
        alike = {name.casefold() for name in self.names}
        if len(alike) < len(self.names):
            twice = next(n for k, n in enumerate(self.names) if n.casefold() in map(str.casefold, self.names[:k]))
            raise ValueError(
                f"two classes are named {twice!r}, expected names of their own; upper and lower case are alike"
            )
        if len(self.colours) != len(self.names):
            raise ValueError(f"{len(self.colours)} colours for {len(self.names)} classes, expected one for each")
        for name, colour in zip(self.names, self.colours, strict=True):
            if not isinstance(colour, str) or not re.fullmatch(r"[0-9a-f]{6}", colour):
                raise ValueError(f"class {name!r} has the colour {str(colour)[:20]!r}, expected one such as 419bdf")

    def __len__(self) -> int:
        return len(self.names)

    def rgb(self) -> list[tuple[int, int, int]]:
        """Red, green, blue of each class, 0..255."""
        return [tuple(bytes.fromhex(colour)) for colour in self.colours]

    def words(self) -> list[str]:
        """Names for machines: of ASCII letters, digits, `-` and `_`, each of its own. Dynamic World's names are such already."""
        found: list[str] = []
        for class_id, name in enumerate(self.names):
            plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()  # without accents
            word = re.sub(r"[^0-9A-Za-z_-]+", "_", plain).strip("_") or f"class_{class_id}"
            while word in found:
                word += f"_{class_id}"
            found.append(word)
        return found


DYNAMIC_WORLD = Classes(CLASSES, CLASS_COLOURS)

IGNORE = 255
"""Label value of a pixel without a class (unmarked, cloud, nodata or padding), and nodata value of a class map."""

LABEL_CODES = (0, *range(1, 10), 10)
"""Pixel values of a label file: 0 unmarked, 1 to 9 the classes in order, 10 cloud. Class id = code - 1."""

HELD_OUT = "held_out"
"""Annotator value of Dynamic World's validation tiles, which three experts and a non-expert marked."""

VOTES = ("strict", "consensus", "simple_majority", "majority")
"""Ways to merge three experts' labels of a held-out tile into one. The paper's main one is `consensus`."""

BIOMES = (
    "tropical moist broadleaf forests",
    "tropical dry broadleaf forests",
    "tropical coniferous forests",
    "temperate broadleaf and mixed forests",
    "temperate coniferous forests",
    "boreal forests",
    "tropical grasslands and savannas",
    "temperate grasslands and savannas",
    "flooded grasslands and savannas",
    "montane grasslands and shrublands",
    "tundra",
    "mediterranean forests and scrub",
    "deserts and xeric shrublands",
    "mangroves",
)
"""Names of biomes 1 to 14, shortened. Source: RESOLVE Ecoregions (Dinerstein et al. 2017), the strata of Brown et al. 2022."""

_S2_ALIASES = {"BLUE": "B2", "GREEN": "B3", "RED": "B4", "NIR": "B8", "SWIR1": "B11", "SWIR2": "B12"}
_S2_ALIASES |= {f"B0{n}": f"B{n}" for n in range(1, 10)}


def canonical_band(name: str) -> str:
    """Gives the standard name of a band: 'B02', 'b2', 'blue' -> 'B2'; 'vv' -> 'VV'."""
    upper = name.strip().upper()
    return _S2_ALIASES.get(upper, upper)


def valid_pixels(
    s2: Num[np.ndarray, "*batch height width s2_band"],
    s1: Num[np.ndarray, "*batch height width s1_band"],
    sensors: tuple[str, ...],
    may_miss: tuple[str, ...] = (),
) -> Bool[np.ndarray, "*batch height width"]:
    """Marks pixels where every band of the given `sensors` ('s2', 's1') has data. Other pixels are not used or mapped.

    A sensor of `may_miss` may lack data; then all bands of some sensor must have them.
    """
    return seen_pixels(s2, s1, sensors, may_miss) > 0


S2_SEEN, S1_SEEN = 1, 2
"""Values of a raster of the sensors that each pixel was seen by, added where both saw it; 0 for none."""

SEEN_BY = ("none", "Sentinel-2", "Sentinel-1", "both")
"""Names of these values, 0 to 3."""


def seen_pixels(
    s2: Num[np.ndarray, "*batch height width s2_band"],
    s1: Num[np.ndarray, "*batch height width s1_band"],
    sensors: tuple[str, ...],
    may_miss: tuple[str, ...] = (),
) -> UInt8[np.ndarray, "*batch height width"]:
    """Tells by which sensors each pixel of `valid_pixels` was seen, 0 for the others; arguments as there."""
    seen, needed = np.zeros(s2.shape[:-1], np.uint8), np.uint8(0)
    for sensor in sensors:
        value, mask = (np.uint8(S2_SEEN), s2_seen(s2)) if sensor == "s2" else (np.uint8(S1_SEEN), s1_seen(s1))
        seen |= value * mask
        if sensor not in may_miss:
            needed |= value
    return np.where((seen & needed) == needed, seen, np.uint8(0))


def with_missing(
    s2: Num[np.ndarray, "*shape s2_band"],
    s1: Num[np.ndarray, "*shape s1_band"],
    counts: tuple[int, int],
    may_miss: tuple[str, ...],
) -> tuple[Num[np.ndarray, "*shape s2_channel"], Num[np.ndarray, "*shape s1_channel"]]:
    """Gives a sensor of `may_miss` that has no bands its bands, all without data; `counts` are the numbers of both sensors' bands."""
    if "s2" in may_miss and not s2.shape[-1]:
        s2 = np.full((*s2.shape[:-1], counts[0]), S2_NODATA, np.uint16)
    if "s1" in may_miss and not s1.shape[-1]:
        s1 = np.full((*s1.shape[:-1], counts[1]), np.nan, np.float32)
    return s2, s1


def s2_seen(s2: Num[np.ndarray, "*batch height width s2_band"]) -> Bool[np.ndarray, "*batch height width"]:
    """Marks pixels where every band of Sentinel-2 has data."""
    seen = np.ones(s2.shape[:-1], bool)
    # One band at a time: numpy's `all` over a short last axis is six times slower.
    for band in range(s2.shape[-1]):
        seen &= s2[..., band] != S2_NODATA
    return seen


def s1_seen(s1: Num[np.ndarray, "*batch height width s1_band"]) -> Bool[np.ndarray, "*batch height width"]:
    """Marks pixels where every band of Sentinel-1 has data."""
    seen = np.ones(s1.shape[:-1], bool)
    for band in range(s1.shape[-1]):
        seen &= np.isfinite(s1[..., band])
    return seen
