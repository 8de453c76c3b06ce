"""Local or cloud: the decision, its threshold, and what its score is worth."""
