"""Stories that `make simulate` plays to a running appliance, over HTTP."""
