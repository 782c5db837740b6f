"""The experiments of a run; ``compare.measuring.experiments.schedule`` lists them with their expected times."""
