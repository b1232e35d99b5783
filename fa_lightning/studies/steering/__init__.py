"""Does the learned map cure the faker, and what does it damage?"""
