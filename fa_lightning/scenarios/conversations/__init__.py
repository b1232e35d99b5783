"""Conversations of one's own, alone or in pairs: read from the rows of a file, whichever tool they were written for."""
