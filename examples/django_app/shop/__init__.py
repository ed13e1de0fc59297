"""The shop: a Django project that tells a billing service of its orders."""
