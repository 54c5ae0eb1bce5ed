"""The library of the appliance: the table, models, evaluation, drift and the state; no process, no server."""
