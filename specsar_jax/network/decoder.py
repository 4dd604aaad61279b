"""All-MLP decoder: maps of the four stages in, logits at a quarter of the resolution out.

Enters: a map [batch, row, column, channel] of each stage, the first at a quarter of the tile's resolution. Leaves:
float32 logits [batch, row, column, class] of the first map's size. Source: SegFormer (Xie et al. 2021).
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array

from specsar_jax.config import Model
from specsar_jax.network import layers, resizing


class Decoder(nn.Module):
    """Projects each stage, resizes it to H/4, joins the stages and classifies each pixel.

    No non-linearity stands between a stage's projection and the joining Dense, and resizing is linear per channel. So
    the two matrices are multiplied first, and only one product per stage runs, at that stage's own resolution:

        concat_i(up(F_i W_i + b_i)) W = sum_i up(F_i (W_i V_i) + b_i V_i),   W = [V_1; V_2; V_3; V_4]

    Parameters, outputs and gradients are those of the left side (`tests/network/test_model.py` checks it).
    """

    config: Model
    train: bool
    fixed_norm: bool = False
    """Whether BatchNorm uses its running moments in training too."""

    @nn.compact
    def __call__(self, features: tuple[Array, ...]) -> Array:
        config, compute = self.config, features[0].dtype
        width, zeros = config.decoder_width, nn.initializers.zeros  # `model.init_params` draws the values
        kernels, bias = [], 0.0
        for stage, feature in enumerate(features, start=1):
            join = self.param(f"join{stage}_kernel", zeros, (width, width))
            project = self.param(f"project{stage}_kernel", zeros, (feature.shape[-1], width))
            project_bias = self.param(f"project{stage}_bias", zeros, (width,))
            # Full precision, because products of weights are cheap and their result is rounded once more.
            kernels.append(jnp.matmul(project, join, precision="highest"))
            bias += jnp.matmul(project_bias, join, precision="highest")
        norm = BatchNorm(config, self.train and not self.fixed_norm, name="norm")
        classify = self.param("classify_kernel", zeros, (width, config.classes))
        classify_bias = self.param("classify_bias", zeros, (config.classes,))

        if not self.train:
            # BatchNorm's factor and offset do not depend on the batch: they go into the weights, in float32.
            factor, offset = norm(None)
            first, *others = ((kernel * factor).astype(compute) for kernel in kernels)
            maps = tuple(feature @ kernel for feature, kernel in zip(features[1:], others, strict=True))
            logits = resizing.join_and_classify(
                features[0], first, maps, bias * factor + offset, classify.astype(compute)
            )
            return logits + classify_bias
        size = features[0].shape[1:3]
        maps = tuple(layers.dense(feature, kernel) for feature, kernel in zip(features[1:], kernels[1:], strict=True))
        joined = layers.dense(features[0], kernels[0], bias) + resizing.sum_resized(maps, size)
        factor, offset = norm(joined)
        hidden = nn.relu(layers.scale_and_shift(joined, factor, offset))
        hidden = nn.Dropout(config.dropout, deterministic=False)(hidden)
        return layers.dense(hidden, classify, classify_bias, jnp.promote_types(compute, jnp.float32))


class BatchNorm(nn.Module):
    """BatchNorm as a factor and an offset for each channel, float32.

    In training they come from the moments of the batch, which also update the running moments. Otherwise they come from
    the running moments, so the input is not needed.
    """

    config: Model
    train: bool

    @nn.compact
    def __call__(self, x: Array | None) -> tuple[Array, Array]:
        shape = (self.config.decoder_width,)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape)
        if self.train:
            pixels = tuple(range(x.ndim - 1))
            wide = x.astype(scale.dtype)
            mean = wide.mean(axis=pixels)
            # Sums of x and of its square, so that the network's largest map is read once.
            var = jnp.maximum(jnp.square(wide).mean(axis=pixels) - jnp.square(mean), 0.0)
            running_mean.value = 0.9 * running_mean.value + 0.1 * mean
            running_var.value = 0.9 * running_var.value + 0.1 * var
        else:
            mean, var = running_mean.value, running_var.value
        factor = scale * jax.lax.rsqrt(var + self.config.batch_norm_epsilon)
        return factor, bias - mean * factor
