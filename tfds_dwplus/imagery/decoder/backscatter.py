"""Sentinel-1: from stored backscatter to dB.

Enters: stored numbers in one of `UNITS`. Leaves: dB, NaN where there is no data: NaN, 0 (power or dB), power below 0, values
outside -60 to 40 dB, and border noise. What is taken out is counted by reason. One pixel never fails a scene; a median that
cannot be the unit does.
"""

import re
from collections.abc import Iterable, MutableMapping

import numpy as np
from jaxtyping import Bool, Float32, Num

from tfds_dwplus import bands

UNITS = ("db", "power", "amplitude", "scaled")
"""Units in which files store backscatter: dB; linear power; its square root; integers with dB = 20 log10(DN) - 83 (the
convention of WorldCereal and of JAXA's PALSAR).
"""

FILL = (-9999, -32768)
"""Stored by some archives where there is no data, without saying so."""

VV_NOISE_DB = -40.0
"""VV below is border noise of GRD products made before March 2018, or no measurement: the noise floor of Sentinel-1's wide swath is at
-22 dB (Sentinel-1 Product Definition, NESZ), and the darkest water of our real scenes is at -39.2 dB after noise removal.
"""


def decibels(
    stored: Num[np.ndarray, "*shape"],
    valid: Bool[np.ndarray, "*shape"] | bool,
    unit: str,
    dropped: MutableMapping[str, int] | None = None,
    counted: tuple[slice, ...] = (),
) -> Float32[np.ndarray, "*shape"]:
    """Converts stored backscatter to dB, NaN where there is no data.

    Args:
        stored: numbers of a file.
        valid: those that nothing declares to be nodata.
        unit: one of `UNITS`.
        dropped: counts pixels that are no backscatter, by reason; added to.
        counted: the part of the pixels that are counted, all if not given; for windows that overlap.
    """
    low, high = bands.S1_DB_RANGE
    valid = valid & np.isfinite(stored)
    for fill in FILL if stored.dtype.kind != "u" else ():
        valid &= stored != fill
    stored = stored.astype(np.float32)
    measured = valid & ((stored != 0) if unit == "db" else (stored > 0))
    with np.errstate(invalid="ignore", divide="ignore"):
        if unit == "db":
            decibel = np.where(measured, stored, np.float32(np.nan))
        else:
            factor = 10 if unit == "power" else 20
            decibel = factor * np.log10(np.where(measured, stored, np.float32(np.nan))) - (
                83 if unit == "scaled" else 0
            )
        result = np.where((decibel >= low) & (decibel <= high), decibel, np.float32(np.nan)).astype(np.float32)
    if dropped is not None and not np.array_equal(np.isfinite(result), valid):
        reasons = {
            f"above {high:g} dB": decibel > high,
            f"below {low:g} dB": decibel < low,
            "of exactly 0 dB": valid & (stored == 0) & (unit == "db"),
            "of power below 0": valid & (stored < 0) & (unit != "db"),
        }
        for reason, mask in reasons.items():
            if number := int(np.count_nonzero(mask[counted])):
                dropped[reason] = dropped.get(reason, 0) + number
    return result


def without_border_noise(
    names: Iterable[str],
    decibel: Float32[np.ndarray, "*shape band"],
    dropped: MutableMapping[str, int] | None = None,
    counted: tuple[slice, ...] = (),
) -> Float32[np.ndarray, "*shape band"]:
    """Sets all bands to NaN where VV is below `VV_NOISE_DB`; changed in place, and counted."""
    names = list(names)
    if "VV" in names:
        with np.errstate(invalid="ignore"):
            noise = decibel[..., names.index("VV")] < VV_NOISE_DB
        if noise.any():
            decibel[noise] = np.nan
            if dropped is not None and (number := int(np.count_nonzero(noise[counted]))):
                reason = f"below {VV_NOISE_DB:g} dB in VV (border noise)"
                dropped[reason] = dropped.get(reason, 0) + number
    return decibel


def check_unit(name: str, stored: Num[np.ndarray, " pixels"], unit: str, remedy: str = "") -> None:
    """Raises a ValueError if the median of stored backscatter cannot be of the given unit.

    Args:
        name: of the file or array, for the message.
        stored: a sample of stored numbers, without those that are nodata.
        unit: one of `UNITS`.
        remedy: what to do about another unit, if not to say --s1_unit.
    """
    given = np.asarray(stored, np.float64)
    given = given[np.isfinite(given) & ~np.isin(given, FILL) & (given != 0)]
    if given.size < 100:
        return
    middle, low, high = np.median(given), *bands.S1_DB_RANGE
    decibel = decibels(given, True, unit)
    plausible = low <= middle <= high if unit == "db" else middle > 0
    measured = decibel[np.isfinite(decibel)]
    # A city centre may have a median above 0 dB, but it has values below -1 dB too.
    if plausible and measured.size and (np.median(measured) < 0 or np.mean(measured < -1) >= 0.01):
        return
    other = "db" if unit != "db" and middle < 0 else " or ".join(known for known in UNITS if known != unit)
    raise ValueError(
        f"{name} holds values from {given.min():g} to {given.max():g}, half of them below {middle:g}; as {unit} this is "
        f"not Sentinel-1, expected backscatter in dB that is mostly below 0; is its unit another one? {remedy or f'Say --s1_unit {other}'}"
    )


def quantity_named(texts: Iterable[str]) -> str:
    """Finds in names and tags of files whether backscatter is sigma0 or gamma0; "" if they do not tell, or tell both.

    'Sigma0_VV_db' is sigma0; 'gamma0', 'Gamma0_VH' and RTC products (radiometrically terrain corrected) are gamma0.
    """
    found = set()
    for text in texts:
        lower = text.lower()
        if re.search(r"sigma[\s_-]*(0|nought|naught)|\bsig0", lower):
            found.add("sigma0")
        if re.search(r"gamma[\s_-]*(0|nought|naught)|\bgam0|(?<![a-z])rtc(?![a-z])", lower):
            found.add("gamma0")
    return found.pop() if len(found) == 1 else ""


def other_quantity(given: str, unit: str) -> str:
    """A line for the user if a network was trained on the other quantity; "" if not, or if it is not known.

    Args:
        given: 'sigma0' or 'gamma0' of the imagery, "" if not known.
        unit: of the network's statistics, such as 'sigma0 dB'.
    """
    trained = quantity_named([unit])
    if not given or not trained or given == trained:
        return ""
    return f"Sentinel-1 is {given}, but the network was trained on {trained}; they differ by several dB on slopes"


def told(dropped: MutableMapping[str, int]) -> list[str]:
    """One line for each reason in a count of `decibels`."""
    return [
        f"{number:,} {'pixel' if number == 1 else 'pixels'} of Sentinel-1 {reason} {'is' if number == 1 else 'are'} taken as no data"
        for reason, number in dropped.items()
    ]
