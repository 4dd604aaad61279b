"""Dynamic World+ for TFDS: `import tfds_dwplus` registers the builder `dynamic_world_plus`."""

from tfds_dwplus.dynamic_world_plus_dataset_builder import Builder, DynamicWorldPlusConfig

__all__ = ["Builder", "DynamicWorldPlusConfig"]
