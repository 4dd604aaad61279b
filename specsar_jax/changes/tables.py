"""Tables of changes: CSV, JSON, and lines for a terminal.

Enters: areas of changes, of all ground and by zone. Leaves: text. Areas are hectares. A row is a pair of classes:

    before,after,hectares[,unsure_hectares][,estimated_hectares,standard_error,low,high]
    zone,before,after,hectares[,unsure_hectares]

`hectares` are those of unchanged ground and of changes that are told; `unsure_hectares`, with --confidence, of those that are left out.
Estimates start from both: from all that is mapped.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from specsar_jax.changes.comparing import Compared, of_kinds
from specsar_jax.zones.counting import Counted
from specsar_jax.zones.tables import DIGITS, csv_text
from tfds_dwplus.bands import Classes

_MOST_COLUMNS, _MOST_LINES = 10, 10
"""Classes of a matrix, and changes of a list, that a terminal is given."""

_WIDE = 13
"""Signs of a column."""


def change_csv(compared: Compared, classes: Classes, estimated: dict[str, Any] | None, *, unsure: bool) -> str:
    """Writes the areas of all changes, also of those that do not occur."""
    head = ["before", "after", "hectares", *["unsure_hectares"] * unsure]
    if estimated:
        head += ["estimated_hectares", "standard_error", "low", "high"]
    rows: list[Sequence[Any]] = [head]
    for one, other in np.ndindex(compared.told.shape):
        areas = [compared.told[one, other], *[compared.unsure[one, other]] * unsure]
        if estimated:
            of = estimated["area_ha"][one][other]
            areas += [of["value"], of["standard_error"], *of["interval"]]
        rows.append((classes.names[one], classes.names[other], *(round(float(area), DIGITS) for area in areas)))
    return csv_text(rows)


def zones_csv(names: Sequence[str], counted: Counted, classes: Classes, *, unsure: bool) -> str:
    """Writes the areas of changes by zone: of each zone all changes that occur in one of them."""
    areas = of_kinds(counted.classes, len(classes))
    pairs = np.argwhere(areas.sum(axis=(0, 1)) > 0).tolist()
    rows: list[Sequence[Any]] = [("zone", "before", "after", "hectares", *["unsure_hectares"] * unsure)]
    for name, (told, left_out) in zip(names, areas, strict=True):
        for one, other in pairs:
            values = [told[one, other], *[left_out[one, other]] * unsure]
            rows.append(
                (name, classes.names[one], classes.names[other], *(round(float(area), DIGITS) for area in values))
            )
    return csv_text(rows)


def change_json(
    compared: Compared,
    classes: Classes,
    zones: tuple[Sequence[str], Counted] | None,
    estimated: dict[str, Any] | None,
    more: dict[str, Any],
) -> str:
    """Writes sums, notes and matrices as JSON; these have a row for each class before and a column for each class after. Of zones there
    are sums.

    Args:
        compared: areas of all ground.
        classes: of both maps.
        zones: names of zones and their areas, if there are any.
        estimated: of `estimating.estimates`, if there are evaluations.
        more: what the maps are, and what a reader should know.
    """
    names = {"classes": list(classes.names), "class_colours": list(classes.colours)}
    tree = more | names | _sums(compared) | {"hectares": compared.told.tolist()}
    if "confidence" in more:
        tree["unsure_hectares"] = compared.unsure.tolist()
    tree |= {"before_alone_hectares": compared.before_alone, "after_alone_hectares": compared.after_alone}
    if estimated:
        tree["estimated"] = estimated
    if zones:
        tree["zones"] = [
            {"zone": name}
            | _sums(Compared(told, left_out, 0.0, 0.0))
            | {"nodata_hectares": float(zones[1].nodata[place]), "outside_hectares": float(zones[1].outside[place])}
            for place, (name, (told, left_out)) in enumerate(
                zip(zones[0], of_kinds(zones[1].classes, len(classes)), strict=True)
            )
        ]
    return json.dumps(tree, indent=1) + "\n"


def told(compared: Compared, classes: Classes, estimated: dict[str, Any] | None, least: float | None) -> str:
    """Formats the areas of all ground as text: a matrix, the largest changes and sums. `least` is the probability of a change."""
    lines = [*_matrix(compared.told, classes), *_largest(compared, classes, estimated, least), ""]
    total, changed, left_out = compared.total, _changed(compared.told), float(compared.unsure.sum())
    unchanged = float(np.trace(compared.told))
    for name, area in (("unchanged", unchanged), ("changed", changed)):
        lines.append(f"{name:<20} {area:>16,.1f} ha {100 * area / total:>6.1f} %")
    if least is not None:
        share = 100 * left_out / total
        lines.append(
            f"{'change, not sure':<20} {left_out:>16,.1f} ha {share:>6.1f} %   of a probability below {least:g}"
        )
    lines.append(f"{'compared':<20} {total:>16,.1f} ha")
    if estimated:
        of = estimated["changed_ha"]
        lines.append(
            f"{'changed, estimated':<20} {of['value']:>16,.1f} ± {of['value'] - of['interval'][0]:,.1f} ha   of {changed + left_out:,.1f} mapped"
        )
    return "\n".join(lines)


def _sums(compared: Compared) -> dict[str, float]:
    return {
        "compared_hectares": compared.total,
        "changed_hectares": _changed(compared.told),
        "unsure_change_hectares": float(compared.unsure.sum()),
    }


def _changed(areas: Float64[np.ndarray, "before after"]) -> float:
    return float(areas[~np.eye(len(areas), dtype=bool)].sum())


def _matrix(areas: Float64[np.ndarray, "before after"], classes: Classes) -> list[str]:
    """A row for each class before and a column for each class after, of those that occur; nothing if they are too many to be read."""
    before, after = np.flatnonzero(areas.sum(axis=1)), np.flatnonzero(areas.sum(axis=0))
    if len(after) > _MOST_COLUMNS:
        return []
    wide = max(map(len, (classes.names[place] for place in before)), default=0)
    wide = max(wide, len("hectares, before"))
    lines = ["hectares, before".ljust(wide) + "".join(f" {_short(classes.names[place]):>{_WIDE}}" for place in after)]
    return lines + [
        classes.names[one].ljust(wide) + "".join(f" {areas[one, other]:>{_WIDE},.1f}" for other in after)
        for one in before
    ]


def _largest(compared: Compared, classes: Classes, estimated: dict[str, Any] | None, least: float | None) -> list[str]:
    mapped = compared.mapped * (1 - np.eye(len(classes)))
    order = np.argsort(-mapped, axis=None, kind="stable")[:_MOST_LINES]
    lines = []
    for one, other in zip(*np.unravel_index(order, mapped.shape), strict=True):
        if not mapped[one, other]:
            break
        line = f"{f'{classes.names[one]} to {classes.names[other]}':<40} {compared.told[one, other]:>14,.1f} ha"
        if least is not None:
            line += f" + {compared.unsure[one, other]:,.1f} not sure"
        if estimated:
            of = estimated["area_ha"][one][other]
            line += f"   estimated {of['value']:,.1f} ± {of['value'] - of['interval'][0]:,.1f} ha"
        lines.append(line)
    return ["", "largest changes", *lines] if lines else []


def _short(name: str) -> str:
    return name if len(name) <= _WIDE else f"{name[: _WIDE - 1]}…"
