"""The caller's transaction, whatever object it comes in; the outbox and the inbox write in it."""
