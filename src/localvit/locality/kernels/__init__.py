"""Faster forms of the mechanism's steps, for where they can run; what they compute is written elsewhere."""
