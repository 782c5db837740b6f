"""The checks, one module each; each has ``check(subject)``, which gives an outcome."""
