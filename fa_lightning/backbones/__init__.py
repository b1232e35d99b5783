"""Who is asked: the frozen base model and its adapters."""
