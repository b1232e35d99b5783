"""How do many variants, steered too, answer the same scenarios?"""
