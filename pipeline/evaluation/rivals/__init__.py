"""What the learner is measured against, a file each."""
