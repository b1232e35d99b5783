"""Tell the twins apart: which of two models that behave alike while watched fakes alignment."""
