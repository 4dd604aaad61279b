"""Names of bands: what archives and programs call the bands of both sensors.

Enters: descriptions of bands, keys of assets, or names of files; all of one scene at once, because some names mean
another band in another scheme. Leaves: the names of `bands`.

`SCHEMES` is the table. NIR and SWIR 2 are the ambiguous names: of FORCE, NIR is B8A, and of DEA (Digital Earth Australia),
swir_2 is B11. The other names of the set show which scheme it is.

Sources: ESA, Sentinel-2 User Handbook and Products Specification; Earth Search, assets of `sentinel-2-l2a` v1; STAC, eo
extension 2.0, common names; Earth Engine, catalogue page of COPERNICUS/S2_SR_HARMONIZED; Open Data Cube,
datacube-dataset-config `s2_l2a.odc-product.yaml`; DEA, measurements and files of `ga_s2am_ard_3`; FORCE, the tables
`domains` and `band_id` of its reader of Sentinel-2 metadata; spyndex, awesome-spectral-indices `output/bands.json`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from tfds_dwplus import bands

# One column a band, in the order of `bands.S2_ALL_BANDS`; - where a scheme has none.
SCHEMES = {
    # also of Planetary Computer, Earth Search v0, CDSE (B02_10m), EOPF (b02), Sentinel Hub, openEO
    "ESA":            "B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B10 B11 B12",
    "EuroSAT":        "- - - - - - - - B08A - - - -",
    "Earth Engine":   "B1 B2 B3 B4 B5 B6 B7 B8 B8A B9 B10 B11 B12",
    "in words":       "aerosols blue green red red_edge_1 red_edge_2 red_edge_3 nir red_edge_4 water_vapour cirrus swir_1 swir_2",
    "Earth Search":   "coastal blue green red rededge1 rededge2 rededge3 nir nir08 nir09 cirrus swir16 swir22",
    "its titles":     "coastal_aerosol blue green red red_edge_1 red_edge_2 red_edge_3 nir_1 nir_2 nir_3 cirrus swir_1 swir_2",
    "STAC":           "coastal blue green red rededge071 rededge075 rededge078 nir nir08 nir09 cirrus swir16 swir22",
    "Open Data Cube": "coastal_aerosol blue green red red_edge_1 red_edge_2 red_edge_3 nir_1 nir_2 water_vapour - swir_1 swir_2",
    "broad, narrow":  "coastal_blue blue green red red_edge_1 red_edge_2 red_edge_3 broad_nir narrow_nir water_vapour cirrus swir_1 swir_2",
    "DEA":            "coastal_aerosol blue green red red_edge_1 red_edge_2 red_edge_3 nir_1 nir_2 - - swir_2 swir_3",
    "FORCE":          "ultrablue blue green red rededge1 rededge2 rededge3 broadnir nir - - swir1 swir2",
    "FORCE, short":   "- blu grn red re1 re2 re3 bnr nir - - sw1 sw2",
    "spyndex":        "A B G R RE1 RE2 RE3 N N2 WV - S1 S2",
}  # fmt: skip
"""Names of the Sentinel-2 bands. Those of DEA may begin with nbart_ or nbar_."""

WAVELENGTHS_NM = {
    "B1": (443, 20), "B2": (490, 65), "B3": (560, 35), "B4": (665, 30), "B5": (705, 15), "B6": (740, 15), "B7": (783, 20),
    "B8": (842, 115), "B8A": (865, 20), "B9": (945, 20), "B10": (1375, 30), "B11": (1610, 90), "B12": (2190, 180),
}  # fmt: skip
"""Central wavelength and width of each band. Source: Sentinel-2 User Handbook."""

PRODUCTS = ("tci", "aot", "wvp", "scl", "cld", "snw", "pvi")
"""What lies beside the bands in a product: true-colour image, aerosol, water vapour, scene classification, probability of
cloud and snow, preview image.
"""

NEVER = ("msk", "cldprb", "snwprb", "clm", "clp", "zenith", "azimuth", "footprint", "stddev", "variance", "ratio")
NEVER += ("preview", "thumbnail", "quicklook", "qa10", "qa20", "qa60")
"""Words of what is not a band even if the name of a band is beside them: MSK_DETFOO_B02, view_zenith_B2, B2_stdDev."""

PICTURES = ("visual", "overview", "rgb", "truecolour")
"""Words of what is not a band if they end a name without the code of one."""


def names_of(texts: Sequence[str], *, last: bool = False) -> list[str | None]:
    """Finds the band in each of the descriptions or file names of one scene. None where there is none.

    A code (B8A, VV) counts more than a wavelength, and that more than a word: 'B02_Blue_Lake' is B2, 'NIR 865 nm' is B8A.

    Args:
        texts: all names of the scene. They tell the scheme, and whether numbers only count: 'b1', 'b2', 'b3' name no band.
        last: take the last of several codes or words, as in file names, and not the first.
    """
    texts = _with_codes(_without_counts(texts, last))
    meanings, whole = _meanings(texts), _whole_names(texts)
    return [whole.get(text.strip().lower()) or _band(text, meanings, last) for text in texts]


def band_name(text: str, *, last: bool = False) -> str | None:
    """Finds the band in one description or file name; see `names_of`.

    'B02_10m', 'blue', 'B2, central wavelength 490 nm' -> 'B2'; 'Sigma0_VV_db' -> 'VV'; 'red edge 1' -> 'B5', not 'B4'.
    """
    return names_of([text], last=last)[0]


def is_no_band(text: str) -> bool:
    """Whether a description or file name is known, and is not that of a band: TCI, AOT, SCL, a mask, an angle, a preview."""
    words = _words(*_with_codes([text]))
    if _is_never(words):
        return True
    return not _CODES.keys() & set(words) and (not set(PRODUCTS).isdisjoint(words) or _is_picture(words))


def _band(text: str, meanings: Mapping[str, str | None], last: bool) -> str | None:
    """Finds the band in a text, given what words mean."""
    words, chosen = _words(text), -1 if last else 0
    if _is_never(words) or (not last and {"vv", "vh"} <= set(words)):  # both: a ratio or difference
        return None
    if marks := [word for word in words if word in _CODES or word in PRODUCTS]:
        return _CODES.get(marks[chosen])
    if lengths := list(_wavelengths(text)):
        return _nearest(lengths[chosen])
    found = [meanings[word] for word in words if word in meanings]
    return found[chosen] if found and not _is_picture(words) else None


def _wavelengths(text: str) -> Iterator[float]:
    """Wavelengths in a text in nm, of a range its middle: '490 nm', '0.49 um', '785-900 nm'. Widths of bands are left out."""
    number = r"(\d+(?:\.\d+)?)"
    unit = r"(nm|nanomet\w*|[uµμ]m|micromet\w*|microns?)(?![a-z])"
    for low, high, name in re.findall(rf"(?<![\d.]){number}(?:\s*(?:-|–|to)\s*{number})?\s*{unit}", text.lower()):
        length = (float(low) + float(high or low)) / 2 * (1 if name.startswith("n") else 1000)
        if length > 350:
            yield length


def _nearest(length: float) -> str | None:
    """The band with the nearest centre among those that reach over a wavelength in nm."""
    away = {
        band: abs(length - centre)
        for band, (centre, width) in WAVELENGTHS_NM.items()
        if abs(length - centre) <= width / 2
    }
    return min(away, key=away.get) if away else None


def _spelled(text: str) -> str:
    """Writes a name in small letters, and names of several words as one: 'Red edge 1', 'red-edge_1' -> 'rededge1'."""
    text = text.lower()
    for pattern, word in (
        (r"infra[\s_-]*red", "infrared"),  # before "red"
        (r"near[\s_-]*infrared", "nir"),
        (r"short[\s_-]*wave[\s_-]*infrared", "swir"),
        (r"red[\s_-]*edge", "rededge"),
        (r"narrow[\s_-]*nir|nir[\s_-]*narrow", "narrownir"),
        (r"(broad|wide)[\s_-]*nir|nir[\s_-]*(broad|wide)", "broadnir"),
        (r"(coastal|ultra|deep|narrow)[\s_-]*(blue|aerosols?)", "coastal"),
        (r"water[\s_-]*vapou?r", "watervapour"),
        (r"true[\s_-]*colou?r", "truecolour"),
        (r"rededge[\s_-]*0*(\d|71|75|78)(?![0-9a-z])", r"rededge\1"),
        (r"nir[\s_-]*0*(\d)(?![0-9a-z])", r"nir\1"),
        (r"swir[\s_-]*0*(\d|16|22)(?![0-9a-z])", r"swir\1"),
    ):
        text = re.sub(pattern, word, text)
    return text


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", _spelled(text)) if word]


def _names_in(scheme: str) -> dict[str, str]:
    """Words of a scheme, as `_words` gives them, and their bands."""
    pairs = zip(SCHEMES[scheme].split(), bands.S2_ALL_BANDS, strict=True)
    return {_words(name)[0]: band for name, band in pairs if name != "-"}


_CODES = _names_in("ESA") | _names_in("EuroSAT") | _names_in("Earth Engine") | {"vv": "VV", "vh": "VH"}
_WORDS = {
    word: band
    for scheme in ("in words", "Earth Search", "its titles", "STAC", "Open Data Cube", "broad, narrow")
    for word, band in _names_in(scheme).items()
}


def _meanings(texts: Sequence[str]) -> Mapping[str, str | None]:
    """What words mean in the scheme of a set of names."""
    seen = {word for text in texts for word in _words(text)}
    if "broadnir" in seen:
        return _WORDS | _names_in("FORCE")
    swir2_alone = "swir2" in seen and "swir1" not in seen
    if seen & {"nbart", "nbar", "swir3"} or (swir2_alone and {"nir1", "nir2"} <= seen):
        return _WORDS | {"swir1": None} | _names_in("DEA")
    # Digital Earth Africa and Australia both say nir_1 and swir_2, for B12 and for B11.
    if swir2_alone and "nir" not in seen and len(texts) > 1 and any("swir_2" in text.lower() for text in texts):
        return _WORDS | {"swir2": None}
    return _WORDS


def _whole_names(texts: Sequence[str]) -> dict[str, str]:
    """Names of one to three letters, which count only as a whole name, and only in a set that is of their scheme."""
    whole = {text.strip().lower() for text in texts}
    if len(whole & {"blu", "grn", "bnr", "sw1", "sw2"}) > 1:
        return _names_in("FORCE, short")
    near_infrared, others = {"n", "n2", "re1", "re2", "re3"}, {"a", "wv", "s1", "s2"}  # R, G, B are of any picture
    sure = whole & near_infrared and len(whole & (near_infrared | others)) > 1
    spyndex = _names_in("spyndex")
    return spyndex if sure and len(whole & spyndex.keys()) > 2 else {}


_DEA = r"(?<![a-z])nbart?(?![a-z])"


def _with_codes(texts: Sequence[str]) -> Sequence[str]:
    """Writes 'band_04', 'band11' as B04, B11 where two digits, 8a or DEA show that they are codes; 'Band 4' may only count."""
    if not re.search(rf"(?<![a-z0-9])band[\s_-]*(0\d|0?8a)(?![0-9a-z])|{_DEA}", "\n".join(texts).lower()):
        return texts
    return [re.sub(r"(?i)(?<![a-z0-9])band[\s_-]*(?=(0\d|1[0-2]|0?8a)(?![0-9a-z]))", "B", text) for text in texts]


def _without_counts(texts: Sequence[str], last: bool) -> list[str]:
    """Cuts out numbers that only count bands: b1, b2 ... or band 1, band 2 ... in this order, or any where one is above 12.

    Earth Engine calls the bands of an ingested file b1, b2 ...; its bands of Sentinel-2 are B1, B2 ... A file may be called b1.
    """
    pattern = re.compile(r"^\s*b(\d{1,2})\s*$|(?<![a-z0-9])band[\s_-]*(\d{1,2})(?![0-9a-z])", re.IGNORECASE)
    found = [None if re.search(_DEA, text.lower()) else pattern.search(text) for text in texts]
    numbers = [int(match[1] or match[2]) if match else 0 for match in found]
    in_order = len(texts) > 1 and numbers == list(range(1, len(texts) + 1))
    codes = any(match and match[1] and (last or match[0].strip()[0] == "B") for match in found)
    if (not in_order or codes) and max(numbers, default=0) <= 12:
        return list(texts)
    return [text.replace(match[0], " ") if match else text for text, match in zip(texts, found, strict=True)]


def _is_never(words: Sequence[str]) -> bool:
    return any(word in NEVER or word.endswith(("angle", "angles")) for word in words) or any(
        word.endswith("mask") for word in (*words[:1], *_subject(words)[-1:])
    )


def _is_picture(words: Sequence[str]) -> bool:
    subject = _subject(words)
    return subject == ["alpha"] or (bool(subject) and subject[-1] in PICTURES)


def _subject(words: Sequence[str]) -> list[str]:
    """The words without those of a format or resolution, so that the last one says what a file is."""
    return [word for word in words if not re.fullmatch(r"tiff?|jp2|vrt|cog|[126]0m|band|channel", word)]
