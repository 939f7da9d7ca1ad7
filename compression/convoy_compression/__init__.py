"""Smaller updates on the way up, smaller models on the way down."""
