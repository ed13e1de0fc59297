"""Others that do the same work, each run as tuned as we know how, and ours in the same run."""
