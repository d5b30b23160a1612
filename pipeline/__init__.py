"""Generation: ``make`` one unit, below the ``loop`` that chooses units, below its wiring on Ray."""
