"""Filters a series of class probabilities or classes in time, pixel by pixel. Pure functions of numpy.

Enters: for each period the class probabilities as uint8 in steps of `final_files.SCALE`, 255 where a pixel was not observed; or its
classes. Leaves: the probabilities of the land in each period, the class of a year, and the period of the last change.

The hidden Markov model. Its states are the classes of the land; in a period, the state stays or changes by a transition matrix. What is
seen is the state, or a cover that comes and goes over it and says nothing of it: snow. So of a pixel x with the network's probability p(k),

    P(x | land j) ~ (1 - c) p(j) + c p(snow)          P(x | snow that stays) ~ p(snow)

with c = `COVERED`, and 1 for all where nothing was observed. A month of snow then counts c to 1 against any land, and all lands alike:
forest stays forest through the winter, as a month of it counts more; and ground that is snow in all months is snow.

p(k) is not divided by the shares of the classes in training, as Bayes' rule would have it for a network whose loss weighs all pixels
alike: ours weighs classes (`loss.alpha`), so that shares of pixels are not the prior of its probabilities, and a rare class would be
raised by the same wrong factor in every month. Errors of a network in two months are taken as independent, which they are not quite:
what it mistakes in all months stays mistaken.

Source: forward-backward with scaled steps, Rabiner 1989, A Tutorial on Hidden Markov Models, sections III.A, III.B and V.A.
"""

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from specsar_jax.maps.final_files import SCALE
from tfds_dwplus import bands

COVERED = 0.5
"""Share of the periods in which land may be under the cover. A month of snow is then 2 to 1 for ground that is snow all year, five are 32
to 1, and a month that is land for sure, 0.9 to 0.01, is 45 to 1 against it; at 0.25 four months of winter would outweigh that one."""

FLOOR = 0.01
"""Least probability of a class, so that no month counts more than a hundred to one: without, one could forbid a class for all years."""

ROUND = 9
"""Decimals to which sums of probabilities are compared, so that ties do not depend on the order of a sum."""


def emissions(
    share: UInt8[np.ndarray, "period class pixel"], cover: int | None
) -> Float[np.ndarray, "period class pixel"]:
    """Returns the likelihood of what was seen for each state, up to a factor; 1 where nothing was observed.

    Args:
        share: class probabilities.
        cover: class that comes and goes over the land; None if there is none.
    """
    probability = np.maximum(share * SCALE, FLOOR)
    likelihood = probability
    if cover is not None:
        likelihood = (1 - COVERED) * probability + COVERED * probability[:, cover, None]
        likelihood[:, cover] = probability[:, cover]
    return np.where(observed(share)[:, None], likelihood, 1.0)


def observed(share: UInt8[np.ndarray, "period class pixel"]) -> Bool[np.ndarray, "period pixel"]:
    """Returns where a pixel was observed."""
    return share[:, 0] != bands.IGNORE


def smoothed(
    likelihood: Float[np.ndarray, "period class pixel"], transitions: Float[np.ndarray, "class class"]
) -> Float[np.ndarray, "period class pixel"]:
    """Returns the probability of each state in each period, given all periods. Before the first one all states are as probable.

    Args:
        likelihood: of `emissions`, above 0.
        transitions: probability of a state in the next period (column) after a state (row); rows add up to 1.
    """
    forward = np.empty_like(likelihood)
    state = np.full(likelihood.shape[1:], 1 / likelihood.shape[1])
    for place, seen in enumerate(likelihood):
        state = _scaled((transitions.T @ state if place else state) * seen)
        forward[place] = state
    later = np.ones_like(state)
    for place in range(len(likelihood) - 1, -1, -1):
        forward[place] = _scaled(forward[place] * later)
        later = _scaled(transitions @ (likelihood[place] * later))
    return forward


def yearly(
    state: Float[np.ndarray, "period class pixel"], seen: Bool[np.ndarray, "period pixel"]
) -> UInt8[np.ndarray, " pixel"]:
    """Returns the class that the most periods of a year are expected to have; 255 where none was observed. Ties: the lower class."""
    class_id = np.round(state.sum(axis=0), ROUND).argmax(axis=0)
    return np.where(seen.any(axis=0), class_id, bands.IGNORE).astype(np.uint8)


def last_change(state: Float[np.ndarray, "period class pixel"]) -> Int[np.ndarray, " pixel"]:
    """Returns the last period whose most probable state is not that of the period before; 0 if all are the same."""
    class_id = np.round(state, ROUND).argmax(axis=1)
    changed = np.zeros(class_id.shape, bool)
    changed[1:] = class_id[1:] != class_id[:-1]
    return np.where(changed.any(axis=0), len(changed) - 1 - changed[::-1].argmax(axis=0), 0)


def mode(class_id: UInt8[np.ndarray, "period pixel"], classes: int) -> UInt8[np.ndarray, " pixel"]:
    """Returns the most frequent class of the periods that have one; 255 where none has. Ties: the one that was seen last."""
    count = np.zeros((classes, class_id.shape[1]), np.int64)
    last = np.zeros_like(count)
    for place, ids in enumerate(class_id, 1):
        (pixel,) = np.nonzero(ids != bands.IGNORE)
        count[ids[pixel], pixel] += 1
        last[ids[pixel], pixel] = place
    most = (count * (len(class_id) + 1) + last).argmax(axis=0)
    return np.where(count.any(axis=0), most, bands.IGNORE).astype(np.uint8)


def _scaled(state: Float[np.ndarray, "class pixel"]) -> Float[np.ndarray, "class pixel"]:
    return state / state.sum(axis=0)
