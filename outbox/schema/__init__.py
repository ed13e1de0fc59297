"""The tables: their source, their version, their check and their repair."""
