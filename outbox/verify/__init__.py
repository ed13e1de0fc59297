"""Compare what the log says is delivered with what lies in Kafka's topics."""
