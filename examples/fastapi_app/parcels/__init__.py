"""A service that books parcels and prints their labels."""
