"""Kafka and Redis as child processes on loopback. Imports nothing of ours but the errors."""
