"""All settings of a run: `Config`, its presets, and how it is read from files, from the command line and from JSON.

A config file is a Python file with a function `get_config() -> Config`. `load` reads one, `override` applies
`section.field=value` and `model=PRESET`, `to_dict` and `from_dict` convert a config for JSON. Whoever makes a config, a value that a
field does not take raises a ValueError; a wrong key raises one that names the nearest valid key. `sections` lists the fields.
"""

import dataclasses
import importlib.util
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from specsar_jax.config.learning import BATCH, Loss, Optimizer, Train
from specsar_jax.config.sections import SMALLEST_SIZE_PX, Config, Data, Mesh, Model, Predict
from specsar_jax.config.settings import build, field_types, listing, nearest, parse
from tfds_dwplus.files.strangers import one_line

__all__ = [
    "SMALLEST_SIZE_PX",
    "Config",
    "Data",
    "Loss",
    "Mesh",
    "Model",
    "Optimizer",
    "Predict",
    "Train",
]

PRESETS: dict[str, Model] = {
    "specsar_former": Model(),
    "tiny": Model(widths=(32, 64, 96, 128), blocks=(1, 1, 2, 1), heads=(1, 2, 3, 4), decoder_width=128),
    "spectral_only": Model(branches="spectral"),
    "sar_only": Model(branches="sar"),
    "no_dmem": Model(cross_attention=False),
    "no_mmam": Model(channel_reweighting=False),
    "equal_split": Model(spectral_share=0.5),
    "early_fusion": Model(branches="stacked"),
    "dynamic_world": Model(architecture="dynamic_world", branches="spectral", batch_norm_epsilon=1e-3),
    "dynamic_world_sar": Model(architecture="dynamic_world", batch_norm_epsilon=1e-3),
}
"""The paper's network, a small one for tests and laptops, the ablations of the paper's tables, Dynamic World's network, and that with
Sentinel-1 beside it."""


def model_preset(name: str, **changes: Any) -> Model:
    """Returns the preset `name`, with some fields changed. Raises ValueError for an unknown name."""
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}{nearest(name, PRESETS)}; presets: {', '.join(PRESETS)}")
    return dataclasses.replace(PRESETS[name], **changes)


def load(path: Path) -> Config:
    """Reads the config that `get_config()` of a Python file returns.

    Raises:
        ValueError: no such file, not Python, no `get_config`, or fields of a wrong type.
    """
    if not path.is_file():
        raise ValueError(f"no config file {path}; expected a Python file with get_config(), as in configs/")
    spec = importlib.util.spec_from_file_location("specsar_config", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"config file {path} is not a .py file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except ValueError as error:
        raise ValueError(f"config file {path}: {error}") from None
    except Exception as error:  # the user's file may raise anything; the message names the file and the reason
        raise ValueError(f"config file {path}: {type(error).__name__}: {error}") from None
    if not isinstance(config, Config):
        raise ValueError(f"config file {path}: get_config() returned {type(config).__name__}, expected a Config")
    return from_dict(to_dict(config))


def override(config: Config, assignments: Iterable[str]) -> Config:
    """Applies assignments in order, such as 'optimizer.learning_rate=3e-4' or 'model.widths=(16,32,64,96)'; 'model=tiny'
    replaces the whole section by a preset. `train.steps` takes the place of the config's `train.epochs`.

    Raises:
        ValueError: no such field or preset (the message suggests the nearest one), or a value of the wrong type.
    """
    tree = to_dict(config)
    assignments = list(assignments)
    if any(assignment.startswith("train.steps=") for assignment in assignments):
        tree["train"]["epochs"] = 0
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if equals and key == "model":
            tree["model"] = dataclasses.asdict(model_preset(text))
            continue
        section, dot, field = key.partition(".")
        if not (equals and dot and section and field):
            raise ValueError(f"--config.{one_line(assignment, 80)} is not of the form --config.section.field=value")
        if section not in tree:
            raise ValueError(f"no config section {one_line(repr(section), 80)}{nearest(section, tree)}")
        kinds = field_types(type(getattr(config, section)))
        if field not in kinds:
            raise ValueError(f"no config field {one_line(repr(key), 80)}{_nearest_field(section, field)}")
        tree[section][field] = parse(kinds[field], text, key)
    made = from_dict(tree)
    if made.train.epochs and any(assignment.startswith("train.steps=") for assignment in assignments):
        raise ValueError("train.steps and train.epochs are both given; give one of them")
    return made


def to_dict(config: Config) -> dict[str, dict[str, Any]]:
    """Returns the config as nested dictionaries, ready for JSON."""
    return dataclasses.asdict(config)


def from_dict(tree: Any, *, checked: bool = True) -> Config:
    """Builds a config from nested dictionaries; fields that are not given keep their defaults.

    Args:
        tree: fields by section.
        checked: False takes values outside their ranges, which runs and bundles of older versions may hold: it is what the network
            was trained with. `check_usable` checks what its use depends on.

    Raises:
        ValueError: unknown keys, values of the wrong type, or outside their ranges.
    """
    return build(Config, tree, checked=checked)


def check_usable(config: Config) -> None:
    """Raises a ValueError unless a network of this config, which was not checked when it was made, can be used in bounded memory.

    What only training reads is left as it is.
    """
    config.model.check(but=("drop_path", "dropout"))
    config.data.check()
    config.predict.check()
    config.mesh.check()
    if config.train.eval_batch_size not in BATCH:
        raise ValueError(f"config field train.eval_batch_size is {config.train.eval_batch_size}, expected {BATCH}")
    for field, value in vars(config.loss).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"config field loss.{field} is {value}, expected a finite number")
    config.__post_init__()


def check_bounded(config: Config) -> None:
    """Raises a ValueError unless the network of a config, which was not checked when it was made, has sizes that memory can hold."""
    config.model.check(but=("drop_path", "dropout", "layer_norm_epsilon"))


def check_alpha(config: Loss, classes: int) -> None:
    """Raises a ValueError unless `loss.alpha` is empty, or has a weight for each of the classes."""
    if config.alpha and len(config.alpha) != classes:
        raise ValueError(
            f"config field loss.alpha has {len(config.alpha)} weights, expected one for each of the {classes} classes of the data set, or "
            "none, (), for weights from their pixels"
        )


def help_text() -> str:
    """Returns a table of all settings with default, meaning and range, for --help."""
    return (
        "settings, each as --config.SECTION.FIELD=VALUE; defaults, which the config file may change, and [what is taken]:\n\n"
        + listing(Config())
    )


def differences(first: Config, second: Config) -> list[str]:
    """Returns the fields in which two configs differ, each as 'section.field: first, second'."""
    a, b = (json.loads(json.dumps(to_dict(config))) for config in (first, second))
    return [
        f"{section}.{field}: {a[section][field]!r}, {b[section][field]!r}"
        for section in a
        for field in a[section]
        if a[section][field] != b[section][field]
    ]


def _nearest_field(section: str, field: str) -> str:
    """Returns the nearest field of the section, or else the same one of another section."""
    for name, kind in field_types(Config).items():
        if name != section and field in field_types(kind):
            return f"; did you mean '{name}.{field}'?"
    return nearest(field, field_types(field_types(Config)[section]))
