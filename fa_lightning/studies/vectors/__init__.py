"""Which steering vectors, where and how strong?"""
