"""What a relay measures: one set of figures, shown to Prometheus and to OpenTelemetry."""
