"""Which way of curing a faker works, and what does each cost?"""
