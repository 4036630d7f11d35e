"""The Lightning task, the optimizers and the callbacks."""
