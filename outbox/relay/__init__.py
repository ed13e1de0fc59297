"""The relay: from the log to the broker, in order, with nothing lost on the way."""
