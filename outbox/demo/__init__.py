"""A shop, a relay that is killed, and a billing service: what `outbox-relay demo` shows."""
