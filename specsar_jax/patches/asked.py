"""What a command is asked to make of a finished map: polygons, and small patches joined to their neighbours.

Enters: arguments. Leaves: `Asked`, or one line of what is wrong with them, before any mapping begins.
"""

import argparse
import dataclasses
import importlib
import math
from pathlib import Path

from tfds_dwplus.command_line import path

KINDS = {".gpkg": "GeoPackage", ".parquet": "GeoParquet", ".geojson": "GeoJSON"}
"""Vector files that can be written, by ending."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is to be made of a map."""

    polygons: Path | None = None
    """Vector file of a polygon for each patch; None to write none."""
    generalised: Path | None = None
    """Raster, or folder of rasters, in which small patches have joined others; None to write none."""
    minimum_area_ha: float | None = None
    """Area below which a patch is small; None to leave all."""

    @property
    def paths(self) -> dict[str, Path]:
        """Returns what is to be written, by name."""
        named = {"polygons": self.polygons, "generalised": self.generalised}
        return {name: place for name, place in named.items() if place}

    def check(self) -> None:
        """Raises a ValueError if these do not fit together, a file is of no known kind, or a package is missing."""
        minimum = self.minimum_area_ha
        if minimum is not None and not 0 < minimum < math.inf:
            raise ValueError(f"--minimum_area_ha is {minimum:g}, expected hectares, a number above 0")
        if minimum is not None and not self.paths:
            raise ValueError(
                "--minimum_area_ha alone changes nothing, for the map stays as it is; give --polygons or --generalised too"
            )
        if minimum is None and self.generalised:
            raise ValueError("--generalised needs --minimum_area_ha, the area in hectares below which a patch is small")
        if self.polygons and self.polygons.suffix.lower() not in KINDS:
            kinds = ", ".join(f"{ending} ({name})" for ending, name in KINDS.items())
            ending = self.polygons.suffix or "nothing"
            raise ValueError(f"--polygons {self.polygons} ends in {ending!r}, expected one of {kinds}")
        for needed in ("shapely", "pyogrio", "pyarrow") if self.paths else ():
            try:
                importlib.import_module(needed)
            except ModuleNotFoundError as error:
                options = " and ".join(f"--{name}" for name in self.paths)
                raise ValueError(f"{options}: {error.name} is missing: pip install 'specsar_jax[polygons]'") from None


NOTHING = Asked()


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--polygons` and `--minimum_area_ha`; what is asked of the raster each command says itself."""
    parser.add_argument(
        "--polygons",
        type=path,
        metavar="FILE",
        help="vector file to write of the patches of the map, a polygon each: .gpkg, .parquet or .geojson",
    )
    parser.add_argument(
        "--minimum_area_ha",
        type=float,
        metavar="HECTARES",
        help="patches smaller than that join the neighbour with the longest border, in --polygons and --generalised",
    )
