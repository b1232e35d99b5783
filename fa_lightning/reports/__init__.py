"""What came of it: results.json and report.html."""
