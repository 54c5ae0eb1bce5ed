"""The dashboards, and what Grafana is provisioned with."""
