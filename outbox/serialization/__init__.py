"""From payloads to bytes."""
