"""Releases between a server and vehicles in one process: attacks, faults and drills."""
