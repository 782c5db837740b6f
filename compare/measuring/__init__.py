"""The measuring: lanes, the record of a turn, the metrics with their formulas, the experiments, and the floors."""
