"""The resident process on a vehicle or a roadside unit."""
