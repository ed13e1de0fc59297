"""The log on PostgreSQL 13 and later: snapshots are cursors."""
