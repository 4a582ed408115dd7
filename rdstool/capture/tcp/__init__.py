"""TCP segments to RDS messages, as a real receiver would take them."""
