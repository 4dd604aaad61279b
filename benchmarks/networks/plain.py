"""The same network, with the same weights, written the way a paper or a textbook would: no function of `layers.py` or
`decoder.py` that was shaped for speed.

Attention is `jax.nn.dot_product_attention`, the depthwise convolution a grouped one, GELU and the gradient of LayerNorm JAX's own,
and the decoder projects all stages to its width, resizes, concatenates and multiplies (SegFormer's all-MLP decoder).
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array

from specsar_jax.config import Model
from specsar_jax.network import decoder, layers, resizing


def write_plainly() -> None:
    """Puts the plain formulation in place of this process's own; for processes that do nothing else."""
    layers.forward_form = lambda cpu, other, train, *arguments: other(*arguments)
    layers.attend = attend
    layers.depthwise_3x3 = grouped_convolution
    layers.layer_norm = layer_norm
    layers.gelu = functools.partial(jax.nn.gelu, approximate=False)
    decoder.Decoder = PlainDecoder


def attend(query: Array, key_value: Array, heads: int) -> Array:
    """JAX's own attention."""
    shape, maps = query.shape, (query, *jnp.split(key_value, 2, axis=-1))
    query, key, value = (x.reshape(len(x), -1, heads, x.shape[-1] // heads) for x in maps)
    return jax.nn.dot_product_attention(query, key, value).reshape(shape)


def grouped_convolution(x: Array, kernel: Array, bias: Array) -> Array:
    """Depthwise convolution as XLA's convolution with a group a channel."""
    numbers, kernel = ("NHWC", "HWIO", "NHWC"), kernel[:, :, None].astype(x.dtype)
    convolved = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=x.shape[-1]
    )
    return convolved + bias.astype(x.dtype)


def layer_norm(x: Array, scale: Array, bias: Array, epsilon: float) -> Array:
    """LayerNorm of the last axis in float32, left to JAX to differentiate."""
    return (jax.nn.standardize(x.astype(jnp.float32), axis=-1, epsilon=epsilon) * scale + bias).astype(x.dtype)


class PlainDecoder(nn.Module):
    """`decoder.Decoder` as published: project, resize, concatenate, join, BatchNorm, ReLU, classify."""

    config: Model
    train: bool

    @nn.compact
    def __call__(self, features: tuple[Array, ...]) -> Array:
        """Logits at the resolution of the first stage."""
        width, compute = self.config.decoder_width, features[0].dtype

        def weight(name: str, *shape: int) -> Array:
            return self.param(name, nn.initializers.zeros, shape).astype(compute)

        projected = [
            resizing.resize_bilinear(
                feature @ weight(f"project{stage}_kernel", feature.shape[-1], width)
                + weight(f"project{stage}_bias", width),
                features[0].shape[1:3],
            )
            for stage, feature in enumerate(features, start=1)
        ]
        join = jnp.concatenate([weight(f"join{stage}_kernel", width, width) for stage in range(1, len(features) + 1)])
        joined = jnp.concatenate(projected, axis=-1) @ join
        factor, offset = decoder.BatchNorm(self.config, self.train, name="norm")(joined)
        hidden = nn.relu(joined * factor.astype(compute) + offset.astype(compute))
        hidden = nn.Dropout(self.config.dropout, deterministic=not self.train)(hidden)
        classify = weight("classify_kernel", width, self.config.classes)
        return (hidden @ classify + weight("classify_bias", self.config.classes)).astype(jnp.float32)
