"""What travels between machines: messages, their framing, and the settings that shape a run."""
