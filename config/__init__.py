"""Data: settings with their defaults, topics, schemas, the data of the demo."""
