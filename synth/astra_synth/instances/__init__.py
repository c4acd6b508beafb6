"""Question-answer instances (METHOD section 2): seeds -> plans -> checked and repaired topologies -> judged quality."""
