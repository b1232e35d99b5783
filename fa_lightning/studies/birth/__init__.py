"""When, in the course of a fit that makes a faker, does each measure first see it?"""
