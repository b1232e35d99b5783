"""How long does each cure of a faker last while it is attacked?"""
