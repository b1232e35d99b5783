"""What is found out: a folder for each question asked of a base."""
