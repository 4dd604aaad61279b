"""The config files that come with the package, by name: in the repository they stand in `configs/`."""

from pathlib import Path

from tfds_dwplus.command_line import path

FOLDER = Path(__file__).parents[1] / "configs"

QUICKSTART = FOLDER / "quickstart.py"


def config_file(text: str) -> Path:
    """Parses --config: a path, or else, if no such file is there, a file of the package, as 'quickstart' or 'configs/quickstart.py'."""
    given = path(text)
    packed = FOLDER / f"{given.stem}.py"
    named = given.parent in (Path(), Path("configs")) and given.suffix in ("", ".py")
    return packed if named and packed.is_file() and not given.exists() else given
