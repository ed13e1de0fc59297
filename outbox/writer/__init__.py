"""The writing side: messages go into the log in the caller's own transaction."""
