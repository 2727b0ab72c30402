"""Studies: equal trainings that differ in one thing, and a table of their AP."""
