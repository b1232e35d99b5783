"""Can a watched model be made to show what it does unwatched?"""
