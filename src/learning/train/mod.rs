//! The training run: targets, steps, epochs, checkpoints.
