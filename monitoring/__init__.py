"""What watches the running appliance: health, crash budget, Prometheus and Grafana."""
