"""How a map was made, from the tags of its file, and what a reader should beware of. Pure."""

from collections.abc import Mapping

from tfds_dwplus.tiles.labelling.annotators import NETWORK

_TOLD = {
    "weights_origin": "Weights by",
    "weights_licence": "Licence of the weights",
    "trained_on": "Trained on",
    "trained_steps": "Steps of training",
    "labels_of_training": "Labels of training",
    "teacher": "Teacher",
    "s2_dates": "Sentinel-2 of",
    "s2_files": "Sentinel-2 files",
    "s2_offset": "Subtracted from Sentinel-2 numbers",
    "s2_scale": "Sentinel-2 reflectance of one step",
    "s1_dates": "Sentinel-1 of",
    "s1_files": "Sentinel-1 files",
    "s1_quantity": "Sentinel-1 quantity",
    "cloud_mask": "Cloud mask",
    "notes": "Notes of the command",
    "overlap": "Overlap of windows",
    "software": "Software",
    "weights_sha256": "Digest of the weights (SHA-256)",
}
"""What the tags are called on the page, in its order; others follow by their own names."""


def told(tags: Mapping[str, str], nodata_share: float) -> list[tuple[str, str]]:
    """Returns what the page says about the making of a map, as pairs of a name and a text."""
    ordered = [name for name in _TOLD if name in tags] + [name for name in tags if name not in _TOLD]
    lines = [(_TOLD.get(name, name.replace("_", " ")), tags[name]) for name in ordered]
    share = f"{100 * nodata_share:.1f} % of the pixels" if nodata_share else "none of the pixels"
    return [*lines, ("Without a class", share)]


def warnings(tags: Mapping[str, str]) -> list[str]:
    """Returns what a reader should beware of before he believes the map."""
    lines = []
    if tags.get("trained_on") == "simulated":
        lines.append("Trained on simulated tiles: the map shows how the software works and says little about land.")
    teachers = [text for text in (tags.get("labels_of_training", ""), tags.get("teacher", "")) if text]
    if tags.get("teacher") or NETWORK in tags.get("labels_of_training", ""):
        lines.append(
            f"Trained on the labels of another network, with its faults ({'; '.join(teachers)}): the map repeats what that one would say."
        )
    return lines
