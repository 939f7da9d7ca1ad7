"""Signed releases: what the server's repository and a vehicle's updater must agree on."""
