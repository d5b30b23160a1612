"""Published data sets as they lie on disk: one module a layout, all of one small protocol."""
