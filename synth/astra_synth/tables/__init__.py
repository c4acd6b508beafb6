"""Tables to arenas: a pack describes tables, shards cut them, toolsets serve them, plans ask about them.

from astra_synth.tables import generate
for environment in generate("geography", count=100, seed=7, min_hops=1, max_hops=3): ...
"""

from astra_synth.tables.generate import Generator, Made, Recipe
from astra_synth.tables.pack import Pack, PackError
from astra_synth.tables.source import generate, open_tables
from astra_synth.tables.toolset import ToolsetShape

__all__ = ["Generator", "Made", "Pack", "PackError", "Recipe", "ToolsetShape", "generate", "open_tables"]
