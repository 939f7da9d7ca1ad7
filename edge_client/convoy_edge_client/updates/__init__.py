"""Which model a vehicle drives: the states of a release, on disk. No torch, no flwr; Python 3.10."""
