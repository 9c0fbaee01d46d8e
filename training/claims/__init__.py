"""Claims of papers that we test at small scale: one file per claim, results beside them as JSON."""
