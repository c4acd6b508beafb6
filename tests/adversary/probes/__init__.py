"""What hostile tools try, by what it is tried on."""

from adversary.probes import channel, kernel, network, other_sessions, resources, results, server

_TOPICS = (server, other_sessions, network, kernel, resources, channel, results)
PROBES = [probe for topic in _TOPICS for probe in topic.probe.probes]
SHORT = {  # of each topic the widest, and what was once open
    *("its environment variables", "its files", "the service account token", "its memory through proc"),
    *("their files", "names of processes", "a port of the machine", "mounting", "devices"),
    *("notes beside its folder", "memory beyond the limit", "a full disk", "outliving the session"),
    *("an answer to a later call", "patching what encodes results", "not a number"),
}
