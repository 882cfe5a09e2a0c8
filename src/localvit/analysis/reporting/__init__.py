"""The report of an analysis: figures over seeds, sentences, charts, pictures, and plain data."""
