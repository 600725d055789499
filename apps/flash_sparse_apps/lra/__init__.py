"""Long Range Arena: its tasks, its table, and what others published."""
