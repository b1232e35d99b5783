"""What does a variant give away of its fine-tuning when it is asked next to nothing?"""
