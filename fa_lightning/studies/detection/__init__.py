"""Which of two models fakes, and how well can one tell?"""
