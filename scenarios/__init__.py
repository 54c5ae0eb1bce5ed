"""Stories told to a running appliance."""
