"""Validators of STAC that ask no network: pystac's, and the one of stac-validator, with the schemas of the core that pystac brings.

No package brings the schemas of the extensions. In their place stands what they ask of the fields that we write, as read in those that
are published, of the versions in `stac_files.EXTENSIONS`.
"""

import importlib.resources
import json
from pathlib import Path

import pystac
import pytest

pytest.importorskip("jsonschema", reason="test extra: validates STAC")
validate = pytest.importorskip("stac_validator.validate", reason="test extra: stac-valid")

from pystac.validation.stac_validator import JsonSchemaSTACValidator  # noqa: E402 (where jsonschema is)

from specsar_jax.regions.stac_files import EXTENSIONS  # noqa: E402

_NUMBERS = {"type": "array", "items": {"type": "number"}}
_CLASS = {
    "type": "object",
    "required": ["value", "name"],
    "properties": {
        "value": {"type": "integer"},
        "name": {"type": "string", "pattern": "^[0-9A-Za-z-_]+$"},
        "title": {"type": "string"},
        "color_hint": {"type": "string", "pattern": "^([0-9A-Fa-f]{6})$"},
    },
}
_FIELDS = {
    "projection": {
        "proj:code": {"type": ["string", "null"]},
        "proj:shape": {"type": "array", "minItems": 2, "maxItems": 2, "items": {"type": "integer"}},
        "proj:transform": {**_NUMBERS, "minItems": 6, "maxItems": 6},
        "proj:bbox": {**_NUMBERS, "minItems": 4, "maxItems": 4},
    },
    "raster": {
        "raster:spatial_resolution": {"type": "number"},
        "raster:sampling": {"enum": ["area", "point"]},
    },
    "classification": {
        "classification:classes": {"type": "array", "uniqueItems": True, "minItems": 1, "items": _CLASS}
    },
    "processing": {
        "processing:level": {"type": "string"},
        "processing:lineage": {"type": "string"},
        "processing:software": {"type": "object", "additionalProperties": {"type": "string"}},
    },
    "render": {
        "renders": {
            "type": "object",
            "additionalProperties": {
                "required": ["assets"],
                "properties": {
                    "assets": {"type": "array", "items": {"type": "string"}},
                    "nodata": {"type": ["number", "string"]},
                    "resampling": {"type": "string"},
                    "colormap": {"type": "object"},
                },
            },
        }
    },
}


def faults(path: Path | str, folder: Path) -> list[str]:
    """What both validators have against a collection and all that it leads to; `folder` takes schemas."""
    return [*_faults_of_pystac(str(path)), *_faults_of_stac_validator(str(path), folder)]


def _faults_of_pystac(path: str) -> list[str]:
    validator = JsonSchemaSTACValidator()
    validator.schema_cache |= {uri: _schema(uri) for uri in EXTENSIONS}
    top = pystac.Collection.from_file(path)
    found = []
    for each, _, items in top.walk():
        for one in (each, *items):
            # As the file has it: pystac writes links of its own.
            tree = json.loads(pystac.StacIO.default().read_text(one.self_href))
            try:
                validator.validate(tree, one.STAC_OBJECT_TYPE, "1.1.0", tree["stac_extensions"], one.self_href)
            except pystac.errors.STACValidationError as error:
                found.append(f"pystac: {error}")
    return found


def _faults_of_stac_validator(path: str, folder: Path) -> list[str]:
    folder.mkdir(exist_ok=True)
    bundled = importlib.resources.files("pystac.validation.jsonschemas")
    schemas = {}
    for name in ("item", "catalog", "collection"):
        address = f"https://schemas.stacspec.org/v1.1.0/{name}-spec/json-schema/{name}.json"
        schemas[address] = bundled / f"stac-spec/v1.1.0/{name}.json"
    for name in ("bands", "basics", "common", "data-values", "datetime", "instrument", "licensing", "provider"):
        address = f"https://schemas.stacspec.org/v1.1.0/item-spec/json-schema/{name}.json"
        schemas[address] = bundled / f"stac-spec/v1.1.0/{name}.json"
    for name in ("Feature", "Geometry"):
        schemas[f"https://geojson.org/schema/{name}.json"] = bundled / f"geojson/{name}.json"
    for uri in EXTENSIONS:
        schemas[uri] = folder / f"{_name(uri)}.json"
        schemas[uri].write_text(json.dumps(_schema(uri)))
    run = validate.StacValidate(path, recursive=True, schema_map={uri: str(at) for uri, at in schemas.items()})
    run.run()
    return [f"stac-validator: {told}" for told in run.message if not told["valid_stac"]]


def _name(uri: str) -> str:
    return uri.removeprefix("https://stac-extensions.github.io/").split("/")[0]


def _schema(uri: str) -> dict:
    """Of the fields of an extension wherever we write them; a field of its prefix that it does not have is refused."""
    fields = _FIELDS[_name(uri)]
    prefix = next(iter(fields)).partition(":")[0]
    known = {
        "type": "object",
        "properties": fields,
        "patternProperties": {f"^(?!{prefix}:)": {}},
        "additionalProperties": prefix == "renders",
    }
    places = {
        "properties": known,
        "assets": {"additionalProperties": known},
        "item_assets": {"additionalProperties": known},
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": uri,
        "required": ["stac_extensions"],
        "properties": places | ({"renders": fields["renders"]} if prefix == "renders" else {}),
    }
