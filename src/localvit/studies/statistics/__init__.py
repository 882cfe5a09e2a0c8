"""Statistics of a study: contrasts of variants, looks at growing numbers of seeds, verdicts, and power."""
