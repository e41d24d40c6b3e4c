"""Text to embeddings: what of an item is embedded, by which model, and what is remembered of it."""
