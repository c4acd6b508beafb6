"""The trusted side: it owns sessions, deadlines and outcomes, and believes nothing that a session says."""
