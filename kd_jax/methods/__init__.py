"""Methods: which terms a loss is the sum of, and the numbers they have."""
