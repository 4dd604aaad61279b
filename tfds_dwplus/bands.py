"""Facts of the data: bands of both sensors, classes and their colours, nodata values. Typed once, imported everywhere.

Sources: Sentinel-2 band names, Copernicus S2 Products Specification; label codes, Tait et al. 2021 (PANGAEA
10.1594/PANGAEA.933475); class names and colours, Dynamic World V1 in the Earth Engine catalogue (Brown et al. 2022).
"""

S2_BANDS = ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B11", "B12")
"""Bands of Dynamic World+ in their order; a data set may hold fewer or others."""

S2_ALL_BANDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")

S1_BANDS = ("VV", "VH")

S2_UNIT = "reflectance x 10000"
S1_UNIT = "sigma0 dB"

S2_NODATA = 0
"""Digital number of a Sentinel-2 pixel without data, in any band. In Sentinel-1 it is NaN."""

S1_DB_RANGE = (-60.0, 40.0)
"""Backscatter outside of this, in dB, is not backscatter in dB: linear power or a nodata number was stored."""

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
"""Class names; the place in the tuple is the class id, 0 to 8."""

CLASS_COLOURS = ("419bdf", "397d49", "88b053", "7a87c6", "e49635", "dfc35a", "c4281b", "a59b8f", "b39fe1")

IGNORE = 255
"""Label of a pixel without a label (unmarked, cloud, nodata or padding), and nodata of a class map."""

LABEL_CODES = (0, *range(1, 10), 10)
"""Codes of a label file: 0 unmarked, 1 to 9 the classes in order, 10 cloud. Class id = code - 1."""

HELD_OUT = "held_out"
"""Annotator of the tiles that were published as validation set of Dynamic World, marked by three experts and one other."""

VOTES = ("strict", "consensus", "simple_majority", "majority")
"""How three experts' markups of a held-out tile become one label; `consensus` is the paper's main one."""

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
"""Biomes 1 to 14, shortened. Source: RESOLVE Ecoregions (Dinerstein et al. 2017), the strata of Brown et al. 2022."""

_S2_ALIASES = {"BLUE": "B2", "GREEN": "B3", "RED": "B4", "NIR": "B8", "SWIR1": "B11", "SWIR2": "B12"}
_S2_ALIASES |= {f"B0{n}": f"B{n}" for n in range(1, 10)}


def canonical_band(name: str) -> str:
    """The name used here for a band called `name`: 'B02', 'b2', 'blue' -> 'B2'; 'vv' -> 'VV'."""
    upper = name.strip().upper()
    return _S2_ALIASES.get(upper, upper)


def class_rgb() -> list[tuple[int, int, int]]:
    """Red, green, blue of each class, 0..255."""
    return [tuple(bytes.fromhex(colour)) for colour in CLASS_COLOURS]
