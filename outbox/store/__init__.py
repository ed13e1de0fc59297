"""The log, seen from the relay: leases, plans, pages and cursors. One seam, two databases."""
