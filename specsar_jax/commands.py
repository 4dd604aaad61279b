"""Command `specsar`: lists the commands and runs them; `specsar train ...` is `python -m specsar_jax.train ...`.

    specsar
    specsar train --config quickstart

A command is imported when it is run: the list comes at once.
"""

import difflib
import importlib
import sys
from typing import NoReturn

from specsar_jax.version import __version__

COMMANDS = {
    "acquire": ("tfds_dwplus", "fetch Sentinel-2 and Sentinel-1 for Dynamic World's labels, or for places in a region"),
    "cut": ("tfds_dwplus", "cut tiles with labels out of scenes, by polygons and points of a vector file"),
    "label": ("tfds_dwplus", "label tiles by a trained network, where it is sure enough"),
    "prepare": ("tfds_dwplus", "pack tiles, or simulated ones, into a data set"),
    "describe": ("tfds_dwplus", "tables of what a data set holds"),
    "look": ("tfds_dwplus", "a picture of some tiles of a data set"),
    "import_dynamic_world": ("specsar_jax", "make a bundle of Google's published Dynamic World network"),
    "devices": ("specsar_jax", "what devices there are, and whether a run fits on them"),
    "train": ("specsar_jax", "train a network; without arguments, the quickstart on simulated tiles"),
    "sweep": ("specsar_jax", "train a grid of settings with several seeds"),
    "evaluate": ("specsar_jax", "score a network, or maps made elsewhere"),
    "report": ("specsar_jax", "one HTML page about a run or several"),
    "predict": ("specsar_jax", "map a scene"),
    "map_region": ("specsar_jax", "map a region from a STAC archive"),
    "areas": ("specsar_jax", "hectares of each class by district or any polygons"),
    "change": ("specsar_jax", "what changed between two maps, and on how many hectares"),
    "view": ("specsar_jax", "show maps in the browser, compare two"),
    "export": ("specsar_jax", "write a network for this package or other runtimes"),
}
"""Package and purpose of each command, in the order of their use."""


def main() -> NoReturn:
    """Runs the command that the first argument names; exits with its code, or 2 if there is none of this name."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        lines = [f"  {command.ljust(width)}  {purpose}" for command, (_, purpose) in COMMANDS.items()]
        print("usage: specsar COMMAND ...\n\n" + "\n".join(lines) + "\n\nspecsar COMMAND --help tells its arguments.")
        sys.exit(0)
    if name == "--version":
        print(f"specsar_jax {__version__}")
        sys.exit(0)
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}? See" if near else "see"
        print(f"error: no command {name!r}; {hint} specsar --help", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"specsar {name}", *arguments]  # what --help calls itself
    command = importlib.import_module(f"{COMMANDS[name][0]}.{name}")
    if hasattr(command, "__path__"):  # a room that is a command too
        command = importlib.import_module(f"{command.__name__}.__main__")
    importlib.import_module("tfds_dwplus.command_line").run(command.main)


if __name__ == "__main__":
    main()
