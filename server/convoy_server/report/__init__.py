"""What a run leaves for people and for machines: report.json and report.html."""
