"""One run, from its data to its report: training, checkpoints, pretraining."""
