"""Train the runs of a study: what they cost, where they are trained, and what to do when one fails."""
