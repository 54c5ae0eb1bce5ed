"""How good a model is, where it errs, and what it cannot do."""
