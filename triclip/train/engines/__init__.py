"""The training engines: the computation of one process of a run, in each framework."""
