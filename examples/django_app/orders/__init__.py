"""Orders: placed, told of, and answered."""
