"""The showing: the results of a run, its report, the guide, and the tables and live views of the terminal."""
