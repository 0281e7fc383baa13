"""Numbers from arrays: error rates, accuracies, probes, intervals."""
