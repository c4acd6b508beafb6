"""Every object that the operator makes, as pure functions of a resource and the operator's settings."""
