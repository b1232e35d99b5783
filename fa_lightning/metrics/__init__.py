"""How a score is computed: pure functions and metrics that know no model."""
