"""Signed releases, the vehicle's side. No torch, no flwr; Python 3.10 runs it."""
