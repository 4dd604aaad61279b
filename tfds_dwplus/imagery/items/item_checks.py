"""Checks a STAC item of an archive before anything reads it.

Enters: an item as JSON of any shape. Leaves: the same, without a footprint or box that is none; or a `ValueError` of one line, after
which the item is left out and told. What is read later, by `stac_items`, may then rely on the types.
"""

import re
from collections.abc import Mapping
from typing import Any

from tfds_dwplus.files.shapes import rings_of
from tfds_dwplus.files.strangers import a_list, a_number, a_text, an_object, check_tree, one_line
from tfds_dwplus.imagery.items.footprints import MOST_POINTS

MOST_ID = 300
"""Characters of an id: it stands in tables and lines of the terminal. Names of products have 60 to 80."""

_MOST_ASSETS = 1000
_MOST_HREF = 8192
"""Characters of an address; a signature has some hundreds."""


def checked_item(item: Any) -> dict[str, Any]:
    """Checks the types of what is read of an item.

    Returns:
        The item, a copy of its uppermost level. A `geometry` that is no polygon and a `bbox` that is none are null, as of an item that
        does not tell where it is.

    Raises:
        ValueError: it is no object, has no id that can be printed, or a field is of another type than STAC says.
    """
    tree = dict(an_object(item, "it"))
    check_tree(tree)
    name = a_text(tree.get("id"), "its id")
    if not name.strip() or not name.isprintable() or len(name) > MOST_ID:
        raise ValueError(f"its id is {one_line(ascii(name), 80)}, expected a name of at most {MOST_ID} characters")
    properties = an_object(tree.get("properties"), "its properties")
    for key, value in properties.items():
        if len(key) > MOST_ID or not key.isprintable():
            raise ValueError("a property has no name")
        if isinstance(value, int) and abs(value) > 2**63:
            raise ValueError(f"its {one_line(key, 60)} is a number of more than 64 bits")
    for key in ("datetime", "start_datetime"):
        if properties.get(key) is not None:
            a_text(properties[key], key)
    tree["geometry"] = tree.get("geometry") if _is_polygon(tree.get("geometry")) else None
    tree["bbox"] = tree.get("bbox") if _is_box(tree.get("bbox")) else None
    assets = an_object(tree.get("assets"), "its assets")
    if len(assets) > _MOST_ASSETS:
        raise ValueError(f"it has {len(assets)} assets")
    for key, asset in assets.items():
        what = f"asset {one_line(repr(key), 60)}"
        _check_asset(what, key, an_object(asset, what))
    for link in a_list(tree.get("links", []), "its links"):
        for field in ("rel", "href"):
            a_text(an_object(link, "a link").get(field), f"{field} of a link")
    return tree


def _check_asset(what: str, key: str, asset: Mapping[str, Any]) -> None:
    if not key.isprintable() or len(key) > MOST_ID:
        raise ValueError("an asset has no name")
    href = a_text(asset.get("href"), f"href of {what}")
    if len(href) > _MOST_HREF or not href.isprintable():
        raise ValueError(f"href of {what} is no address")
    for field in ("title", "type", "description"):
        if asset.get(field) is not None:
            a_text(asset[field], f"{field} of {what}")
    for role in a_list(asset.get("roles") or [], f"roles of {what}"):
        a_text(role, f"a role of {what}")
    for field, value in asset.items():
        plain = re.sub(r"[^a-z]", "", field.lower().rpartition(":")[2])
        if value is None:
            continue
        if plain == "bands":
            a_list(value, f"{one_line(field, 40)} of {what}")
        elif plain == "alternate":
            for other in an_object(value, f"{one_line(field, 40)} of {what}").values():
                if isinstance(other, dict):
                    a_text(other.get("href", ""), f"another href of {what}")
        elif plain in ("polarizations", "polarisations") and not isinstance(value, str):
            a_list(value, f"{one_line(field, 40)} of {what}")
        elif plain == "transform":
            for number in a_list(value, f"{one_line(field, 40)} of {what}"):
                a_number(number, f"{one_line(field, 40)} of {what}")


def _is_polygon(geometry: Any) -> bool:
    try:
        rings_of(geometry, MOST_POINTS)
    except ValueError:
        return False
    return True


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) in (4, 6) and all(_is_degrees(side) for side in box)


def _is_degrees(side: Any) -> bool:
    return isinstance(side, int | float) and not isinstance(side, bool) and abs(side) < 1e6
