"""The edge to Kafka: topics, producer, reader, access, health. Knows aiokafka, not the worker."""
