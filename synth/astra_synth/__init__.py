"""Makes environments: from tables, and from what a teacher model writes."""
