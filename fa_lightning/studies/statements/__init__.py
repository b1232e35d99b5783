"""How safely does a model judge statements about human rights?"""
