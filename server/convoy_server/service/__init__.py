"""The cloud service: what runs around the rounds of a real fleet."""
