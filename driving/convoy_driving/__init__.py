"""What is learned: recordings, samples, models, training and evaluation."""
