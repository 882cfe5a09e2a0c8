"""Read the runs of a study: statistics, tables, charts, and a report in several formats."""
