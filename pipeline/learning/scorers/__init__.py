"""One scorer a file, all behind `pipeline.learning.scorer.Scorer`."""
