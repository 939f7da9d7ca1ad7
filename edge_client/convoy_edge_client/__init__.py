"""What runs on a vehicle."""
