"""The Library page: the runs that are here, what is added, recorded, measured and deleted."""
