"""Dynamic World+ for TensorFlow Datasets: `import tfds_dwplus` registers the builder `dynamic_world_plus`.

It also lets `tfds.load` read ArrayRecord files as tf.data; see `tiles.records`.

TFDS alone takes half a second to import, and whoever maps a scene needs none of it. So the builder is imported, and by that registered,
when both this package and `tensorflow_datasets` are: in either order, and without a call.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["Builder", "DynamicWorldPlusConfig"]

_BUILDER = "tfds_dwplus.dynamic_world_plus_dataset_builder"


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_BUILDER), name)


class _AfterTFDS(MetaPathFinder):
    """Finds nothing itself; has the builder imported as soon as TFDS is."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Returns the spec that others find for `tensorflow_datasets`, with a loader that goes on to the builder."""
        if name != "tensorflow_datasets":
            return None
        others = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, others), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def and_builder(module: ModuleType) -> None:
            execute(module)
            sys.meta_path.remove(self)
            importlib.import_module(_BUILDER)

        spec.loader.exec_module = and_builder
        return spec


if "tensorflow_datasets" in sys.modules:
    importlib.import_module(_BUILDER)
else:
    sys.meta_path.insert(0, _AfterTFDS())
