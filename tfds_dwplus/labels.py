"""Dynamic World label tiles as they are published, and what is known of each.

Enters: the zips of PANGAEA 10.1594/PANGAEA.933475 (experts, non-experts, held-out validation tiles), the Zenodo test zip
(10.5281/zenodo.4766508), folders of these or unpacked ones, and the metadata workbook. Nothing is unpacked: GDAL reads
inside of zips. Leaves: a sorted list of `LabelTile`s, with what was passed over and why, and for one of them a `Label`: codes
0 to 10 on a 10 m UTM grid, and for a held-out tile one raster per vote of its experts.

What a file is, its folders say, from the source's own name downwards: `Experts` or `Non_expert` (`WorkForce`), `EH` or `WH`,
biome 1 to 14; `validation`, `held out`, `dw_test` or a vote's name make it held out. Case and separators do not matter.
"""

import dataclasses
import datetime
import itertools
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import rasterio
from jaxtyping import Bool, Shaped, UInt8
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from tfds_dwplus import bands
from tfds_dwplus.workbook import workbook_rows

SIZES_PX = {510: "PANGAEA", 512: "Zenodo"}

_NAME = re.compile(r"(?:label_)?(dw_(-?\d+(?:\.\d+)?)_(-?\d+(?:\.\d+)?)-(\d{8}))\.tiff?", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class LabelTile:
    """A place and a date that somebody marked."""

    tile_id: str
    """File stem without `label_`; of a non-expert's tile with the suffix `_non_expert`."""
    split: str
    """'train', or 'test' for a held-out tile."""
    annotator: str
    """'expert', 'non_expert' or 'held_out'."""
    hemisphere: str
    """'EH' or 'WH'."""
    biome: int | None
    """1 to 14; None if not known."""
    lon: float
    """Degrees, from the file name; so is the date."""
    lat: float
    date: str
    """YYYY-MM-DD, of the Sentinel-2 image that was marked."""
    s2_product_id: str
    """From the workbook, an L2A id; empty if not known."""
    files: tuple[tuple[str, str], ...]
    """Pairs of a vote and a GDAL path. The vote is empty for a train tile, and for the single markups of a held-out one."""


@dataclasses.dataclass(frozen=True)
class Label:
    """A label in memory."""

    codes: UInt8[np.ndarray, "height width"]
    """0 unmarked, 1 to 9 the classes, 10 cloud. Of a held-out tile the consensus, where votes are known."""
    crs: str
    """Authority code of a UTM zone, or WKT."""
    transform: tuple[float, ...]
    """Affine coefficients a, b, c, d, e, f, metres."""
    votes: dict[str, UInt8[np.ndarray, "height width"]]
    """Codes by vote; empty for a train tile."""


@dataclasses.dataclass(frozen=True)
class Survey:
    """What the sources hold."""

    tiles: tuple[LabelTile, ...]
    """Sorted by tile id."""
    skipped: tuple[tuple[str, str], ...]
    """Pairs of a path and the reason why it is no tile of ours, sorted."""


def list_labels(sources: Sequence[Path], workbook: Path | None = None) -> list[LabelTile]:
    """The tiles of `survey`, for who need not know what was skipped."""
    return list(survey(sources, workbook).tiles)


def survey(sources: Sequence[Path], workbook: Path | None = None) -> Survey:
    """Lists label tiles without reading a pixel. A train tile at the place of a held-out one is skipped: training on it would
    be training on the test. Of two files of one tile the first is taken, of a held-out tile PANGAEA's before Zenodo's.

    Args:
        sources: zips and folders; zips inside of a folder are opened, zips inside of a zip are not.
        workbook: `v1_dw_tile_metadata_for_public_release.xlsx`. Fills in what the folders do not say, and the product id.

    Raises:
        ValueError: a source is not there or is no zip (or a zip cut short), the workbook is none or has other columns, or no
            label tile is found.
    """
    files = [file for source in sources for file in _files(source)]
    # The model's output beside the labels tells Zenodo's test tiles where their folder is not called dw_test.
    zenodo = {PurePosixPath(path).parent for path, _ in files if _is_probabilities(path)}
    found, skipped = [], []
    for path, folders in files:
        tile = _label_tile(path, (*folders, "dw_test") if PurePosixPath(path).parent in zenodo else folders)
        if isinstance(tile, str):
            skipped.append((path, tile))
        else:
            found.append(tile)
    known = {_named_place(row["dw_id"]): row for row in workbook_rows(workbook)} if workbook else {}
    tiles = []
    for _, group in itertools.groupby(sorted(found, key=lambda t: (*_identity(t), t.files)), key=_identity):
        tile, passed = _merged(list(group))
        tiles.append(_completed(tile, known.get((_place(tile), tile.date), {})))
        skipped += passed
    held_out = {_place(tile) for tile in tiles if tile.split == "test"}
    chosen = tuple(tile for tile in tiles if tile.split == "test" or _place(tile) not in held_out)
    leaks = set(tiles).difference(chosen)
    skipped += [(tile.files[0][1], "a train tile at the place of a held-out one") for tile in leaks]
    if not chosen:
        given = ", ".join(map(str, sources)) or "no source"
        example = f"; {len(skipped)} files skipped, the first one {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise ValueError(
            f"no label tile in {given}{example}; expected dw_<lon>_<lat>-<YYYYMMDD>.tif in Experts/, Non_expert/ or validation"
        )
    return Survey(chosen, tuple(sorted(skipped)))


def read_label(tile: LabelTile) -> Label:
    """Reads the pixels of a tile; where only the single markups of its experts are there, they vote.

    Raises:
        ValueError: a file is missing, cut short, not 510 or 512 pixels wide and high, not north up on a 10 m UTM grid, has
            other codes than 0 to 10, or has several bands and none named `lulc`; the files of a held-out tile are on
            several grids, hold votes without the consensus, or are neither one nor three markups.
    """
    rasters = [(vote, path, *_read(path)) for vote, path in tile.files]
    _, first_path, first, crs, transform = rasters[0]
    for _, path, codes, other_crs, other_transform in rasters[1:]:
        if (codes.shape, other_crs, other_transform) != (first.shape, crs, transform):
            raise ValueError(
                f"label {path} is on another grid than {first_path}; expected one grid for tile {tile.tile_id}"
            )
    by_vote = {vote: codes for vote, _, codes, _, _ in rasters if vote}
    if not by_vote and len(rasters) > 1:
        if len(rasters) != 3:
            raise ValueError(f"tile {tile.tile_id} has {len(rasters)} experts' markups, expected 3 of them, or votes")
        by_vote = votes(np.stack([codes for _, _, codes, _, _ in rasters]))
    if by_vote and "consensus" not in by_vote:
        raise ValueError(
            f"tile {tile.tile_id} has the votes {', '.join(by_vote)}, expected consensus among them; give its folder too"
        )
    return Label(by_vote.get("consensus", first), crs, transform, by_vote)


def votes(markups: UInt8[np.ndarray, "3 height width"]) -> dict[str, UInt8[np.ndarray, "height width"]]:
    """The four votes over three experts' codes; 0 where a vote has no outcome. Cloud (10) is an opinion as any class is.

    strict: all three marked, and agree. consensus: all who marked agree, be it three, two or one. majority: at least two
    agree, or one alone marked. simple_majority: at least two agree.

    Source: Brown et al. 2022, Technical Validation, in the text. (The captions of its tables 7 and 9 say it otherwise, but
    their pixel counts, 27.8 M strict, 57.7 M simple majority, 68.1 M consensus, 78.9 M majority, fit the text alone.)
    """
    opinions = (markups > 0).sum(axis=0)
    winner = np.zeros(markups.shape[1:], np.uint8)
    agreeing = np.zeros(markups.shape[1:], np.int64)
    for code in bands.LABEL_CODES[1:]:
        count = (markups == code).sum(axis=0)
        winner = np.where(count > agreeing, np.uint8(code), winner)
        agreeing = np.maximum(agreeing, count)

    def where(valid: Bool[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width"]:
        return np.where(valid, winner, np.uint8(0))

    return {
        "strict": where(agreeing == 3),
        "consensus": where(agreeing == opinions),
        "simple_majority": where(agreeing >= 2),
        "majority": where((agreeing >= 2) | (opinions == 1)),
    }


def hemisphere_of(lon: float) -> str:
    """'WH' from 160 to 20 degrees west, else 'EH'. Source: Brown et al. 2022, Training dataset collection."""
    return "WH" if -160 <= lon < -20 else "EH"


_ZENODO = "zenodo"
"""Stands for the vote of Zenodo's tiles, the consensus, until PANGAEA's have been preferred."""


def _files(source: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Paths of all GeoTIFFs and inner zips of a source, and the names of their folders from the source's own downwards."""
    if source.is_dir():
        for path in sorted(path for path in source.rglob("*") if path.is_file()):
            folders = (source.resolve().name, *path.relative_to(source).parts[:-1])
            if path.suffix.lower() == ".zip":
                yield from _zipped(path, folders)
            elif path.suffix.lower() in (".tif", ".tiff"):
                yield str(path.absolute()), folders
    elif source.suffix.lower() == ".zip" and source.is_file():
        yield from _zipped(source, ())
    elif source.exists():
        raise ValueError(
            f"{source} is neither a folder nor a .zip; expected the zips of PANGAEA 933475 or what they hold"
        )
    else:
        raise ValueError(f"no file or folder {source}; expected the zips of PANGAEA 933475 or what they hold")


def _zipped(path: Path, folders: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(archive.namelist())
    except zipfile.BadZipFile:
        raise ValueError(
            f"{path} is not a whole zip ({path.stat().st_size} bytes); is it cut short? Download it again"
        ) from None
    for name in names:
        inner = PurePosixPath(name)
        if inner.suffix.lower() in (".tif", ".tiff", ".zip"):
            yield f"/vsizip/{path.absolute()}/{name}", (*folders, path.stem, *inner.parts[:-1])


def _label_tile(path: str, folders: tuple[str, ...]) -> LabelTile | str:
    """What the name and the folders of a file tell, or why it is no label of ours."""
    name = PurePosixPath(path).name
    if name.lower().endswith(".zip"):
        return "a zip inside of a zip; unpack the outer one"
    if _is_probabilities(path):
        return "probabilities of a model, not a label"
    match = _NAME.fullmatch(name)
    if not match:
        return "its name is not dw_<lon>_<lat>-<YYYYMMDD>.tif"
    stem, lon, lat = match[1].lower(), float(match[2]), float(match[3])
    if not (-180 <= lon <= 180 and -90 <= lat <= 90):
        return f"longitude {lon} and latitude {lat} are not degrees"
    try:
        date = datetime.datetime.strptime(match[4], "%Y%m%d").date().isoformat()
    except ValueError:
        return f"{match[4]} is no date"
    plain = [re.sub(r"[^a-z0-9]", "", folder.lower()) for folder in reversed(folders)]  # the nearest folder first
    vote = next(filter(None, map(_vote, plain)), "")
    annotator = next(filter(None, map(_annotator, plain)), "")
    if vote or any(map(_is_held_out, plain)):
        if annotator == "non_expert" and not vote:
            return "a non-expert's markup of a held-out tile; its experts vote"
        annotator = "held_out"
    if not annotator:
        return "no folder Experts, Non_expert or validation above it"
    return LabelTile(
        tile_id=stem + "_non_expert" * (annotator == "non_expert"),
        split="test" if annotator == "held_out" else "train",
        annotator=annotator,
        hemisphere=next((folder[:2].upper() for folder in plain if re.fullmatch(r"[ew]h[12]?", folder)), ""),
        biome=next(filter(None, map(_biome, plain)), None),
        lon=lon,
        lat=lat,
        date=date,
        s2_product_id="",
        files=((_ZENODO if any("dwtest" in folder for folder in plain) else vote, path),),
    )


def _vote(folder: str) -> str:
    keys = {"(?<!di)strict": "strict", "consensus": "consensus", "simple": "simple_majority", "majority": "majority"}
    return next((vote for key, vote in keys.items() if re.search(key, folder)), "")


def _annotator(folder: str) -> str:
    if "nonexpert" in folder or "workforce" in folder:
        return "non_expert"
    return "expert" if "expert" in folder else ""


def _is_held_out(folder: str) -> bool:
    return folder in ("val", "test") or any(word in folder for word in ("validation", "heldout", "holdout", "dwtest"))


def _biome(text: str) -> int | None:
    return int(text) if re.fullmatch(r"\d{1,2}", text) and 1 <= int(text) <= len(bands.BIOMES) else None


def _is_probabilities(path: str) -> bool:
    return PurePosixPath(path).name.lower().startswith("probs_")


def _identity(tile: LabelTile) -> tuple[str, str]:
    return tile.tile_id, tile.split  # one place may be an expert's train tile and held out, until that is noticed


def _merged(group: list[LabelTile]) -> tuple[LabelTile, list[tuple[str, str]]]:
    """One tile of all files of one tile id, and those passed over."""
    if group[0].split == "train":
        taken = group[:1]
    else:
        by_vote = {vote: tile for tile in reversed(group) for vote, _ in tile.files}
        composites = [by_vote[vote] for vote in bands.VOTES if vote in by_vote]
        taken = composites or [tile for tile in group if not tile.files[0][0]] or [by_vote[_ZENODO]]
    files = tuple(("consensus" if vote == _ZENODO else vote, path) for tile in taken for vote, path in tile.files)
    passed = [(tile.files[0][1], f"the same tile as {files[0][1]}") for tile in group if tile not in taken]
    return dataclasses.replace(taken[0], files=files), passed


def _completed(tile: LabelTile, row: dict[str, str]) -> LabelTile:
    """The tile with what the workbook's row tells beyond the folders."""
    return dataclasses.replace(
        tile,
        hemisphere=tile.hemisphere or row.get("hemisphere", "").upper()[:2] or hemisphere_of(tile.lon),
        biome=tile.biome or _biome(row.get("biome", "").removesuffix(".0")),
        s2_product_id=row.get("s2_product_id", ""),
    )


def _place(tile: LabelTile) -> tuple[float, float]:
    return round(tile.lon, 5), round(tile.lat, 5)  # a metre: copies write their ids with fewer digits


def _named_place(dw_id: str) -> tuple[tuple[float, float], str] | None:
    """Place and date as an id of the workbook has them; None of what is no id, as a note below the table."""
    match = _NAME.fullmatch(dw_id.removesuffix(".tif") + ".tif")
    return match and (
        (round(float(match[2]), 5), round(float(match[3]), 5)),
        f"{match[4][:4]}-{match[4][4:6]}-{match[4][6:]}",
    )


def _read(path: str) -> tuple[UInt8[np.ndarray, "height width"], str, tuple[float, ...]]:
    """Codes, CRS and transform of a label file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # refused below, in a line
            with rasterio.open(path) as raster:
                _check_grid(path, raster)
                values = raster.read(_band(path, raster))
                crs, transform = raster.crs.to_string(), tuple(map(float, tuple(raster.transform)[:6]))
    except RasterioError as error:
        raise ValueError(
            f"cannot read label {path}; is the file or its zip cut short? ({error.__cause__ or error})"
        ) from None
    return _codes(path, values), crs, transform


def _check_grid(path: str, raster: rasterio.DatasetReader) -> None:
    if raster.height != raster.width or raster.height not in SIZES_PX:
        sizes = " or ".join(f"{size} x {size} ({whose})" for size, whose in SIZES_PX.items())
        raise ValueError(f"label {path} is {raster.height} x {raster.width} pixels, expected {sizes}")
    if not raster.crs or raster.crs.to_dict().get("proj") != "utm":
        raise ValueError(f"label {path} has CRS {raster.crs}, expected a UTM zone; take the file as published")
    pixel = tuple(raster.transform)
    if not np.allclose((*pixel[:2], *pixel[3:5]), (10, 0, 0, -10), rtol=0, atol=1e-6):
        raise ValueError(f"label {path} has transform {pixel[:6]}, expected pixels of 10 m, north up")


def _band(path: str, raster: rasterio.DatasetReader) -> int:
    """The band of the annotators' codes: `lulc`, as beside it Zenodo's files hold the model's classes, counted from 0."""
    names = [(name or "").strip().lower() for name in raster.descriptions]
    if "lulc" in names:
        return names.index("lulc") + 1
    if raster.count > 1:
        raise ValueError(
            f"label {path} has the bands {', '.join(name or '?' for name in names)}, expected one named lulc"
        )
    return 1


def _codes(path: str, values: Shaped[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width"]:
    valid = np.isin(values, bands.LABEL_CODES)
    if not valid.all():
        raise ValueError(f"label {path} holds the code {values[~valid][0]}, expected 0 to {max(bands.LABEL_CODES)}")
    return values.astype(np.uint8)
