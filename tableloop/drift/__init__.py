"""Whether new rows differ from those a model was made from."""
