"""What a finished run left: its lines of metrics, its losses, its weights."""

import json

import jax
import numpy as np

from specsar_jax.trained import loading


def journal(workdir) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def losses(workdir) -> list[float]:
    return [line["loss"] for line in journal(workdir) if line["kind"] == "train"]


def weights(workdir) -> list[np.ndarray]:
    return jax.tree.leaves(loading.load_trained(workdir, "latest").variables)
