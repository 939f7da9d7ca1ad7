"""Driving: frames in, steering out, and a model that is exchanged under way. No torch, no flwr."""
