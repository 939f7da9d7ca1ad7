"""`convoy doctor`: what is wrong with this device, one line a finding, with the way out."""
