"""The local processes that the pipeline runs beside: Java services, Prism and a Kafka broker."""
