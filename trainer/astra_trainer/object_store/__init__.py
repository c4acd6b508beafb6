"""Snapshots in object storage (`spec.checkpoint.objectStore`): copied beside training by a process of its own."""
