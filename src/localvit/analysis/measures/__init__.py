"""The measures: functions of a model and images, whose docstrings say what they mean and who proposed them."""
