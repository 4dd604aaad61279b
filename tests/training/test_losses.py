"""Losses against hand values and against optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from specsar_jax.config import Loss
from specsar_jax.training import losses

LABEL = jnp.array([[0, 3, 255], [8, 255, 1]], jnp.uint8)
LOGITS = jax.random.normal(jax.random.key(0), (2, 3, 9))
ONES = (1.0,) * 9


def test_cross_entropy_equals_optax():
    labelled = LABEL != 255
    expected = optax.softmax_cross_entropy_with_integer_labels(LOGITS, jnp.where(labelled, LABEL, 0).astype(int))
    given = losses.pixel_loss(LOGITS, LABEL, ONES, config=Loss(name="cross_entropy"))
    np.testing.assert_allclose(given, expected[labelled].mean(), rtol=1e-6)


def test_focal_by_hand():
    # Two classes of logits 0 and log 3 among seven of weight nearly nothing: p = 3/4.
    logits = jnp.array([0.0, np.log(3.0)] + [-100.0] * 7)[None]
    given = losses.pixel_loss(logits, jnp.array([1]), (1.0, 2.0) + (1.0,) * 7, config=Loss(gamma=2.0))
    np.testing.assert_allclose(given, -2.0 * 0.25**2 * np.log(0.75), rtol=1e-5)


def test_focal_with_gamma_0_is_cross_entropy_and_ignored_pixels_have_no_gradient():
    focal, plain = (
        jax.grad(lambda logits, c=config: losses.pixel_loss(logits, LABEL, ONES, config=c))(LOGITS)
        for config in (Loss(gamma=0.0), Loss(name="cross_entropy"))
    )
    np.testing.assert_allclose(focal, plain, rtol=1e-5)
    assert not plain[LABEL == 255].any() and plain[LABEL != 255].all()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_certain_pixels_and_empty_tiles_stay_finite(gamma):
    logits = jnp.zeros((1, 9)).at[0, 0].set(200.0)
    for label in (0, 1, 255):
        value, gradient = jax.value_and_grad(
            lambda x, label=label: losses.pixel_loss(x, jnp.array([label]), ONES, config=Loss(gamma=gamma))
        )(logits)
        assert np.isfinite(value) and np.isfinite(gradient).all()


def test_alpha_balances_and_averages_to_one():
    counts = (100, 300, 0, 0, 0, 0, 0, 0, 600)
    alpha = np.array(losses.class_alpha(counts, Loss(alpha_power=1.0)))
    np.testing.assert_allclose((alpha * counts)[[0, 1, 8]], 1000 / 3)  # each class counts the same in sum
    assert losses.class_alpha(counts, Loss(alpha_power=0.0)) == (1.0, 1.0) + (0.0,) * 6 + (1.0,)
    with pytest.raises(ValueError, match="no labelled pixel"):
        losses.class_alpha((0,) * 9, Loss())


def test_given_alpha_is_taken_as_it_is():
    assert losses.class_alpha((5,) * 9, Loss(alpha=(2.0,) * 9)) == (2.0,) * 9
    with pytest.raises(ValueError, match="has 2 weights, expected one for each of the 9 classes of the data set"):
        losses.class_alpha((5,) * 9, Loss(alpha=(2.0, 1.0)))


def test_smoothing_goes_by_annotator_and_equals_optax():
    """The first tile is an expert's."""
    config = Loss(name="cross_entropy", smoothing_expert=0.2, smoothing_non_expert=0.3)
    given = losses.pixel_loss(LOGITS, LABEL, ONES, config=config, expert=jnp.array([True, False]))
    labelled = LABEL != 255
    targets = jax.nn.one_hot(jnp.where(labelled, LABEL, 0), 9)
    shares = jnp.array([0.2, 0.3])[:, None, None]
    expected = optax.softmax_cross_entropy(LOGITS, targets * (1 - shares) + shares / 9)
    np.testing.assert_allclose(given, expected[labelled].mean(), rtol=1e-6)


def test_smoothed_focal_is_the_sum_over_classes():
    config, label = Loss(gamma=1.5, smoothing_expert=0.1), jnp.array([[3]])
    alpha, logits = tuple(np.linspace(0.5, 2.0, 9)), LOGITS[:1, :1]
    log_p = jax.nn.log_softmax(logits[0, 0])
    target = 0.9 * (np.arange(9) == 3) + 0.1 / 9
    expected = -(target * np.array(alpha) * (1 - np.exp(log_p)) ** 1.5 * log_p).sum()
    np.testing.assert_allclose(losses.pixel_loss(logits, label, alpha, config=config), expected, rtol=1e-5)


def test_sharper_shares_by_hand():
    log_p = jnp.log(jnp.array([[0.5, 0.3, 0.2] + [1e-30] * 6]))
    label = jnp.array([0], jnp.uint8)
    for scale in (1.0, 255.0):
        shares = scale * jnp.array([[0.6, 0.4] + [0.0] * 7])
        for power, expected in ((1.0, (0.6, 0.4)), (2.0, (0.36 / 0.52, 0.16 / 0.52))):
            given = losses.pixel_loss(log_p, label, ONES, config=Loss(name="soft", sharpness=power), probability=shares)
            np.testing.assert_allclose(given, -(expected[0] * np.log(0.5) + expected[1] * np.log(0.3)), rtol=1e-5)
    given = losses.pixel_loss(
        log_p, label, ONES, config=Loss(name="soft", sharpness=100.0), probability=jnp.full((1, 9), 0.01)
    )
    assert np.isfinite(given)


def test_a_teacher_may_see_classes_without_a_label():
    counts = (100, 300, 0, 0, 0, 0, 0, 0, 600)
    taught = losses.class_alpha(counts, Loss(alpha_power=0.5), taught=True)
    assert taught[:2] == losses.class_alpha(counts, Loss(alpha_power=0.5))[:2] and taught[2:8] == (1.0,) * 6
    assert losses.class_alpha((0,) * 9, Loss(), taught=True) == (1.0,) * 9
