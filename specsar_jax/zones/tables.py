"""Tables of areas: CSV, GeoParquet 1.1, and lines for a terminal.

Enters: zones and their areas. Leaves: text and bytes. A row is a zone, in the order of the file; areas are hectares.

    zone,water_hectares,trees_hectares, ... ,mapped_hectares,nodata_hectares,outside_hectares,hectares

`mapped_hectares` is the sum of the classes, `hectares` the whole zone: mapped, nodata and outside of the map.
"""

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely

from specsar_jax.zones.counting import Counted
from specsar_jax.zones.polygons import Zones
from tfds_dwplus.bands import Classes

DIGITS = 6
"""Of hectares behind the point: a square centimetre."""

_SUMS = ("mapped_hectares", "nodata_hectares", "outside_hectares", "hectares")


def columns(names: Sequence[str], counted: Counted, classes: Classes) -> dict[str, list[Any]]:
    """Returns the table by column."""
    named = [f"{name}_hectares" for name in classes.names]
    named = [f"class_{name}" if name in (*_SUMS, "zone", "geometry") else name for name in named]
    sums = (counted.mapped, counted.nodata, counted.outside, counted.total)
    values = [*counted.classes.T, *sums]
    table = {name: np.round(of, DIGITS).tolist() for name, of in zip([*named, *_SUMS], values, strict=True)}
    return {"zone": list(names)} | table


def zones_csv(names: Sequence[str], counted: Counted, classes: Classes) -> str:
    """Writes the areas of zones as CSV."""
    table = columns(names, counted, classes)
    return csv_text([list(table), *zip(*table.values(), strict=True)])


def corrected_csv(estimates: dict[str, Any]) -> str:
    """Writes corrected areas as CSV, a row for each class: as mapped, the estimate, its standard error and 95 % interval."""
    rows: list[Sequence[Any]] = [("class", "mapped_hectares", "hectares", "standard_error", "low", "high")]
    for name, row in estimates["per_class"].items():
        area = row["area_ha"]
        values = ("", "", "", "") if area is None else (area["value"], area["standard_error"], *area["interval"])
        rows.append((name, *(of if of == "" else round(of, DIGITS) for of in (row["mapped_ha"], *values))))
    return csv_text(rows)


def geoparquet(zones: Zones, counted: Counted, classes: Classes) -> bytes:
    """Writes zones with their areas as GeoParquet, version 1.1: the polygons as WKB, in their own CRS."""
    import pyarrow
    from pyarrow import parquet

    table = columns(zones.names, counted, classes)
    wkb = shapely.to_wkb(zones.geometries, output_dimension=2, byte_order=1).tolist()
    column = {
        "encoding": "WKB",
        "geometry_types": ["MultiPolygon"],
        "crs": zones.crs.to_dict(projjson=True),
        "bbox": shapely.total_bounds(zones.geometries).tolist(),
    }
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    arrays = {name: pyarrow.array(values) for name, values in table.items()}
    arrays["geometry"] = pyarrow.array(wkb, pyarrow.binary())
    file = io.BytesIO()
    parquet.write_table(
        pyarrow.table(arrays).replace_schema_metadata({"geo": json.dumps(geo)}), file, compression="zstd"
    )
    return file.getvalue()


def told(together: Counted, classes: Classes, estimates: dict[str, Any] | None) -> str:
    """Formats the areas of all zones together as text."""
    mapped = float(together.mapped[0])
    wide = max(20, *map(len, classes.names))
    lines = []
    for name, area in zip(classes.names, together.classes[0].tolist(), strict=True):
        line = f"{name:<{wide}} {area:>16,.1f} ha {100 * area / mapped if mapped else 0:>6.1f} %"
        if estimates and (of := estimates["per_class"][name]["area_ha"]):
            line += f"   corrected {of['value']:>16,.1f} ± {of['value'] - of['interval'][0]:,.1f} ha"
        lines.append(line)
    lines.append(f"{'mapped':<{wide}} {mapped:>16,.1f} ha")
    for name, area in (("no data", together.nodata[0]), ("outside of the map", together.outside[0])):
        lines += [f"{name:<{wide}} {area:>16,.1f} ha"] * bool(area)
    lines.append(f"{'all zones together':<{wide}} {together.total[0]:>16,.1f} ha")
    return "\n".join(lines)


def csv_text(rows: Sequence[Sequence[Any]]) -> str:
    """Writes rows as CSV."""
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator="\n").writerows(rows)
    return file.getvalue()
