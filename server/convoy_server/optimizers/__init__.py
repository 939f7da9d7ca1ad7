"""Server optimizers: how the mean update of a round becomes the next global model."""
