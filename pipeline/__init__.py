"""The training pipeline: raw data to a registered model."""
