"""The learner: arenas, scorers, dynamic weights, lists."""
