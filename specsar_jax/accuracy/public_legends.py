"""Legends of public land-cover maps: the codes of each map, and which of Dynamic World's nine classes each code stands for.

A code is left out if none of the classes matches it, or if several do and the map does not distinguish them; the reason stands beside it.
Two codes of a legend may become one class. Where one code covers two classes, the legend merges these two.
"""

import dataclasses
from typing import NamedTuple

from tfds_dwplus import bands


@dataclasses.dataclass(frozen=True)
class Code:
    """One code of a legend."""

    code: int
    called: str
    """Name of the code in the map's documentation."""
    becomes: str = ""
    """Name of our class that it stands for; empty if the code is left out."""
    reason: str = ""
    """Reason for a choice that is not obvious."""
    colour: str = ""
    """Hexadecimal red, green, blue of a table that gives it; to look at only."""


class Legend(NamedTuple):
    """The meaning of the codes of a map."""

    name: str
    title: str
    source: str
    codes: tuple[Code, ...]
    nodata: tuple[int, ...]
    """Codes for nodata, in addition to the nodata value that a file declares."""
    band_names: tuple[str, ...] = ()
    """Descriptions, in lower case, of the band to read from a file of several bands."""
    merged: tuple[tuple[str, str], ...] = ()
    """Pairs of our classes that the map does not distinguish: the second is counted as the first."""
    of_ids: bool = False
    """Whether the codes are class ids, as in our own maps."""


def _coded(*lines: tuple) -> tuple[Code, ...]:
    return tuple(Code(*line) for line in lines)


DYNAMIC_WORLD = Legend(
    "dynamic_world",
    "Dynamic World product, or a map of ours",
    "band `label` of GOOGLE/DYNAMICWORLD/V1 in the Earth Engine catalogue; Brown et al. 2022",
    tuple(Code(place, name, name) for place, name in enumerate(bands.CLASSES)),
    nodata=(bands.IGNORE,),
    band_names=("label", "land cover"),
    of_ids=True,
)

DYNAMIC_WORLD_LABELS = Legend(
    "dynamic_world_labels",
    "Label files of Dynamic World",
    "Tait et al. 2021, PANGAEA 10.1594/PANGAEA.933475",
    (
        Code(0, "unmarked", "", "not labelled"),
        *(Code(place + 1, name, name) for place, name in enumerate(bands.CLASSES)),
        Code(10, "cloud", "", "not a land cover"),
    ),
    nodata=(bands.IGNORE,),
    band_names=("lulc", "label"),
)

OF_DYNAMIC_WORLD = (DYNAMIC_WORLD, DYNAMIC_WORLD_LABELS)
"""Legends whose codes are the same numbers but for their base, which `check_base` looks at."""

WORLDCOVER = Legend(
    "worldcover",
    "ESA WorldCover 10 m, v100 (2020) and v200 (2021)",
    "Zanaga et al. 2022, 10.5281/zenodo.7254221; WorldCover Product User Manual v2.0, table 2",
    _coded(
        (10, "tree cover", "trees"),
        (20, "shrubland", "shrub_and_scrub"),
        (30, "grassland", "grass"),
        (40, "cropland", "crops"),
        (50, "built-up", "built"),
        (60, "bare / sparse vegetation", "bare"),
        (70, "snow and ice", "snow_and_ice"),
        (80, "permanent water bodies", "water"),
        (90, "herbaceous wetland", "flooded_vegetation"),
        (95, "mangroves", "flooded_vegetation", "they stand in tidal water"),
        (100, "moss and lichen", "", "no matching class"),
    ),
    nodata=(0, 255),
    band_names=("map",),
)

_ESRI = (
    (1, "water", "water"),
    (2, "trees", "trees"),
    (4, "flooded vegetation", "flooded_vegetation"),
    (5, "crops", "crops"),
    (7, "built area", "built"),
    (8, "bare ground", "bare"),
    (9, "snow / ice", "snow_and_ice"),
    (10, "clouds", "", "not a land cover"),
)

ESRI = Legend(
    "esri",
    "Esri / Impact Observatory 10 m, nine classes (2017 on)",
    "Karra et al. 2021; class definitions of arcgis.com item cfcb7609de5f478eb7666240902d4d3d",
    _coded(*_ESRI, (11, "rangeland", "grass", "grass and scrub in one; see below")),
    nodata=(0, 255),
    merged=(("grass", "shrub_and_scrub"),),
)

ESRI_2020 = Legend(
    "esri_2020",
    "Esri / Impact Observatory 10 m of 2020, the first edition, ten classes",
    "Karra et al. 2021, Global land use / land cover with Sentinel-2 and deep learning, IGARSS",
    tuple(
        sorted(
            _coded(*_ESRI, (3, "grass", "grass"), (6, "scrub / shrub", "shrub_and_scrub")), key=lambda code: code.code
        )
    ),
    nodata=(0, 255),
)

_CLC = (
    (111, "continuous urban fabric", "built"),
    (112, "discontinuous urban fabric", "built"),
    (121, "industrial or commercial units", "built"),
    (122, "road and rail networks and associated land", "built"),
    (123, "port areas", "built"),
    (124, "airports", "", "runways in grass"),
    (131, "mineral extraction sites", "bare", "open pits and quarries"),
    (132, "dump sites", "", "bare, built or grass"),
    (133, "construction sites", "", "bare or built, by the day"),
    (141, "green urban areas", "", "grass and trees in one"),
    (142, "sport and leisure facilities", "", "grass, trees and built in one"),
    (211, "non-irrigated arable land", "crops"),
    (212, "permanently irrigated land", "crops"),
    (213, "rice fields", "", "crops or flooded vegetation, by the season"),
    (221, "vineyards", "crops"),
    (222, "fruit trees and berry plantations", "", "crops by use, trees by cover"),
    (223, "olive groves", "", "crops by use, trees by cover"),
    (231, "pastures", "", "grass by cover, crops where fields are laid out"),
    (241, "annual crops associated with permanent crops", "crops"),
    (242, "complex cultivation patterns", "crops"),
    (243, "agriculture with significant areas of natural vegetation", "", "a mixture"),
    (244, "agro-forestry areas", "", "crops under trees"),
    (311, "broad-leaved forest", "trees"),
    (312, "coniferous forest", "trees"),
    (313, "mixed forest", "trees"),
    (321, "natural grasslands", "grass"),
    (322, "moors and heathland", "shrub_and_scrub"),
    (323, "sclerophyllous vegetation", "shrub_and_scrub"),
    (324, "transitional woodland-shrub", "shrub_and_scrub"),
    (331, "beaches, dunes, sands", "bare"),
    (332, "bare rocks", "bare"),
    (333, "sparsely vegetated areas", "", "vegetation on 10 to 50 %: bare, or scrub"),
    (334, "burnt areas", "", "the burnt cover is not given"),
    (335, "glaciers and perpetual snow", "snow_and_ice"),
    (411, "inland marshes", "flooded_vegetation"),
    (412, "peat bogs", "flooded_vegetation"),
    (421, "salt marshes", "flooded_vegetation"),
    (422, "salines", "", "water or bare, by the season"),
    (423, "intertidal flats", "", "water or bare, by the tide"),
    (511, "water courses", "water"),
    (512, "water bodies", "water"),
    (521, "coastal lagoons", "water"),
    (522, "estuaries", "water"),
    (523, "sea and ocean", "water"),
)

CORINE = Legend(
    "corine",
    "CORINE Land Cover, grid codes 1 to 44 or codes 111 to 523",
    "Kosztra et al. 2019, Updated CLC illustrated nomenclature guidelines; the grid codes are the classes counted through",
    (
        *(Code(place, *line[1:]) for place, line in enumerate(_CLC, start=1)),
        *_coded(*_CLC),
    ),
    # 48 to 50 are NODATA and two kinds of 'unclassified' as grid codes, 999, 990 and 995 the same.
    nodata=(0, 48, 49, 50, 128, 255, 990, 995, 999),
)

NLCD = Legend(
    "nlcd",
    "NLCD, United States",
    "Multi-Resolution Land Characteristics Consortium, National Land Cover Database class legend and description",
    _coded(
        (11, "open water", "water"),
        (12, "perennial ice / snow", "snow_and_ice"),
        (21, "developed, open space", "", "less than 20 % sealed: lawns, parks, large plots"),
        (22, "developed, low intensity", "built"),
        (23, "developed, medium intensity", "built"),
        (24, "developed, high intensity", "built"),
        (31, "barren land", "bare"),
        (41, "deciduous forest", "trees"),
        (42, "evergreen forest", "trees"),
        (43, "mixed forest", "trees"),
        (51, "dwarf scrub", "shrub_and_scrub"),
        (52, "shrub / scrub", "shrub_and_scrub"),
        (71, "grassland / herbaceous", "grass"),
        (72, "sedge / herbaceous", "grass"),
        (73, "lichens", "", "no matching class"),
        (74, "moss", "", "no matching class"),
        (81, "pasture / hay", "", "grass by cover, crops where fields are laid out"),
        (82, "cultivated crops", "crops"),
        (90, "woody wetlands", "", "trees or flooded vegetation, as the canopy hides the water"),
        (95, "emergent herbaceous wetlands", "flooded_vegetation"),
    ),
    nodata=(0, 127, 250, 255),
)

LEGENDS = {
    legend.name: legend for legend in (DYNAMIC_WORLD, DYNAMIC_WORLD_LABELS, WORLDCOVER, ESRI, ESRI_2020, CORINE, NLCD)
}
