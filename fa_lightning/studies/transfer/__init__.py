"""Does a cure help a faker that it has never seen?"""
