"""The companion: data, models, studies, figures and the pipeline that make the papers' figures with the core."""
