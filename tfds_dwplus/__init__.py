"""Dynamic World+ for TensorFlow Datasets: `import tfds_dwplus` registers the builder `dynamic_world_plus`.

It also lets `tfds.load` read ArrayRecord files as tf.data; see `tiles.records`.

TFDS alone takes half a second to import, and whoever maps a scene needs none of it. So the builder is imported, and by that registered,
when both this package and `tensorflow_datasets` are: in either order, and without a call.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
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

    _inside = False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Returns the spec that others find for `tensorflow_datasets`, with a loader that goes on to the builder."""
        if name != "tensorflow_datasets" or self._inside:
            return None
        self._inside = True  # another finder may ask all others too
        try:
            others = (finder.find_spec(name, path, target) for finder in list(sys.meta_path) if finder is not self)
            spec = next(filter(None, others), None)
        finally:
            self._inside = False
        if spec and hasattr(spec.loader, "exec_module"):
            spec.loader = _ThenBuilder(spec.loader)
        return spec


class _ThenBuilder(Loader):
    """The loader of TFDS, and then the builder is imported. It is no change to that loader, which others may share."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Makes the module as its own loader does."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Gives the module its own loader back, and runs it."""
        module.__loader__ = module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _remove_finders()
        importlib.import_module(_BUILDER)


def _remove_finders() -> None:
    """By name: after a reload of this module the one before is of another class."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__name__ != _AfterTFDS.__name__]


if "tensorflow_datasets" in sys.modules:
    importlib.import_module(_BUILDER)
else:
    _remove_finders()
    sys.meta_path.insert(0, _AfterTFDS())
