"""Find the published Dynamic World label tiles and their metadata.

Enters: the zips of PANGAEA 10.1594/PANGAEA.933475 (experts, non-experts, held-out validation tiles), the Zenodo test zip
(10.5281/zenodo.4766508), or folders of such zips or of their content, and the metadata workbook. Leaves: a sorted list of
`LabelTile`s, and a list of skipped files with reasons. No pixel is read and nothing is unpacked.

The names of a file's folders tell what it is: `Experts` or `Non_expert` (`WorkForce`), `EH` or `WH`, and the biome,
1 to 14. A tile is held out if a folder is called `validation`, `held out`, `dw_test` or as a vote. Case and separators do
not matter.
"""

import dataclasses
import datetime
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from tfds_dwplus import bands
from tfds_dwplus.files import archives
from tfds_dwplus.files.strangers import fault_of_name
from tfds_dwplus.labels.workbook import workbook_rows

_NAME = re.compile(r"(?:label_)?(dw_(-?\d+(?:\.\d+)?)_(-?\d+(?:\.\d+)?)-(\d{8}))\.tiff?", re.IGNORECASE | re.ASCII)


@dataclasses.dataclass(frozen=True)
class LabelTile:
    """A labelled place and date."""

    tile_id: str
    """File name without `label_` and extension. Tiles of non-experts have the suffix `_non_expert`."""
    split: str
    """'train', or 'test' for a held-out tile."""
    annotator: str
    """'expert', 'non_expert' or 'held_out'."""
    hemisphere: str
    """'EH' or 'WH'."""
    biome: int | None
    """1 to 14; None if not known."""
    lon: float
    """Degrees. Longitude, latitude and date are taken from the file name."""
    lat: float
    date: str
    """YYYY-MM-DD of the Sentinel-2 image that was labelled."""
    s2_product_id: str
    """Id of that image's L2A product, from the workbook; empty if not known."""
    files: tuple[tuple[str, str], ...]
    """Pairs of a vote and a GDAL path. The vote is empty for a train tile, and for a file of one expert's labels."""


@dataclasses.dataclass(frozen=True)
class Survey:
    """Result of `survey`."""

    tiles: tuple[LabelTile, ...]
    """Sorted by tile id."""
    skipped: tuple[tuple[str, str], ...]
    """Pairs of a path and the reason why it is skipped, sorted."""


def survey(sources: Sequence[Path], workbook: Path | None = None) -> Survey:
    """Lists the label tiles of some zips and folders, without reading pixels.

    A train tile at the place of a held-out tile is skipped, so that no test place is trained on. If two files are the
    same tile the first is used; for a held-out tile, PANGAEA's before Zenodo's.

    Args:
        sources: zips and folders. Zips inside a folder are opened, zips inside a zip are not.
        workbook: `v1_dw_tile_metadata_for_public_release.xlsx`. Gives the product id, and what folder names do not tell.

    Raises:
        ValueError: a source does not exist, is not a zip or is cut short; the workbook is not one or lacks columns; or no
            label tile is found.
    """
    files = [file for source in sources for file in _files(source)]
    # Zenodo's test tiles lie beside the model's output, even if their folder is not called dw_test.
    zenodo = {PurePosixPath(path).parent for path, _, _ in files if _is_probabilities(path)}
    found, skipped = [], []
    for path, folders, fault in files:
        tile = fault or _label_tile(path, (*folders, "dw_test") if PurePosixPath(path).parent in zenodo else folders)
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


def hemisphere_of(lon: float) -> str:
    """'WH' from 160 to 20 degrees west, else 'EH'. Source: Brown et al. 2022, Training dataset collection."""
    return "WH" if -160 <= lon < -20 else "EH"


_ZENODO = "zenodo"
"""Placeholder vote of Zenodo's tiles. `_merged` turns it into consensus, after it has preferred PANGAEA's files."""


_File = tuple[str, tuple[str, ...], str]
"""GDAL path of a file, the names of its folders, starting with the source's own, and why it is not to be read, or ''."""


def _files(source: Path) -> Iterator[_File]:
    """Lists GeoTIFFs and inner zips of a source."""
    if source.is_dir():
        for path in sorted(path for path in source.rglob("*") if path.is_file()):
            folders = (source.resolve().name, *path.relative_to(source).parts[:-1])
            if path.suffix.lower() == ".zip":
                yield from _zipped(path, folders)
            elif path.suffix.lower() in (".tif", ".tiff"):
                yield str(path.absolute()), folders, ""
    elif source.suffix.lower() == ".zip" and source.is_file():
        yield from _zipped(source, ())
    elif source.exists():
        raise ValueError(
            f"{source} is neither a folder nor a .zip; expected the zips of PANGAEA 933475 or their content"
        )
    else:
        raise ValueError(f"no file or folder {source}; expected the zips of PANGAEA 933475 or their content")


def _zipped(path: Path, folders: tuple[str, ...]) -> Iterator[_File]:
    try:
        with archives.opened(path) as archive:
            members = sorted(archive.infolist(), key=lambda member: member.filename)
    except ValueError as error:
        raise ValueError(f"{error} ({path.stat().st_size} bytes); download it again") from None
    for member in members:
        inner = PurePosixPath(member.filename)
        if inner.suffix.lower() in (".tif", ".tiff", ".zip"):
            address = f"/vsizip/{path.absolute()}/{member.filename}"
            yield address, (*folders, path.stem, *inner.parts[:-1]), archives.fault_of_member(member)


def _label_tile(path: str, folders: tuple[str, ...]) -> LabelTile | str:
    """Parses the name and the folders of a file into a tile, or gives the reason why it is not a label."""
    name = PurePosixPath(path).name
    if name.lower().endswith(".zip"):
        return "a zip inside of a zip; unpack the outer one"
    if _is_probabilities(path):
        return "probabilities of a model, not a label"
    match = _NAME.fullmatch(name)
    if not match:
        return "its name is not dw_<lon>_<lat>-<YYYYMMDD>.tif"
    stem, lon, lat = match[1].lower(), float(match[2]), float(match[3])
    if fault := fault_of_name(stem):
        return f"its name {fault}"
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
            return "a non-expert's label of a held-out tile; only its experts vote"
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
    return tile.tile_id, tile.split  # `survey` removes train tiles at held-out places later


def _merged(group: list[LabelTile]) -> tuple[LabelTile, list[tuple[str, str]]]:
    """Merges the files of one tile id into one tile, and lists the skipped files with reasons."""
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
    """Fills in what the folders do not tell, from the workbook's row."""
    return dataclasses.replace(
        tile,
        hemisphere=tile.hemisphere or row.get("hemisphere", "").upper()[:2] or hemisphere_of(tile.lon),
        biome=tile.biome or _biome(row.get("biome", "").removesuffix(".0")),
        s2_product_id=row.get("s2_product_id", ""),
    )


def _place(tile: LabelTile) -> tuple[float, float]:
    return round(tile.lon, 5), round(tile.lat, 5)  # about a metre: some copies write ids with fewer digits


def _named_place(dw_id: str) -> tuple[tuple[float, float], str] | None:
    """Parses place and date from an id of the workbook. None for other text, such as a note below the table."""
    match = _NAME.fullmatch(dw_id.removesuffix(".tif") + ".tif")
    return match and (
        (round(float(match[2]), 5), round(float(match[3]), 5)),
        f"{match[4][:4]}-{match[4][4:6]}-{match[4][6:]}",
    )
