"""The scales that every study can be run at: data, model and recipe of the baseline, a file each."""
