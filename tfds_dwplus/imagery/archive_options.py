"""Command-line options for reading imagery from one or two STAC APIs.

Enters: parsed arguments. Leaves: a `stac_api.StacArchive`.
"""

import argparse
import datetime
from collections.abc import Sequence

from tfds_dwplus import bands
from tfds_dwplus.files.addresses import shown
from tfds_dwplus.imagery.acquisitions import S1_ORBITS, Wanted
from tfds_dwplus.imagery.decoder.backscatter import UNITS
from tfds_dwplus.imagery.stac_api import PRESETS, Collection, Preset, StacArchive, preset_of


def add_archive_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options: URLs, collections, assets, level and offset of Sentinel-2, unit, quantity, orbit and mean of
    Sentinel-1, timeout.
    """
    presets = "; ".join(f"{name}: {preset.description}" for name, preset in PRESETS.items())
    add = parser.add_argument
    add("--stac_url", default="planetary_computer", help=f"URL of a STAC API, or a preset: {presets}")
    add("--s1_stac_url", default="", help="the same for Sentinel-1, if it is different")
    add("--s2_level", choices=("L1C", "L2A"), default=Wanted.s2_level, help="top of atmosphere or surface reflectance")
    add("--s2_collection", default="", help="collection of Sentinel-2, for an API without preset")
    add("--s2_assets", default="", help="assets that are not named like their band, as B2=blue,B3=green")
    add(
        "--s2_offset",
        choices=("auto", "0", str(bands.OFFSET_DN)),
        default="auto",
        help="number to subtract from the digital numbers of every scene; auto: as each one's metadata and pixels tell",
    )
    add(
        "--s2_offset_in_doubt",
        type=int,
        choices=(0, bands.OFFSET_DN),
        help="number to subtract where neither metadata nor pixels of a scene decide",
    )
    add("--s1_collection", default="", help="collection of Sentinel-1, for an API without preset")
    add("--s1_assets", default="", help="the same, as VV=vv-asset,VH=vh-asset")
    add(
        "--s1_unit",
        choices=UNITS,
        help="stored backscatter: dB, linear power, its square root (amplitude), or dB = 20 log10(DN) - 83 (scaled)",
    )
    add("--s1_quantity", choices=("sigma0", "gamma0"), help="quantity of the backscatter")
    add(
        "--s1_orbit",
        choices=S1_ORBITS,
        default=Wanted.s1_orbit,
        help="orbit direction of the passes to use; _or_: where the first one has none, the second one",
    )
    add("--s1_mean", choices=("dB", "power"), default=Wanted.s1_mean, help="mean of decibels, or of linear power")
    add("--timeout_s", type=float, default=60.0, help="how long to wait for an answer")


def stac_archive(args: argparse.Namespace, sensors: tuple[str, ...] = ("s2", "s1")) -> StacArchive:
    """Makes the archive of the arguments. The collection of a sensor that is not in `sensors` has an empty name.

    Raises:
        ValueError: an option is missing or wrong. The message names it.
    """
    if not args.timeout_s > 0:
        raise ValueError(f"--timeout_s is {args.timeout_s:g}, expected seconds above 0")
    s1_url = args.s1_stac_url or args.stac_url
    s2_preset, s1_preset = preset_of(args.stac_url), preset_of(s1_url)
    for url, preset, option in ((args.stac_url, s2_preset, "--stac_url"), (s1_url, s1_preset, "--s1_stac_url")):
        if preset is None and "://" not in url:
            raise ValueError(f"{option} is {shown(url)!r}, expected a URL or one of {', '.join(PRESETS)}")
    s2_name = args.s2_collection or (s2_preset and s2_preset.s2_collections.get(args.s2_level)) or ""
    if not s2_name and "s2" in sensors:
        serves = f": it serves {', '.join(s2_preset.s2_collections)}" if s2_preset else ""
        raise ValueError(f"no --s2_collection is given for {args.s2_level} of {shown(args.stac_url)}{serves}")
    s1 = {"collection": args.s1_collection, "unit": args.s1_unit, "quantity": args.s1_quantity}
    if s1_preset and s1_preset.s1:
        s1 = {name: given or known for (name, given), known in zip(s1.items(), s1_preset.s1, strict=True)}
    elif s1_preset and "s1" in sensors:
        raise ValueError(
            f"{shown(s1_url)} has no Sentinel-1 that can be used: {s1_preset.description}, as planetary_computer"
        )
    missing = [name for name, value in s1.items() if not value]
    if missing and "s1" in sensors:
        options = " and ".join(f"--s1_{name}" for name in missing)
        raise ValueError(
            f"{options} of {shown(s1_url)} not given; the unit of backscatter is never guessed, see --help"
        )
    s2_assets = (s2_preset.s2_assets if s2_preset else {}) | _assets(args.s2_assets, "--s2_assets")
    return StacArchive(
        _collection(args.stac_url, s2_preset, s2_name if "s2" in sensors else "", s2_assets),
        _collection(
            s1_url, s1_preset, s1["collection"] if "s1" in sensors else "", _assets(args.s1_assets, "--s1_assets")
        ),
        s1["unit"] or "",
        s1["quantity"] or "",
        args.timeout_s,
    )


def s2_offset(args: argparse.Namespace) -> int | None:
    """Digital numbers to subtract from Sentinel-2. None: use the metadata."""
    return None if args.s2_offset == "auto" else int(args.s2_offset)


def _collection(url: str, preset: Preset | None, name: str, assets: dict[str, str]) -> Collection:
    signed = preset is not None and preset.signed
    return Collection(preset.url if preset else url.rstrip("/"), name, tuple(sorted(assets.items())), signed)


def _assets(text: str, option: str) -> dict[str, str]:
    """Parses 'B2=blue,B3=green' to {"B2": "blue", "B3": "green"}."""
    pairs = [part.partition("=") for part in text.split(",") if part]
    if not all(band and key for band, _, key in pairs):
        raise ValueError(f"{option} is {text!r}, expected pairs as in B2=blue,B3=green")
    return {bands.canonical_band(band): key for band, _, key in pairs}


def dates(given: Sequence[str], option: str) -> tuple[str, str]:
    """Returns the first and the last day that an option gives, YYYY-MM-DD. Raises a ValueError if they are none, or in the other order."""
    try:
        first, last = (datetime.date.fromisoformat(text) for text in given)
    except ValueError:
        raise ValueError(f"{option} is {' '.join(given)!r}, expected two days such as 2024-06-01 2024-08-31") from None
    if first > last:
        raise ValueError(f"{option} is {first} {last}, expected the first day first")
    return str(first), str(last)
