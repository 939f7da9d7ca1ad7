"""Robust aggregation: a mean that a few hostile items cannot drag away."""
