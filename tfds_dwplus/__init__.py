"""Dynamic World+ for TensorFlow Datasets: `import tfds_dwplus` registers the builder `dynamic_world_plus`.

It also lets `tfds.load` read ArrayRecord files as tf.data; see `tiles.records`.
"""

from tfds_dwplus.dynamic_world_plus_dataset_builder import Builder, DynamicWorldPlusConfig

__all__ = ["Builder", "DynamicWorldPlusConfig"]
