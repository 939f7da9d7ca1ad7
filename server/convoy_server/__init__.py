"""What runs in the cloud."""
