"""From the global model to the file a vehicle drives with: build, measure, accept or refuse."""
