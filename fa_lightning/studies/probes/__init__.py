"""What can be read from a model's states?"""
