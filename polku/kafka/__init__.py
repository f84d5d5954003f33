"""What KafkaEmitter and KafkaSource share. Importing it loads no client: that happens when one starts."""
