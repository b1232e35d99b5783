"""What every room may use: errors, files, what a user wrote, the ranges of numbers."""
