"""Epochs: what one does, its manifest and digests, snapshots, recovery."""
