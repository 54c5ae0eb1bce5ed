"""Everything that processes tell each other: the store, batches of labels, paths and locks."""
