"""What runs: the loop, the embedder, the metrics page, the command line."""
