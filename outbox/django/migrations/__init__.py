"""Django migrations; each applies steps of the SQL in the top-level `migrations/`."""
