"""Where it runs: Kafka, Redis, the clock, the command line, the web. Nothing is decided here."""
