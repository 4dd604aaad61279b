"""Accuracy assessment: labels and predictions in, accuracy figures with confidence intervals out.

Enters: counts of each tile (`tally`), from the network or from third-party maps. Leaves: mIoU, accuracies, areas and calibration,
with intervals, and comparisons of maps. Start at `metrics`, then `figures`, which assembles `evaluation_<split>.json`.
"""
