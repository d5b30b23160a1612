"""Generation: plan, caption, synthesize, label, screen, pack; then the Ray wiring."""
