"""The service in this process, with a model that does exactly what a test says."""
