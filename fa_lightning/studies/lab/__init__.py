"""Which map, at which layer and dose, steers best at equal damage?"""
