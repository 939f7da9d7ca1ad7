"""The networks that learn to drive."""
