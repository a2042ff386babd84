"""Training page: curves and alarms of runs, loads of experts, checkpoints of a run."""
