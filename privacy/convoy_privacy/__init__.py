"""What keeps one vehicle from showing in the result."""
