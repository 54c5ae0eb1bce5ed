"""What prepares, starts and stops the appliance."""
