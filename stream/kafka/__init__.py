"""The edge to Kafka: topics, producer, reader, rights, health. Knows aiokafka, not the worker."""
