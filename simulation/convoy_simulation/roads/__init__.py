"""Roads to drive on: tracks, a camera, an expert, what it records, and closed-loop scores."""
