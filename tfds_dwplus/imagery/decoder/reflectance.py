"""Sentinel-2: from stored numbers to digital numbers, reflectance x 10000.

    digital number = (stored x scale + offset) x 10000 = stored x gain + shift

Enters: what is `Declared` of each band of a scene, and a sample of its stored numbers. Leaves: a `Decision`, made once for
the whole scene: gain and shift of each band, and lines that tell what was decided. Then pixels.

What is declared counts, unless the pixels contradict it: whether an offset is still in the numbers is seen in a low
percentile and in the median of all bands, never in a single pixel.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Num, UInt16

from tfds_dwplus import bands
from tfds_dwplus.imagery.decoder.declared import Declared

FILL = (-9999, -32768)
"""Stored by some archives where there is no data, without saying so."""

NEGATIVE = 400
"""A tenth of a band's pixels does not lie this far below reflectance 0, in digital numbers. Sen2Cor and MAJA over-correct water and
shadow by 0.01 to 0.03 (MAJA issue 76, SIAC issue 22); 0.04 is beyond it.
"""

ALL_NEGATIVE = 100
"""The medians of all bands do not lie this far below 0 together."""

DARKEST = (-100, 500)
"""Reflectance x 10000 between which the darkest 2 % of the darkest band of most scenes lie."""

BRIGHT = 2000
"""A darkest band whose darkest 2 % are brighter than this, in digital numbers as stored, is of a desert, of snow or of cloud: it tells
nothing of an offset.
"""

LEAST_DATA = -2000
"""Digital numbers below are no reflectance but a fill value."""


class OffsetError(ValueError):
    """Neither metadata nor pixels tell whether an offset is still in the numbers of a scene."""


@dataclasses.dataclass(frozen=True)
class Linear:
    """From stored numbers of a band to digital numbers: stored x gain + shift."""

    gain: float = 1.0
    shift: float = 0.0

    @property
    def unchanged(self) -> bool:
        """Whether stored numbers are digital numbers."""
        return self.gain == 1 and not self.shift


@dataclasses.dataclass(frozen=True)
class Decision:
    """How to read the Sentinel-2 bands of a scene."""

    linear: tuple[Linear, ...]
    """In the order of the bands."""
    notes: tuple[str, ...] = ()
    """What the user should look at, one line each: what was guessed, decided against metadata, or is in doubt."""

    @property
    def said(self) -> str:
        """A line on what is subtracted; "" if nothing."""
        offsets = sorted({-each.shift for each in self.linear if each.shift})
        said = ", ".join(f"{offset:g}" for offset in offsets)
        return f"{said} is subtracted from the digital numbers of Sentinel-2 (--s2_offset)" if said else ""

    @property
    def tags(self) -> dict[str, str]:
        """For tiles.csv, tags of maps and STAC items: what was subtracted from digital numbers, and the scale of stored ones."""
        offsets = sorted({0.0 - each.shift for each in self.linear})
        scales = sorted({each.gain / 10000 for each in self.linear})
        return {"s2_offset": " ".join(f"{x:g}" for x in offsets), "s2_scale": " ".join(f"{x:g}" for x in scales)}


@dataclasses.dataclass(frozen=True)
class _Seen:
    """Percentiles of a scene's valid digital numbers, a value for each band that has enough."""

    p2: np.ndarray
    p10: np.ndarray
    p50: np.ndarray
    p98: np.ndarray

    @classmethod
    def of(cls, samples: Sequence[np.ndarray]) -> "_Seen":
        known = [sample for sample in samples if sample.size]
        if not known:
            return cls(*np.empty((4, 0)))
        return cls(*np.stack([np.percentile(sample, (2, 10, 50, 98)) for sample in known], axis=1))

    @property
    def any(self) -> bool:
        return bool(self.p2.size)

    def without_offset(self, offset: float) -> bool:
        """Whether the pixels say that this offset is not in the numbers: too many would be negative."""
        return self.any and bool((self.p10 < offset - NEGATIVE).any() or (self.p50 < offset - ALL_NEGATIVE).all())

    def with_offset(self, offset: float) -> bool:
        """Whether the pixels look as if this offset was in the numbers: the darkest ones lie about it."""
        return self.any and bool(offset + DARKEST[0] <= self.p2.min() <= offset + DARKEST[1])


def decide(
    names: Sequence[str],
    declared: Sequence[Declared],
    samples: Sequence[Num[np.ndarray, " _"]],
    *,
    offset: int | None = None,
    in_doubt: int | None = None,
    advice: str = f"say --s2_offset {bands.OFFSET_DN} or --s2_offset 0",
) -> Decision:
    """Decides scale and offset of the bands of a scene.

    Args:
        names: of the bands.
        declared: what metadata say of each band.
        samples: stored numbers of each band from all over the scene, without those that are nodata.
        offset: digital numbers to subtract, as the user says. None: as metadata and pixels say.
        in_doubt: the same, where metadata and pixels do not tell.
        advice: what the user can do to set the offset of such a scene; ends messages.

    Raises:
        OffsetError: a flag that is often wrong says that the offset is in, pixels do not tell, and `in_doubt` is not given.
        ValueError: the numbers cannot be reflectance.
    """
    samples = [_without_fill(np.asarray(sample)) for sample in samples]
    gains, notes = _gains(names, declared, samples)
    numbers = [sample * gain for sample, gain in zip(samples, gains, strict=True)]
    seen = _Seen.of(numbers)
    if seen.any and seen.p98.max() < 600 and not any(one.scale or one.decoded for one in declared):
        notes.append(
            f"98 % of the numbers of Sentinel-2 are below {seen.p98.max():.4g} in all bands; they are taken as reflectance x 10000, "
            "and are of a very dark place if they are"
        )
    if seen.any and seen.p50.min() > 10000 and any(one.scale not in (None, 1, 1e-4) for one in declared):
        notes.append(
            f"the declared scale makes a reflectance above {seen.p50.min() / 10000:.3g} of half of the pixels in every band; look at it"
        )
    told = [_offsets_said(one, gain) for one, gain in zip(declared, gains, strict=True)]
    if offset is not None:
        against = sorted({said for each in told for said in each.values() if said != offset})
        if against and not any(offset in each.values() for each in told):
            notes.append(
                f"{offset:g} is taken off the digital numbers of Sentinel-2 as given, though the metadata say "
                f"{', '.join(f'{x:g}' for x in against)}"
            )
        return Decision(tuple(Linear(gain, 0.0 - offset) for gain in gains), tuple(notes))
    subtracted, more = _subtracted(told, seen, in_doubt, advice)
    return Decision(
        tuple(Linear(gain, 0.0 - off) for gain, off in zip(gains, subtracted, strict=True)), (*notes, *more)
    )


def digital_numbers(
    stored: Num[np.ndarray, "*shape"], valid: Bool[np.ndarray, "*shape"] | bool, linear: Linear
) -> UInt16[np.ndarray, "*shape"]:
    """Converts stored numbers to digital numbers of 1 to 65534, 0 where there is no data.

    No data is what is not `valid`, NaN, a fill value, and 65535 where numbers are stored as reflectance x 10000. A number at or
    below the offset is dark, not missing, and becomes 1.
    """
    if linear.unchanged and stored.dtype == np.uint16:
        return np.where(valid & (stored < 65535), np.maximum(stored, 1), np.uint16(bands.S2_NODATA))
    with np.errstate(invalid="ignore", over="ignore"):
        number = stored.astype(np.float32) * np.float32(linear.gain) + np.float32(linear.shift)
        valid = valid & (number > LEAST_DATA)
        for fill in FILL if stored.dtype.kind != "u" else ():
            valid &= stored != fill
        if linear.gain == 1:
            valid &= stored < 65535
        valid &= number < 65536
        number = np.clip(np.rint(np.where(valid, number, 0)), 1, 65534)
    return np.where(valid, number, bands.S2_NODATA).astype(np.uint16)


def zeros_apart(
    stored: Num[np.ndarray, "*shape"], valid: Bool[np.ndarray, "*shape"]
) -> tuple[Bool[np.ndarray, "*shape"], Bool[np.ndarray, "*shape"] | None]:
    """Separates a band's pixels that are 0 or less, where nothing but perhaps 0 is declared to be nodata.

    Returns:
        A mask of the pixels that have data for sure, and one of those that are dark if another band has data, None if there are none.
    """
    with np.errstate(invalid="ignore"):
        some = stored > 0
        if some.all():
            return valid, None
        zero = (stored <= 0) & (valid | (stored == 0))
    for fill in FILL if stored.dtype.kind != "u" else ():
        zero &= stored != fill
    return valid & some, zero


def zero_may_be_nodata(nodata: float | None) -> bool:
    """Whether a 0 means nodata where all bands have it: no other number is declared."""
    return nodata is None or nodata == 0 or bool(np.isnan(nodata))


def numbers_of_bands(
    stored: Sequence[Num[np.ndarray, "*shape"]], nodata: Sequence[float | None], linear: Sequence[Linear]
) -> UInt16[np.ndarray, "*shape band"]:
    """Converts the bands of a scene on one grid to digital numbers, 0 where there is no data.

    Args:
        stored: numbers of each band.
        nodata: the declared nodata value of each band.
        linear: from `decide`.
    """
    numbers, zeros = [], []
    for band, fill, how in zip(stored, nodata, linear, strict=True):
        valid = np.ones(band.shape, bool) if fill is None else band != fill
        valid, zero = zeros_apart(band, valid) if zero_may_be_nodata(fill) else (valid, None)
        numbers.append(digital_numbers(band, valid, how))
        zeros.append(zero)
    return dark_where_others_have_data(np.stack(numbers, axis=-1), zeros)


def dark_where_others_have_data(
    numbers: UInt16[np.ndarray, "*shape band"], zero: Sequence[Bool[np.ndarray, "*shape"] | None]
) -> UInt16[np.ndarray, "*shape band"]:
    """Sets a 0 that is dark, not missing, to 1: where another band of the pixel has data.

    Args:
        numbers: digital numbers, 0 where there is no data; changed in place.
        zero: for each band a mask of pixels that are 0 or less in the file, and that nothing declares to be nodata; None for none.
    """
    if any(mask is not None for mask in zero):
        some = (numbers != bands.S2_NODATA).any(axis=-1)
        for band, mask in enumerate(zero):
            if mask is not None:
                here = numbers[..., band]
                here[mask & some & (here == bands.S2_NODATA)] = 1
    return numbers


def _without_fill(sample: np.ndarray) -> np.ndarray:
    sample = sample[np.isfinite(sample)].astype(np.float64)
    return sample[~np.isin(sample, (*FILL, 0, 65535)) & (np.abs(sample) < 1e9)]


def _gains(
    names: Sequence[str], declared: Sequence[Declared], samples: Sequence[np.ndarray]
) -> tuple[list[float], list[str]]:
    """Gives digital numbers per stored number for each band, and notes. A declared scale counts if reflectance comes of it."""
    seen = _Seen.of(samples)
    guessed, how = _guessed_gain(seen, any((sample % 1).any() for sample in samples))
    gains, notes = [], []
    for name, one, sample in zip(names, declared, samples, strict=True):
        own = _Seen.of([sample])
        scale = one.scale
        if scale is not None and scale >= 100:  # a divisor, such as a quantification value
            scale = 1 / scale
        if one.decoded:
            gain = 10000.0 if not own.any or own.p98[0] <= 20 else guessed
        elif scale is None or scale == 1:
            gain = guessed
        else:
            gain = scale * 10000
            if own.any and own.p98[0] <= 2 and own.p98[0] * gain < 20 and guessed == 10000:
                gain = 10000.0
                notes.append(
                    f"band {name} has scale {scale:g}, but its numbers are reflectance already; the scale is not used"
                )
            elif own.any and own.p50[0] * gain + (one.offset or 0) * 10000 > 10 * 65535:
                raise ValueError(
                    f"band {name} has scale {scale:g} and values about {own.p50[0]:g}, a reflectance of {own.p50[0] * scale:g}; "
                    "expected reflectance mostly below 1: correct the scale of the file"
                )
        gains.append(gain)
    if guessed != 1 and guessed in gains and not any(one.decoded or one.scale for one in declared):
        notes.append(how)
    return gains, notes


def _guessed_gain(seen: _Seen, fractions: bool) -> tuple[float, str]:
    """Finds by the distribution whether numbers are digital numbers, reflectance or percent; also a line that tells it."""
    if not seen.any:
        return 1.0, ""
    bright = seen.p98.max()
    if bright <= 2 and fractions:
        return 10000.0, "the numbers of Sentinel-2 are taken as reflectance of 0 to 1, for 98 % of them are below 2"
    if bright <= 130 and fractions:
        return (
            100.0,
            f"the numbers of Sentinel-2 are taken as reflectance in percent, for 98 % of them are below {bright:.4g}",
        )
    return 1.0, ""


def _offsets_said(declared: Declared, gain: float) -> dict[str, float]:
    """Digital numbers to subtract, by what says it: 'offset', 'flag', 'baseline'. 0: nothing. {}: nobody says anything."""
    said: dict[str, float] = {}
    if declared.decoded:
        return {"offset": 0.0}
    if declared.offset is not None:
        in_stored = abs(declared.offset) > 2
        said["offset"] = round(-declared.offset * (gain if in_stored else 10000), 3) + 0.0
    if declared.baseline is not None:
        said["baseline"] = float(bands.OFFSET_DN if declared.baseline >= 4 else 0)
    if declared.offset_applied:
        said["flag"] = 0.0
    elif declared.offset_applied is False and any(said.values()):  # else there was nothing to take off
        said["flag"] = max(said.values())
    return said


def _subtracted(
    told: Sequence[dict[str, float]], seen: _Seen, in_doubt: int | None, advice: str
) -> tuple[list[float], list[str]]:
    """Decides what to subtract from each band, once for the scene; also gives notes."""
    if not any(told):
        return _undeclared(len(told), seen, in_doubt, advice)
    # A band of which nothing is said is as the others of its scene.
    common = next(each for each in told if each)
    told = [each or common for each in told]
    # A flag is of the archive, which knows what it did; an asset's own offset is more direct than a baseline.
    first = [0.0 if each.get("flag") == 0 else next(iter(each.values())) for each in told]
    largest = max(value for each in told for value in each.values())
    agreed = all(len(set(each.values())) == 1 for each in told)
    if largest <= 0:
        return first, []
    if seen.without_offset(largest):
        note = (
            f"the metadata say that {largest:g} was added to the digital numbers of Sentinel-2, but half of a band is below "
            f"{seen.p50.min():.4g} and a tenth below {seen.p10.min():.4g}: it was subtracted before, and nothing is subtracted now"
        )
        return [0.0] * len(told), [note] if any(first) else []
    if not agreed:
        return _disputed(told, first, seen, largest, in_doubt, advice)
    if any("flag" in each for each in told) and seen.any and seen.p2.min() > max(BRIGHT, 2 * largest):
        if in_doubt is None:
            raise OffsetError(
                f"a flag says that {largest:g} is still in the digital numbers of Sentinel-2, which is often wrong, and the scene is "
                f"too bright to tell (98 % of each band are above {seen.p2.min():.4g}); {advice}"
            )
        return [float(in_doubt)] * len(told), [f"{in_doubt:g} is subtracted from a scene in doubt, as given"]
    if any("flag" in each for each in told):
        return first, [
            f"{largest:g} is subtracted: a flag says that it was not before, which is often wrong; the pixels do not contradict it"
        ]
    return first, []


def _disputed(
    told: Sequence[dict[str, float]],
    first: list[float],
    seen: _Seen,
    largest: float,
    in_doubt: int | None,
    advice: str,
) -> tuple[list[float], list[str]]:
    """Decides where declarations disagree: by the pixels, or if they do not tell, by the most direct declaration."""
    against = next(said for said in told if len(set(said.values())) > 1)
    flagged_off = any(said.get("flag") == 0 for said in told)
    if seen.with_offset(largest) and not flagged_off:
        chosen, why = [largest] * len(told), f"the darkest pixels are about {seen.p2.min():.4g}"
    elif in_doubt is not None and not flagged_off:
        chosen, why = [float(in_doubt)] * len(told), "as given"
    else:
        chosen, why = first, f"the pixels do not tell; if this is wrong, {advice}"
    if flagged_off and not any(chosen):  # Earth Search writes the offset beside its flag: no doubt, if the flag holds
        return chosen, []
    number = ", ".join(f"{value:g}" for value in sorted(set(chosen)))
    texts = ", ".join(f"{what} says {value:g}" for what, value in against.items())
    return chosen, [f"metadata of Sentinel-2 disagree about an offset ({texts}); {number} is subtracted: {why}"]


def _undeclared(count: int, seen: _Seen, in_doubt: int | None, advice: str) -> tuple[list[float], list[str]]:
    """Where nothing is declared, numbers are left as they are; it is told if an offset may be in them."""
    if not seen.any or seen.p2.min() < bands.OFFSET_DN + DARKEST[0]:
        return [0.0] * count, []
    if in_doubt is not None:
        return [float(in_doubt)] * count, [f"{in_doubt:g} is subtracted from a scene in doubt, as given"]
    note = (
        f"98 % of the digital numbers of Sentinel-2 are above {seen.p2.min():.4g} in every band, and nothing says whether the offset of "
        f"processing baseline 04.00 is in them; they are left as they are: {advice}"
    )
    return [0.0] * count, [note]
