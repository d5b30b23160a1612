"""Generation, in the order the data flows: plan, caption, synthesize, label, screen, pack."""
