"""What is asked: scenarios, where they come from, and how they become tokens."""
