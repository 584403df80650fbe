"""Chains of conversions keep the function: random models, random formats, equal outputs at the end.

`models` draws configs and weights over all that v4.37 allows, `reference` computes them in float64, `walk` converts
them from format to format; `worker` runs inside another library's environment, and `__main__` makes the recorded run.
"""
