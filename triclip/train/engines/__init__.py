"""The training engines: what one process of a run computes, in each framework."""
