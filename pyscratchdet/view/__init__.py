"""A net as one page that opens anywhere: its graph, weights, feature maps, priors, and where it drifts or differs.

`layers` says what each layer is, `fields`, `weights`, `features`, `priors`, `drift` and `difference` what else there is
to show of it, `page` puts it together; `page.js` draws it, laid out by dagre (`dagre/`, with its licence).
"""
