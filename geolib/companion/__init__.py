"""The companion: data, models, training, provenance and plots that make the papers' figures with the core."""
