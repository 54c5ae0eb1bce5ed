"""Everything that processes tell each other: paths, labels, locks."""
