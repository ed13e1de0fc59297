"""The brokers, seen from the relay. One seam: `base.Publisher`."""
