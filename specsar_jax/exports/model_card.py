"""Model card: a Markdown page about a trained network, for its exported file. Pure.

Enters: a `Trained` network, the figures of its evaluations, and a text on how to use the exported file. Leaves: the
page, with the YAML header that model hubs read. The page states only what it was given.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from specsar_jax.batches import preprocess
from specsar_jax.trained.trained_network import Trained
from specsar_jax.version import __version__
from tfds_dwplus import bands
from tfds_dwplus.tiles.labelling import annotators

_HUB_LICENCES = ("apache-2.0", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "mit")
"""Licences that model hubs know by these names; any other one is given as 'other', with its text."""

_SCORES = {
    "mean_iou": "mIoU",
    "overall_accuracy": "overall accuracy",
    "macro_f1": "macro F1",
    "kappa": "kappa",
}
_NO_SCORES = "No evaluation of these weights was available when they were exported."
_ROUNDED = "The scores are those of the float32 weights; in this file they are {}."

_NETWORKS = {
    "specsar_former": "a SpecSAR-Former (Yu et al., arXiv 2410.03962) of {weights} weights in specsar_jax's form, branches `{branches}`",
    "dynamic_world": "Dynamic World's network (Brown et al. 2022, Scientific Data 9, 251) of {weights} weights, branches `{branches}`",
}
"""What is said of each architecture."""

_SENSORS = {"s2": "Sentinel-2", "s1": "Sentinel-1"}
_INPUTS = {
    "s2": f"uint16, {bands.S2_UNIT}, offset of processing baseline 04.00 subtracted; {bands.S2_NODATA} without data",
    "s1": f"float32, {bands.S1_UNIT}; NaN without data",
}


def card(title: str, trained: Trained, evaluations: Sequence[Mapping[str, Any]], use: str, stored_as: str) -> str:
    """The model card of a network.

    Args:
        title: title of the page.
        trained: the network, with the weights as they are stored.
        evaluations: contents of the `evaluation_<split>.json` files of this network.
        use: Markdown on how to use the file.
        stored_as: type of the weights in the file.
    """
    parts = [
        _head(trained),
        f"# {title}",
        _about(trained),
        "## Input",
        _input(trained),
        "## Classes",
        _classes(trained),
        "## Use",
        use,
        "## Scores",
        *(map(_scores, evaluations) if evaluations else [_NO_SCORES]),
        *([_ROUNDED.format(stored_as)] if evaluations and stored_as != "float32" else []),
        "## Limits",
        _limits(trained),
        "## Where it comes from",
        _provenance(trained),
        "## Licence",
        trained.licence or "Not stated: ask whoever gave you the weights before you use them.",
    ]
    return "\n\n".join(parts) + "\n"


def _head(trained: Trained) -> str:
    head: dict[str, Any] = {"library_name": "specsar_jax", "pipeline_tag": "image-segmentation"}
    head["tags"] = ["remote-sensing", "land-cover", *(_SENSORS[name].lower() for name in trained.bands)]
    if trained.licence.lower() in _HUB_LICENCES:
        head["license"] = trained.licence.lower()
    elif trained.licence:
        head |= {"license": "other", "license_name": trained.licence}
    # JSON values are valid YAML.
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in head.items()), "---"])


def _about(trained: Trained) -> str:
    net = trained.config.model
    sensors = " and ".join(_SENSORS[name] for name in trained.bands)
    weights = sum(leaf.size for leaf in jax.tree.leaves(trained.variables["params"]))
    kind = _NETWORKS[net.architecture].format(weights=f"{weights:,}", branches=net.branches)
    text = f"Land cover at 10 m from {sensors}: {kind}"
    if trained.step:
        text += f", trained for {trained.step:,} steps on the data set `{trained.config.data.name}`."
    else:
        text += ". Its weights were not trained by specsar_jax."
    if trained.origin:
        text += f"\n\n**Weights by**: {plain(trained.origin)}."
    if trained.config.data.name == "simulated":
        text += "\n\n**Trained on simulated tiles**: it shows how the software works and says little about land."
    if said := annotators.taught(trained.statistics.labelled_by):
        text += f"\n\n**{plain(said)}**"
    return text


def _input(trained: Trained) -> str:
    lines = [
        "All on one 10 m grid, in this order:",
        "",
        "| sensor | place | band | scaled by |",
        "|---|---|---|---|",
    ]
    logarithmic = trained.config.data.scaling == "log"
    for sensor, names in trained.bands.items():
        of = getattr(trained.statistics, sensor)
        if sensor == "s2" and logarithmic:
            numbers = zip(("low", "high"), preprocess.log_low_high(names), strict=True)
        else:
            numbers = (("mean", of.mean), ("standard deviation", of.std))
        columns = [[f"{what} {value:.6g}" for value in values] for what, values in numbers]
        lines += [
            f"| {_SENSORS[sensor]} | {place} | {name} | {', '.join(by)} |"
            for place, (name, *by) in enumerate(zip(names, *columns, strict=True))
        ]
    lines += ["", *(f"- `{sensor}`: {_INPUTS[sensor]}" for sensor in trained.bands)]
    if may_miss := trained.config.may_miss:
        named = " or ".join(f"`{sensor}`" for sensor in may_miss)
        lines.append(
            f"- It works where pixels, or all of them, lack {named}: nodata then stands in all bands of that sensor"
        )
    if logarithmic and "s2" in trained.bands:
        lines.append(
            "- `s2` is scaled by the formula of Dynamic World: x = log(0.005 DN + 1); x = exp(5 (x - low) / high - 1); x / (x + 1)"
        )
    return "\n".join(lines)


def _classes(trained: Trained) -> str:
    names, colours = map(_cell, trained.classes.names), trained.classes.colours
    rows = list(zip(names, colours, trained.statistics.label_pixels, strict=True))
    if not any(trained.statistics.label_pixels):  # nobody counted them
        lines = [
            "| id | class | colour |",
            "|---|---|---|",
            *(f"| {i} | {name} | `#{colour}` |" for i, (name, colour, _) in enumerate(rows)),
            f"| {bands.IGNORE} | no data | |",
        ]
    else:
        lines = [
            "| id | class | colour | labelled pixels it was trained with |",
            "|---|---|---|---|",
            *(f"| {i} | {name} | `#{colour}` | {count:,} |" for i, (name, colour, count) in enumerate(rows)),
            f"| {bands.IGNORE} | no data | | |",
        ]
    return "\n".join(lines)


def _scores(figures: Mapping[str, Any]) -> str:
    lines = [
        f"Split `{figures['split']}` of `{figures['dataset']}`, {figures['tiles']:,} tiles, in percent:",
        "",
        "| | % | 95 % interval (bootstrap over tiles) |",
        "|---|---|---|",
    ]
    for key, name in _SCORES.items():
        low_high = figures.get("intervals", {}).get(key)
        between = " to ".join(f"{100 * end:.1f}" for end in low_high) if low_high else ""
        lines.append(f"| {name} | {_percent(figures.get(key))} | {between} |")
    if figures.get("calibration"):
        lines.append(f"| calibration error | {_percent(figures['calibration'].get('ece'))} | |")
    if said := annotators.not_accuracy(figures.get("labelled_by", {})):
        lines += ["", f"**{plain(said)}**"]
    lines += ["", "| class | IoU | F1 | pixels |", "|---|---|---|---|"]
    for name, row in figures["per_class"].items():
        lines.append(f"| {_cell(name)} | {_percent(row.get('iou'))} | {_percent(row.get('f1'))} | {row['pixels']:,} |")
    return "\n".join(lines)


def plain(text: str) -> str:
    """Returns a text in which Markdown and HTML find nothing: a name may have been made by a stranger."""
    return re.sub(r"([\\`*_{}\[\]<>#|!&])", r"\\\1", text)


def _cell(name: str) -> str:
    """Returns the name of a class for a table: as it is if it is words with `_` between them, in which Markdown finds nothing."""
    return name if re.fullmatch(r"[^\W_]+(_[^\W_]+)*", name) else plain(name)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _limits(trained: Trained) -> str:
    crop_px = trained.config.data.crop_px
    lines = [
        "It knows only these classes. Clouds are not among them: mask them beforehand."
        if trained.classes == bands.DYNAMIC_WORLD
        else "It knows only these classes. Unless clouds are one of them, mask them beforehand.",
        "It maps a pixel only where all bands of all sensors have data.",
        "The scores hold for land, seasons and labels like those of the evaluation.",
    ]
    if crop_px:
        trained_on = f"It was trained on tiles of {crop_px} pixels. " if trained.step else ""
        lines.append(
            f"{trained_on}Map a larger scene in overlapping windows of {'that size' if trained_on else f'{crop_px} pixels'}, as "
            "`specsar_jax.predict` does."
        )
    if trained.temperature == 1.0:
        lines.append("Its probabilities were not calibrated.")
    return "\n".join(f"- {line}" for line in lines)


def _provenance(trained: Trained) -> str:
    lines = [
        f"Written by specsar_jax {__version__}.",
        *([f"Authors and source of the weights: {plain(trained.origin)}."] if trained.origin else []),
        f"Data set `{trained.config.data.name}`, step {trained.step:,}, seed {trained.config.train.seed}."
        if trained.step
        else "Not trained by specsar_jax: the weights were imported.",
        f"Temperature of the probabilities: {trained.temperature:.4g}.",
        f"SHA-256 of the weights (float32, in the order of the tree): `{trained.sha256}`.",
    ]
    return "\n".join(f"- {line}" for line in lines)
