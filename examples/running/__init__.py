"""Starts both examples with everything they need, and watches over them: `examples/run`."""
