"""Training and evaluation, over any backend. Nothing here imports a framework."""
