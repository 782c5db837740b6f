"""What a store costs: its processes for the measurement, and the figures."""
