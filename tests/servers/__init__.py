"""Real PostgreSQL and Kafka for the tests, from whatever the machine offers."""
