"""Describe a table: from a file as people have it to a directory with `table.yaml`, the data and `params.yaml`."""
