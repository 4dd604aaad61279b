"""Training: the loop, and what a step of it needs.

Enters: a config and a workdir. Leaves: checkpoints, the run log and the figures of the test split. Start at `loop`, which reads as a
list of what happens in a run; `train_state` has the step as a pure function.
"""
