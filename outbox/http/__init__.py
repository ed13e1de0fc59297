"""The relay's own HTTP endpoints: whether it lives, how it is, and its metrics."""
