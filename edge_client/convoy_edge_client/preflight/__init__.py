"""What a vehicle makes sure of before it trusts a release."""
