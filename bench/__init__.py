"""What measures quality and speed; nothing of the product imports it."""
